"""The loop of :mod:`.tally` compiled by numba for the CPU: the counts of :mod:`.quantile`, sooner."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .quantile_numba import _GLANCE, _LOWER, _UPPER, _magnitude
from .tally import TILES
from .tiles import TILE
from .tiles_numba import Bits, Tiles, load

__all__ = ["add_magnitudes"]

_NONE = np.uint32(0)

# Tiles, by the index of the first element: the origin's, a model's, and its change from the origin.
_ORIGIN, _MODEL, _CHANGE = (TILE * tile for tile in range(TILES))

Integers = Any
"""A pointer to int64."""


@njit(inline="always")
def _add_fine(counts: Integers, bins: int, bits: Bits, n: int, coarse: np.uint32) -> None:
    """Count the lower 16 bits of the magnitudes whose upper 16 are ``coarse``, from the bin ``bins`` on."""
    for first in range(0, n, _GLANCE):
        last = min(first + _GLANCE, n)
        found = _NONE
        for i in range(first, last):
            found |= np.uint32(np.uint32(_magnitude(bits[_CHANGE + i]) >> _UPPER) == coarse)
        if found:
            for i in range(first, last):
                magnitude = _magnitude(bits[_CHANGE + i])
                if magnitude >> _UPPER == coarse:
                    counts[bins + np.int64(magnitude & _LOWER)] += 1


def add_magnitudes(
    tiles: Tiles,
    bits: Bits,
    counts: Integers,
    of_a_model: int,
    addresses: Integers,
    stored: Integers,
    count: int,
    numel: int,
    coarse: Integers,
) -> None:
    """Count magnitudes of the changes of models from an origin.

    Args:
        tiles, bits: scratch, and the same again.
        counts: to be added to: ``of_a_model`` bins for each model.
        addresses, stored: of the elements of the origin, and of each model; ``count`` of them.
        coarse: of each model: below zero to count all magnitudes by their upper 16 bits, else those with these upper 16
            bits by their lower ones.
    """
    for at in range(0, numel, TILE):
        n = min(TILE, numel - at)
        load(tiles, _ORIGIN, n, addresses[0], stored[0], at)
        for model in range(count - 1):
            load(tiles, _MODEL, n, addresses[1 + model], stored[1 + model], at)
            for i in range(n):
                tiles[_CHANGE + i] = tiles[_MODEL + i] - tiles[_ORIGIN + i]
            bins = model * of_a_model
            if coarse[model] < 0:
                for i in range(n):
                    counts[bins + np.int64(_magnitude(bits[_CHANGE + i]) >> _UPPER)] += 1
            else:
                _add_fine(counts, bins, bits, n, np.uint32(coarse[model]))
