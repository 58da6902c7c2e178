"""Changing a gradient on selected layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from daremerge_core import GradientEditor, GradientRef, Layout, Place
from daremerge_core.select import select

from .operations import ARITHMETIC, finite

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EditGradient"]


class EditGradient(GradientEditor):
    """A gradient with the ratios of selected layers set, or changed by a number.

    ``set`` gives a ratio to selected layers that had none too; the other operations leave those alone.
    """

    name = "edit"
    gradient: GradientRef = Field(description="The gradient to change; it stays as it is.")
    include: str = Field(description="Layers to change: a selector over the gradient's tensors, e.g. '*.attn2.*'.")
    operation: Literal["set", "add", "subtract", "multiply", "divide"] = Field(
        "set", description="What is done to a ratio with the value."
    )
    value: float = Field(description="The ratio to set, or the number to add, subtract, multiply or divide by.")

    @model_validator(mode="after")
    def _can_divide(self) -> Self:
        if self.operation == "divide" and self.value == 0.0:
            raise ValueError("nothing can be divided by a value of 0: give another, or use the operation set")
        return self

    def for_layout(self, layout: Layout) -> Callable[[Place], float | None]:
        selected = frozenset(select(self.gradient.keys(), self.include, what="include"))

        def ratio(place: Place) -> float | None:
            before: float | None = self.gradient.ratio(place.key)
            return self._changed(before) if place.key in selected else before

        return ratio

    def _changed(self, before: float | None) -> float | None:
        if self.operation == "set":
            return self.value
        if before is None:
            return None
        return finite(ARITHMETIC[self.operation](before, self.value), before, self.value)
