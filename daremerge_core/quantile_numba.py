"""The histograms of :mod:`.quantile` compiled by numba for the CPU: the same counts, sooner.

They are compiled when this module is first imported, and loaded from numba's cache on disk from then on. They release
the GIL.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from .compiled import compiled

_COUNTS, _BITS = types.int64[::1], types.uint32[::1]
_UPPER = np.uint32(16)
_LOWER = np.uint32(0xFFFF)


# The bits are unsigned because a signed index may be negative, which takes numba twice as long.


@compiled(types.void(_COUNTS, _BITS))
def add_coarse(counts: NDArray[np.int64], bits: NDArray[np.uint32]) -> None:
    """Count the upper 16 bits of every element; the first bit is 0."""
    for i in range(bits.size):
        counts[bits[i] >> _UPPER] += 1


@compiled(types.void(_COUNTS, _BITS, types.uint32))
def add_fine(counts: NDArray[np.int64], bits: NDArray[np.uint32], coarse: int) -> None:
    """Count the lower 16 bits of the elements whose upper 16 are ``coarse``."""
    for i in range(bits.size):
        if bits[i] >> _UPPER == coarse:
            counts[bits[i] & _LOWER] += 1
