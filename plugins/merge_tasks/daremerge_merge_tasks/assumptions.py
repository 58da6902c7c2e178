"""What a plan warns of: merges whose assumptions these models do not meet, as far as a few of their weights tell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING

from daremerge_core.sampling import LARGE, largest_change, sample_changes
from daremerge_core.views import ModelView

from .agreement import ModelStock
from .presets import DareLinear, DareTies
from .refiners import Lines
from .tasks import TaskMerge

if TYPE_CHECKING:
    from daremerge_core.plan import Plan

__all__ = ["warnings"]

UNRELATED = 0.1
"""Mean cosine between changes below which models are hardly fine-tunes of one task."""
SPARSE = 0.5
"""Densities below this drop most."""


def warnings(plan: Plan) -> Iterator[str]:
    """A sentence for each assumption that does not hold."""
    for name, view in plan.views.items():
        if not isinstance(view, ModelView):
            continue
        component = view.component
        if isinstance(component, ModelStock):
            yield from _unrelated(name, view)
        if isinstance(component, (DareLinear, DareTies)) and component.rescale and min(component.density) < SPARSE:
            yield from _large(name, view)
        if isinstance(component, TaskMerge) and isinstance(component.refine, Lines):
            yield from _no_depth(name, view)


def _unrelated(name: str, view: ModelView) -> Iterator[str]:
    changes = sample_changes(view)
    pairs = [(one, other) for one, other in combinations(changes, 2) if one.any() and other.any()]
    if not pairs:
        return
    cosine = fmean(float(one @ other) / math.sqrt(float(one @ one) * float(other @ other)) for one, other in pairs)
    if cosine < UNRELATED:
        yield (
            f"step {name!r}: model-stock is for fine-tunes of one task, and what these models changed is nearly "
            f"unrelated (mean cosine about {cosine:.2f}): the result will be close to the base"
        )


def _large(name: str, view: ModelView) -> Iterator[str]:
    if (size := largest_change(view)) > LARGE:
        yield (
            f"step {name!r}: DARE assumes small changes, and one model changed its weights by about {size:.2g} "
            "(root mean square): at this density much of what it learned may be lost. A higher density loses less"
        )


def _no_depth(name: str, view: ModelView) -> Iterator[str]:
    if all(view.layout.place(key).depth is None for key in view.active_keys()):
        yield f"step {name!r}: lines scales by depth, and no layer here has a known one: all are scaled by alpha"
