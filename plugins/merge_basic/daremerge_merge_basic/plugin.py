"""What this distribution gives daremerge."""

from daremerge_core import MergeMethod, hookimpl

from .components import (
    AddDifference,
    Bislerp,
    Colorize,
    Cosine,
    Cubic,
    Cyclic,
    Gradient,
    Hslerp,
    Lerp,
    ScaledAdd,
    Slerp,
    Slice,
)


@hookimpl
def daremerge_components() -> list[type[MergeMethod]]:
    return [
        AddDifference,
        Bislerp,
        Colorize,
        Cosine,
        Cubic,
        Cyclic,
        Gradient,
        Hslerp,
        Lerp,
        ScaledAdd,
        Slerp,
        Slice,
    ]
