"""A scale, shared out over the two factors of a product."""

from __future__ import annotations

import math

__all__ = ["balanced"]


def balanced(scale: float) -> tuple[float, float]:
    """Numbers for ``up`` and ``down`` whose product is the scale: about its root each, the second a power of two.

    So neither factor leaves float16's range, only one is rounded, and a scale that is a power of two rounds none.
    """
    if scale == 0:
        return (0.0, 1.0)
    down = 2.0 ** round(math.log2(abs(scale)) / 2)
    return (scale / down, down)
