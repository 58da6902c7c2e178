"""What this distribution gives daremerge."""

from daremerge_core import MaskEditor, Masker, hookimpl

from . import components


@hookimpl
def daremerge_components() -> list[type[Masker] | type[MaskEditor]]:
    return [
        components.Difference,
        components.Edit,
        components.Everything,
        components.Gaussian,
        components.Intersect,
        components.Invert,
        components.Magnitude,
        components.Nothing,
        components.Overlap,
        components.Partition,
        components.Pattern,
        components.Random,
        components.SignAgreement,
        components.Union,
        components.Xor,
    ]
