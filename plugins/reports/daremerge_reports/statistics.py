"""What one reading of a tensor tells, and how it adds up over a block, a part or a model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

__all__ = ["Statistics", "together"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts, and sums in float64, of some elements. Sums and extremes are of the finite ones.

    Adding is not associative to the last bit, as sums of floating-point numbers are not: add in the order of the file.
    """

    count: int = 0
    nans: int = 0
    infinities: int = 0
    zeros: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    """The least finite element; infinite where there is none."""
    high: float = -math.inf

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.count + other.count,
            self.nans + other.nans,
            self.infinities + other.infinities,
            self.zeros + other.zeros,
            self.total + other.total,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    @property
    def nonfinite(self) -> int:
        return self.nans + self.infinities

    @property
    def finite(self) -> int:
        return self.count - self.nonfinite

    @property
    def mean(self) -> float | None:
        """None where no element is finite; so are the others below."""
        return self.total / self.finite if self.finite else None

    @property
    def rms(self) -> float | None:
        """Root of the mean square."""
        return math.sqrt(self.squares / self.finite) if self.finite else None

    @property
    def std(self) -> float | None:
        """Standard deviation over all elements (not of a sample)."""
        if not self.finite:
            return None
        return math.sqrt(max(self.squares / self.finite - (self.total / self.finite) ** 2, 0.0))

    @property
    def norm(self) -> float:
        """Euclidean (Frobenius) norm."""
        return math.sqrt(self.squares)

    @property
    def least(self) -> float | None:
        return self.low if self.finite else None

    @property
    def most(self) -> float | None:
        return self.high if self.finite else None

    @property
    def largest(self) -> float | None:
        """The greatest magnitude."""
        return max(abs(self.low), abs(self.high)) if self.finite else None


def together(found: Iterable[Statistics]) -> Statistics:
    """The statistics of all of them as one, added in this order."""
    return reduce(Statistics.__add__, found, Statistics())
