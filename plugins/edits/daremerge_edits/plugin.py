"""What this distribution gives daremerge."""

from daremerge_core import ModelEdit, hookimpl

from .clamp import Clamp
from .noise import Noise
from .normalize import Normalize
from .rescale import Rescale


@hookimpl
def daremerge_components() -> list[type[ModelEdit]]:
    return [Normalize, Noise, Clamp, Rescale]
