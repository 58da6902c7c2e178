"""How much of B a straight line between A and B takes, for methods that differ in nothing else. t = 1 − ratio."""

from __future__ import annotations

import math

__all__ = ["cosine", "cubic", "scaled_add"]


def cosine(t: float) -> float:
    """(1 − cos πt) / 2: a slow start and a slow end. Outside 0..1 the cosine turns back."""
    return (1.0 - math.cos(math.pi * t)) / 2.0


def cubic(t: float) -> float:
    """t²(3 − 2t): the smoothstep polynomial. Outside 0..1 it turns back and runs off."""
    return t * t * (3.0 - 2.0 * t)


def scaled_add(t: float) -> float:
    """t / (1 + t), of (a + t·b) / (1 + t): A weighs 1 and B weighs t, so t = 1 is the midpoint.

    Raises:
        ZeroDivisionError: t = −1, where the weights add up to nothing.
    """
    return t / (1.0 + t)
