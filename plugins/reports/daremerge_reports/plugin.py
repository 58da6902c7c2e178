"""What this distribution gives daremerge."""

from daremerge_core import Reporter, hookimpl

from .conflict import Conflict
from .diff import Diff
from .gradient import GradientReport
from .health import HealthReport
from .mask import MaskReport
from .merge import MergeReport
from .model import ModelReport


@hookimpl
def daremerge_components() -> list[type[Reporter]]:
    return [Conflict, Diff, GradientReport, HealthReport, MaskReport, MergeReport, ModelReport]
