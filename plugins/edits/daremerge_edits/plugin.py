"""What this distribution gives daremerge."""

from daremerge_core import hookimpl

from .clamp import Clamp
from .noise import Noise
from .normalize import Normalize
from .rescale import Rescale


@hookimpl
def daremerge_components():
    return [Normalize, Noise, Clamp, Rescale]
