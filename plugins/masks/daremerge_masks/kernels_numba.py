"""The histograms of :mod:`.kernels` compiled by numba for the CPU: the same counts, sooner.

They are compiled when this module is first imported, and loaded from numba's cache on disk from then on. They release
the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_COUNTS, _BITS = types.int64[::1], types.uint32[::1]
_UPPER = np.uint32(16)
_LOWER = np.uint32(0xFFFF)


def _compile(signature: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """``njit`` for one signature, cached on disk where there is a folder to write the cache to."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        try:
            return njit(signature, nogil=True, cache=True)(function)  # type: ignore[no-any-return]
        except (RuntimeError, OSError):  # numba finds no folder it may write to, or the disk is full
            return njit(signature, nogil=True)(function)  # type: ignore[no-any-return]

    return decorate


# The bits are unsigned because a signed index may be negative, which takes numba twice as long.


@_compile(types.void(_COUNTS, _BITS))
def add_coarse(counts: NDArray[np.int64], bits: NDArray[np.uint32]) -> None:
    """Count the upper 16 bits of every element; the first bit is 0."""
    for i in range(bits.size):
        counts[bits[i] >> _UPPER] += 1


@_compile(types.void(_COUNTS, _BITS, types.uint32))
def add_fine(counts: NDArray[np.int64], bits: NDArray[np.uint32], coarse: int) -> None:
    """Count the lower 16 bits of the elements whose upper 16 are ``coarse``."""
    for i in range(bits.size):
        if bits[i] >> _UPPER == coarse:
            counts[bits[i] & _LOWER] += 1
