"""Operations on gradients: tensor by tensor, over two or more."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from statistics import fmean
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from daremerge_core import GradientEditor, GradientRef, Place

__all__ = ["ARITHMETIC", "Add", "Divide", "Maximum", "Mean", "Minimum", "Multiply", "Operation", "Subtract", "finite"]


def _quotient(dividend: float, divisor: float) -> float:
    if divisor == 0.0:
        raise ValueError(
            f"{dividend:g} is divided by a ratio of 0: raise it first with gradient.edit, or use multiply or subtract"
        )
    return dividend / divisor


ARITHMETIC: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {"add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": _quotient}
)
"""What the operations of these names make of two ratios. Division by zero raises ``ValueError``."""


def finite(ratio: float, *sources: float) -> float:
    """``ratio``; raises ``ValueError`` naming the numbers it was made of where it is infinite or no number."""
    if not math.isfinite(ratio):
        numbers = ", ".join(f"{source:g}" for source in sources)
        raise ValueError(f"{numbers} give {ratio}, which is no ratio: use numbers of ordinary size")
    return ratio


class Operation(GradientEditor):
    """What the operations share: their gradients, and what a missing ratio means. Subclasses say how to combine."""

    gradients: list[GradientRef] = Field(min_length=2, description="The gradients, in order; two or more.")
    join: Literal["inner", "outer"] = Field(
        "inner",
        description="inner: only where all have a ratio. outer: where any has one; those without are left out.",
    )

    def combine(self, ratios: Sequence[float]) -> float:
        """One ratio from at least one, in the order of the gradients."""
        return reduce(ARITHMETIC[self.name], ratios)

    def ratio(self, place: Place) -> float | None:
        found = [gradient.ratio(place.key) for gradient in self.gradients]
        known = [ratio for ratio in found if ratio is not None]
        if not known or (self.join == "inner" and len(known) < len(found)):
            return None
        return finite(self.combine(known), *known)


class Mean(Operation):
    """The mean of gradients."""

    name = "mean"

    def combine(self, ratios: Sequence[float]) -> float:
        try:
            return fmean(ratios)
        except OverflowError:
            return math.inf


class Minimum(Operation):
    """The smallest of gradients: the most of B."""

    name = "min"

    def combine(self, ratios: Sequence[float]) -> float:
        return min(ratios)


class Maximum(Operation):
    """The largest of gradients: the most of A."""

    name = "max"

    def combine(self, ratios: Sequence[float]) -> float:
        return max(ratios)


class Add(Operation):
    """The sum of gradients."""

    name = "add"


class Subtract(Operation):
    """The first gradient less all others."""

    name = "subtract"


class Multiply(Operation):
    """The product of gradients."""

    name = "multiply"


class Divide(Operation):
    """The first gradient divided by each of the others in turn."""

    name = "divide"
