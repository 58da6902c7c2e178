"""Philox4x32-10 compiled by numba for the CPU: the bits of :mod:`daremerge_core.rng.philox_torch`, in vector code.

Words are computed for a block of counters at a time, each of the four words in a row of its own, so that LLVM turns
the ten rounds into vector code: a 32×32→64-bit multiplication is one instruction per register. Integers only, hence
the same result for any vector width. The functions keep no state and release the GIL; they are compiled when they are
first called, and loaded from numba's on-disk cache from then on.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from ..compiled import compiled

__all__ = ["bits_into", "keep_into", "thin_into"]

# numba types a global numpy scalar exactly; a plain int beside a uint64 would make a float64.
_MULTIPLIER0 = np.uint64(0xD2511F53)
_MULTIPLIER1 = np.uint64(0xCD9E8D57)
_WEYL0 = np.uint64(0x9E3779B9)
_WEYL1 = np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)
_ZERO = np.uint64(0)
_NOTHING = np.float32(0.0)

_COUNTERS = 128  # per block: 2 KiB of words, well inside the first-level cache
_BLOCK = 4 * _COUNTERS


@njit(inline="always")
def _philox_block(words: NDArray[np.uint32], counter: np.uint64, key0: np.uint64, key1: np.uint64) -> None:
    """``words[k * _COUNTERS + j]`` = word ``k`` of Philox4x32-10 at ``counter + j``; :data:`_BLOCK` of them.

    Words travel in uint64 with garbage above bit 31, which only the multiplication needs to mask.
    """
    for j in range(_COUNTERS):
        c0 = counter + np.uint64(j)
        c1, c2, c3 = c0 >> _HIGH, _ZERO, _ZERO
        k0, k1 = key0, key1
        for _ in range(10):
            product0 = _MULTIPLIER0 * (c0 & _LOW)
            product1 = _MULTIPLIER1 * (c2 & _LOW)
            c0, c1, c2, c3 = (product1 >> _HIGH) ^ c1 ^ k0, product1, (product0 >> _HIGH) ^ c3 ^ k1, product0
            k0, k1 = k0 + _WEYL0, k1 + _WEYL1
        words[j], words[_COUNTERS + j] = c0, c1
        words[2 * _COUNTERS + j], words[3 * _COUNTERS + j] = c2, c3


@compiled(types.void(types.int64[::1], types.int64, types.int64, types.int64))
def bits_into(out: NDArray[np.int64], key0: int, key1: int, start: int) -> None:
    """Fill ``out`` with the bits, in ``[0, 2**32)``, of the elements from ``start`` on.

    ``key0`` and ``key1`` lie in ``[0, 2**32)``; ``start`` is any index from 0 to ``2**63 - 1 - len(out)``.
    """
    words = np.empty(_BLOCK, np.uint32)
    counter = np.uint64(start >> 2)
    at = -(start & 3)  # where in ``out`` the block begins: a little before it, unless start is a multiple of 4
    while at < out.size:
        _philox_block(words, counter, np.uint64(key0), np.uint64(key1))
        if at >= 0 and at + _BLOCK <= out.size:
            block = out[at : at + _BLOCK]
            for j in range(_COUNTERS):
                for k in range(4):
                    block[4 * j + k] = words[k * _COUNTERS + j]
        else:  # the first or last block, partly outside
            for i in range(max(at, 0), min(at + _BLOCK, out.size)):
                out[i] = words[((i - at) & 3) * _COUNTERS + ((i - at) >> 2)]
        counter += np.uint64(_COUNTERS)
        at += _BLOCK


@compiled(types.void(types.uint8[::1], types.int64, types.int64, types.int64, types.int64))
def keep_into(out: NDArray[np.uint8], key0: int, key1: int, start: int, threshold: int) -> None:
    """Fill ``out`` with 1 where an element's bits are below ``threshold`` (0 to ``2**32``), else 0.

    The other arguments are those of :func:`bits_into`.
    """
    below = np.uint64(threshold)
    words = np.empty(_BLOCK, np.uint32)
    counter = np.uint64(start >> 2)
    at = -(start & 3)
    while at < out.size:
        _philox_block(words, counter, np.uint64(key0), np.uint64(key1))
        if at >= 0 and at + _BLOCK <= out.size:
            block = out[at : at + _BLOCK]
            for j in range(_COUNTERS):
                for k in range(4):
                    block[4 * j + k] = words[k * _COUNTERS + j] < below
        else:
            for i in range(max(at, 0), min(at + _BLOCK, out.size)):
                out[i] = words[((i - at) & 3) * _COUNTERS + ((i - at) >> 2)] < below
        counter += np.uint64(_COUNTERS)
        at += _BLOCK


@compiled(
    types.void(
        types.float32[::1], types.float32[::1], types.int64, types.int64, types.int64, types.int64, types.float32
    )
)
def thin_into(
    out: NDArray[np.float32],
    values: NDArray[np.float32],
    key0: int,
    key1: int,
    start: int,
    threshold: int,
    scale: float,
) -> None:
    """Fill ``out`` with ``values`` · ``scale`` where :func:`keep_into` has 1, zero elsewhere.

    ``threshold`` is 1 to ``2**32`` here.
    """
    highest = np.uint32(threshold - 1)
    words = np.empty(_BLOCK, np.uint32)
    in_order = np.empty(_BLOCK, np.uint32)
    counter = np.uint64(start >> 2)
    at = -(start & 3)
    while at < out.size:
        _philox_block(words, counter, np.uint64(key0), np.uint64(key1))
        for j in range(_COUNTERS):
            for k in range(4):
                in_order[4 * j + k] = words[k * _COUNTERS + j]
        first, last = max(at, 0), min(at + _BLOCK, out.size)
        into, source, bits = out[first:last], values[first:last], in_order[first - at : last - at]
        for i in range(into.size):
            into[i] = source[i] * scale if bits[i] <= highest else _NOTHING
        counter += np.uint64(_COUNTERS)
        at += _BLOCK
