"""Loops of :mod:`.kernels` compiled by numba for the CPU: the same bits, sooner. Arrays are 1-D.

One loop reads and writes each element once, where torch makes an array for every operation.
"""

from __future__ import annotations

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


def _count_full(bits: NDArray[np.unsignedinteger], exponent: int) -> int:
    """How many elements have all bits of ``exponent``: NaN and infinity have those of the exponent."""
    count = 0
    for i in range(bits.size):
        count += (bits[i] & exponent) == exponent
    return count


# One for each width: a run mostly meets one of them, and compiles one.
_count_full_16 = compiled(types.int64(types.uint16[::1], types.uint16))(_count_full)
_count_full_32 = compiled(types.int64(types.uint32[::1], types.uint32))(_count_full)


def count_full(bits: NDArray[np.unsignedinteger], exponent: int) -> int:
    """How many of the bits, uint16 or uint32, have all bits of ``exponent``."""
    return (_count_full_16 if bits.itemsize == 2 else _count_full_32)(bits, exponent)
