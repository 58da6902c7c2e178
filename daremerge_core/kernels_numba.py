"""Loops of :mod:`.kernels` compiled by numba for the CPU: the same bits, sooner. Arrays are 1-D.

One loop reads and writes each element once, where torch makes an array for every operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from .compiled import compiled

_VALUES, _NUMBER = types.float32[::1], types.float32

Values = NDArray[np.float32]


@compiled(types.void(_VALUES, _VALUES, _VALUES, _NUMBER))
def lerp_from_a(out: Values, a: Values, b: Values, t: float) -> None:
    """a + t(b − a)."""
    for i in range(out.size):
        out[i] = a[i] + (b[i] - a[i]) * t


@compiled(types.void(_VALUES, _VALUES, _VALUES, _NUMBER))
def lerp_from_b(out: Values, a: Values, b: Values, rest: float) -> None:
    """b − (1 − t)(b − a)."""
    for i in range(out.size):
        out[i] = b[i] - (b[i] - a[i]) * rest


@compiled(types.void(_VALUES, _VALUES, _VALUES, _NUMBER))
def add_scaled(out: Values, a: Values, change: Values, scale: float) -> None:
    """a + s · change."""
    for i in range(out.size):
        out[i] = a[i] + change[i] * scale


def count_full(bits: Any, numel: int, exponent: int) -> int:
    """How many elements have all bits of ``exponent``: NaN and infinity have those of the exponent.

    Args:
        bits: a pointer to unsigned integers as wide as the exponent.
    """
    count = 0
    for i in range(numel):
        count += (bits[i] & exponent) == exponent
    return count
