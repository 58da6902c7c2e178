"""What a plan warns of: DARE on changes too large for it, as far as a few of the weights tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from daremerge_core.sampling import LARGE, largest_change
from daremerge_core.views import ModelView

from .components import Dare

if TYPE_CHECKING:
    from daremerge_core.plan import Plan

__all__ = ["warnings"]


def warnings(plan: Plan) -> Iterator[str]:
    """A sentence for each DARE merge that drops most of changes that are large."""
    for name, view in plan.views.items():
        if not isinstance(view, ModelView) or not isinstance(view.component, Dare):
            continue
        dropped = view.component.drop_rate
        if dropped > 0.5 and view.component.rescale and (size := largest_change(view)) > LARGE:
            yield (
                f"step {name!r}: DARE assumes small changes, and B changed its weights by about {size:.2g} (root mean "
                f"square): at a drop rate of {dropped:g} much of what it learned may be lost. A lower one loses less"
            )
