"""The loops of :mod:`.quantile` compiled by numba for the CPU: the same counts and choices, sooner.

They are compiled when they are first called, and loaded from numba's cache on disk from then on. They release
the GIL. They take the bits of float32 as they are, and see magnitudes in them: without the sign, every NaN one value.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from .compiled import compiled

_COUNTS, _BITS = types.int64[::1], types.uint32[::1]
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_NAN = np.uint32(0x7F800001)
_UPPER = np.uint32(16)
_LOWER = np.uint32(0xFFFF)
_ZERO = np.uint32(0)
_GLANCE = 32
"""Elements that are looked at together, in vector code, before any is counted."""

Bits = NDArray[np.uint32]


# The bits are unsigned because a signed index may be negative, which takes numba twice as long.


@njit(inline="always")
def _magnitude(bits: np.uint32) -> np.uint32:
    return min(bits & _MAGNITUDE, _NAN)


@compiled(types.void(_COUNTS, _BITS))
def add_coarse(counts: NDArray[np.int64], bits: Bits) -> None:
    """Count the upper 16 bits of every magnitude."""
    for i in range(bits.size):
        counts[_magnitude(bits[i]) >> _UPPER] += 1


@compiled(types.void(_COUNTS, _BITS, types.uint32))
def add_fine(counts: NDArray[np.int64], bits: Bits, coarse: int) -> None:
    """Count the lower 16 bits of the magnitudes whose upper 16 are ``coarse``."""
    for start in range(0, bits.size, _GLANCE):
        piece = bits[start : min(start + _GLANCE, bits.size)]
        found = _ZERO
        for i in range(piece.size):
            found |= np.uint32(_magnitude(piece[i]) >> _UPPER == coarse)
        if found:
            for i in range(piece.size):
                magnitude = _magnitude(piece[i])
                if magnitude >> _UPPER == coarse:
                    counts[magnitude & _LOWER] += 1


@compiled(types.void(types.uint8[::1], _BITS, types.int64))
def mark_reaching(out: NDArray[np.uint8], bits: Bits, threshold: int) -> None:
    """1 where the magnitude is at least ``threshold``, else 0."""
    least = np.uint32(min(max(threshold, 0), 0x7FFFFFFF))
    for i in range(out.size):
        out[i] = _magnitude(bits[i]) >= least


@compiled(types.void(_BITS, _BITS, types.int64))
def copy_reaching(out: Bits, bits: Bits, threshold: int) -> None:
    """The bits where the magnitude is at least ``threshold``, else 0."""
    least = np.uint32(min(max(threshold, 0), 0x7FFFFFFF))
    for i in range(out.size):
        out[i] = bits[i] if _magnitude(bits[i]) >= least else _ZERO
