"""The loop of :mod:`.tally` compiled by numba for the CPU: the counts of :mod:`.quantile`, sooner."""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from .compiled import compiled
from .quantile_numba import _GLANCE, _LOWER, _UPPER, _magnitude
from .tiles_numba import TILE, Bits, Tiles, load, new_tiles

__all__ = ["add_magnitudes", "scratch"]

_NONE = np.uint32(0)

# Rows of scratch: the origin's tile, a model's, and its change from the origin.
_ORIGIN, _MODEL, _CHANGE, _ROWS = range(4)

Integers = NDArray[np.int64]


def scratch() -> tuple[Tiles, Bits]:
    """What one call of :func:`add_magnitudes` works in: its first two arguments."""
    tiles = new_tiles(_ROWS)
    return tiles, tiles.view(np.uint32)


@njit(inline="always")
def _add_fine(counts: Integers, model: int, bits: Bits, n: int, coarse: np.uint32) -> None:
    """Count the lower 16 bits of the magnitudes whose upper 16 are ``coarse``."""
    for first in range(0, n, _GLANCE):
        last = min(first + _GLANCE, n)
        found = _NONE
        for i in range(first, last):
            found |= np.uint32(np.uint32(_magnitude(bits[_CHANGE, i]) >> _UPPER) == coarse)
        if found:
            for i in range(first, last):
                magnitude = _magnitude(bits[_CHANGE, i])
                if magnitude >> _UPPER == coarse:
                    counts[model, np.int64(magnitude & _LOWER)] += 1


@compiled(
    types.void(
        *(types.float32[:, ::1], types.uint32[:, ::1], types.int64[:, ::1]),
        *(types.int64[::1], types.int64[::1], types.int64, types.int64[::1]),
    )
)
def add_magnitudes(
    tiles: Tiles,
    bits: Bits,
    counts: Integers,
    addresses: Integers,
    stored: Integers,
    numel: int,
    bins: Integers,
) -> None:
    """Count magnitudes of the changes of models from an origin.

    Args:
        tiles, bits: scratch.
        counts: ``[models, COARSE]`` or ``[models, FINE]``, to be added to.
        addresses, stored: of the elements of the origin, and of each model.
        bins: of each model: below zero to count all magnitudes by their upper 16 bits, else those with these upper 16
            bits by their lower ones.
    """
    for at in range(0, numel, TILE):
        n = min(TILE, numel - at)
        load(tiles, _ORIGIN, n, addresses[0], stored[0], at)
        for model in range(bins.size):
            load(tiles, _MODEL, n, addresses[1 + model], stored[1 + model], at)
            for i in range(n):
                tiles[_CHANGE, i] = tiles[_MODEL, i] - tiles[_ORIGIN, i]
            if bins[model] < 0:
                for i in range(n):
                    counts[model, np.int64(_magnitude(bits[_CHANGE, i]) >> _UPPER)] += 1
            else:
                _add_fine(counts, model, bits, n, np.uint32(bins[model]))
