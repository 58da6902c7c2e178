"""What this distribution gives daremerge."""

from daremerge_core import hookimpl
from daremerge_core.components import Component

from .attention import AttentionGradient
from .depth import DepthGradient
from .edit import EditGradient
from .mbw import MbwGradient
from .operations import Add, Divide, Maximum, Mean, Minimum, Multiply, Subtract
from .tables import PartsGradient, PatternGradient
from .unet import BlockGradient, ShellGradient


@hookimpl
def daremerge_components() -> list[type[Component]]:
    return [
        BlockGradient,
        ShellGradient,
        AttentionGradient,
        MbwGradient,
        DepthGradient,
        PatternGradient,
        PartsGradient,
        Mean,
        Minimum,
        Maximum,
        Add,
        Subtract,
        Multiply,
        Divide,
        EditGradient,
    ]
