"""What this distribution gives daremerge."""

from daremerge_core import MergeMethod, hookimpl

from . import components


@hookimpl
def daremerge_components() -> list[type[MergeMethod]]:
    return [
        components.AddDifference,
        components.Bislerp,
        components.Colorize,
        components.Cosine,
        components.Cubic,
        components.Cyclic,
        components.Gradient,
        components.Hslerp,
        components.Lerp,
        components.ScaledAdd,
        components.Slerp,
        components.Slice,
    ]
