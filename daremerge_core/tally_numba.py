"""The loops of :mod:`.tally` compiled by numba for the CPU: the counts of :mod:`.quantile`, sooner."""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from .compiled import compiled
from .quantile_numba import _LOWER, _UPPER, _magnitude
from .tiles_numba import TILE, Tiles, load

__all__ = ["add_coarse", "add_fine"]

_COUNTS, _INTEGERS = types.int64[:, ::1], types.int64[::1]
_NONE = np.uint32(0)

Integers = NDArray[np.int64]


@njit(inline="always")
def _changes(tiles: Tiles, n: int, addresses: Integers, stored: Integers, at: int) -> None:
    """Row by row from the third on: the models' elements minus the origin's.

    Args:
        tiles: the first row is the origin's, and the second nobody's: a change goes where no model was read to.
        addresses, stored: of the origin, and each model.
    """
    load(tiles, 0, n, addresses[0], stored[0], at)
    for model in range(1, addresses.size):
        load(tiles, 1, n, addresses[model], stored[model], at)
        for i in range(n):
            tiles[1 + model, i] = tiles[1, i] - tiles[0, i]


@compiled(types.void(_COUNTS, _INTEGERS, _INTEGERS, types.int64))
def add_coarse(counts: Integers, addresses: Integers, stored: Integers, numel: int) -> None:
    """Count the upper 16 bits of every magnitude.

    Args:
        counts: ``[models, COARSE]``.
        addresses, stored: of the elements of the origin, and of each model.
    """
    tiles = np.empty((1 + addresses.size, TILE), np.float32)
    bits = tiles.view(np.uint32)
    for at in range(0, numel, TILE):
        n = min(TILE, numel - at)
        _changes(tiles, n, addresses, stored, at)
        for model in range(counts.shape[0]):
            for i in range(n):
                counts[model, np.int64(_magnitude(bits[2 + model, i]) >> _UPPER)] += 1


@compiled(types.void(_COUNTS, _INTEGERS, _INTEGERS, types.int64, _INTEGERS))
def add_fine(counts: Integers, addresses: Integers, stored: Integers, numel: int, bins: Integers) -> None:
    """Count the lower 16 bits of the magnitudes whose upper 16 are those of the model's bin.

    Args:
        counts: ``[models, FINE]``.
    """
    tiles = np.empty((1 + addresses.size, TILE), np.float32)
    bits = tiles.view(np.uint32)
    for at in range(0, numel, TILE):
        n = min(TILE, numel - at)
        _changes(tiles, n, addresses, stored, at)
        for model in range(counts.shape[0]):
            coarse = np.uint32(bins[model])
            for first in range(0, n, _GLANCE):
                last = min(first + _GLANCE, n)
                found = _NONE
                for i in range(first, last):
                    found |= np.uint32(np.uint32(_magnitude(bits[2 + model, i]) >> _UPPER) == coarse)
                if found:
                    for i in range(first, last):
                        magnitude = _magnitude(bits[2 + model, i])
                        if magnitude >> _UPPER == coarse:
                            counts[model, np.int64(magnitude & _LOWER)] += 1


_GLANCE = 32
"""Elements that are looked at together, in vector code, before any is counted."""
