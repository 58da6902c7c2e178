"""What this distribution gives daremerge."""

from daremerge_core import MaskEditor, Masker, hookimpl

from .components import (
    Difference,
    Edit,
    Everything,
    Gaussian,
    Intersect,
    Invert,
    Magnitude,
    Nothing,
    Overlap,
    Partition,
    Pattern,
    Random,
    SignAgreement,
    Union,
    Xor,
)


@hookimpl
def daremerge_components() -> list[type[Masker] | type[MaskEditor]]:
    return [
        Difference,
        Edit,
        Everything,
        Gaussian,
        Intersect,
        Invert,
        Magnitude,
        Nothing,
        Overlap,
        Partition,
        Pattern,
        Random,
        SignAgreement,
        Union,
        Xor,
    ]
