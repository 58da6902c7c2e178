"""What this distribution gives daremerge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from daremerge_core import hookimpl

from .report import LoraReport
from .tools.apply import Apply
from .tools.convert import Convert
from .tools.extract import Extract
from .tools.merge import Merge
from .tools.resize import Resize

if TYPE_CHECKING:
    from daremerge_core.components import Component
    from daremerge_core.plan import Plan

SHOWN = 3
"""How many reasons a warning gives."""


@hookimpl
def daremerge_components() -> list[type[Component]]:
    return [Apply, Merge, Resize, Extract, Convert, LoraReport]


@hookimpl
def daremerge_planned(plan: Plan) -> list[str]:
    """A warning for what of a LoRA a model has no place for, where that is allowed."""
    return list(_left_out(plan))


def _left_out(plan: Plan) -> Iterator[str]:
    for name, value in plan.views.items():
        component = getattr(value, "component", None)
        lines = component.unmatched if isinstance(component, Apply) else ()
        if lines:
            more = f"; and for {len(lines) - SHOWN} more reasons" if len(lines) > SHOWN else ""
            yield f"step {name!r} leaves out what the model has no place for: {'; '.join(lines[:SHOWN])}{more}"
