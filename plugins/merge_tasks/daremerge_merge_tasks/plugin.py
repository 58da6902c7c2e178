"""What this distribution gives daremerge."""

from daremerge_core import hookimpl

from .agreement import Consensus, ModelStock, Sce
from .averages import Karcher, Linear, MultiSlerp, NearSwap, NuSlerp, Passthrough
from .presets import (
    BreadcrumbsMerge,
    BreadcrumbsTies,
    DareLinear,
    DareTies,
    DellaLinear,
    DellaMerge,
    TaskArithmetic,
    Tasks,
    Ties,
)
from .refiners import Lines, Svc
from .sparsifiers import Breadcrumbs, Della, Magnitude
from .spectral import IsoC, IsoCts, TsvM, Wudi


@hookimpl
def daremerge_planned(plan):
    from .assumptions import warnings

    return list(warnings(plan))


@hookimpl
def daremerge_recipe(data, source):
    from .mergekit import is_mergekit, to_recipe

    return to_recipe(data, source=source) if is_mergekit(data) else None


@hookimpl
def daremerge_components():
    sparse = [Ties, DareTies, DareLinear, DellaMerge, DellaLinear, BreadcrumbsMerge, BreadcrumbsTies, Tasks]
    averages = [Linear, Karcher, MultiSlerp, NuSlerp, NearSwap, Passthrough]
    agreement = [Consensus, ModelStock, Sce]
    spectral = [TsvM, IsoC, IsoCts, Wudi]
    return [
        *[TaskArithmetic, *sparse, *averages, *agreement, *spectral],
        *[Magnitude, Della, Breadcrumbs],
        *[Svc, Lines],
    ]
