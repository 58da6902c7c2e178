"""What this distribution gives daremerge."""

from daremerge_core import Reporter, hookimpl

from .gradient import GradientReport
from .health import HealthReport
from .mask import MaskReport
from .model import ModelReport


@hookimpl
def daremerge_components() -> list[type[Reporter]]:
    return [GradientReport, HealthReport, MaskReport, ModelReport]
