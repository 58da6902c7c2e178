"""The loop of :mod:`.reach` compiled by numba for the CPU: the choice of :mod:`.quantile`, sooner."""

from __future__ import annotations

from typing import Any

import numpy as np

from .quantile_numba import _magnitude
from .reach import TILES
from .tiles import TILE
from .tiles_numba import Bits, Tiles, load

__all__ = ["mark"]

# Tiles, by the index of the first element: the origin's, the model's, and its change from the origin.
_ORIGIN, _MODEL, _CHANGE = (TILE * tile for tile in range(TILES))


def mark(
    tiles: Tiles, bits: Bits, out: Any, addresses: Any, stored: Any, numel: int, least: np.uint32, select: np.uint8
) -> None:
    """``select`` where the magnitude of a model's change from an origin is at least ``least``, else the other.

    Args:
        tiles, bits: scratch, and the same again.
        out: a pointer to uint8.
        addresses, stored: pointers to int64, of the elements of the origin, and of the model.
    """
    for at in range(0, numel, TILE):
        n = min(TILE, numel - at)
        load(tiles, _ORIGIN, n, addresses[0], stored[0], at)
        load(tiles, _MODEL, n, addresses[1], stored[1], at)
        for i in range(n):
            tiles[_CHANGE + i] = tiles[_MODEL + i] - tiles[_ORIGIN + i]
        for i in range(n):
            out[at + i] = np.uint8(np.uint8(_magnitude(bits[_CHANGE + i]) >= least) == select)
