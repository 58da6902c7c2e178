"""The loop of :mod:`.task_sum` compiled by numba for the CPU: the bits of the verbs in torch, sooner.

Elements are taken a tile at a time, so few that those of all models stay in the first cache: read as they are stored,
thinned, summed and rounded before the next, so that memory is read once and written once. Arithmetic is float32, in
the order of the verbs. What is stored is reached by its address: one function serves any number of models and dtypes.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from .compiled import compiled
from .quantile_numba import _magnitude
from .rng.philox_numba import _COUNTERS, _philox_block
from .task_sum import ALL, AT_RANDOM, REACHING
from .tiles_numba import TILE, Bits, Tiles, load, new_tiles, store

__all__ = ["scratch", "task_sum"]

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_NO_BITS = np.uint32(0)

# Rows of scratch. From the sum's on they are in the order of addresses: the result's, the origin's, the start's, and
# each model's, which becomes its change from the origin. What is kept of the changes follows.
_MASS, _DIVISOR, _RANDOM, _TOTAL, _ORIGIN, _START, _MODELS = range(7)

Integers = NDArray[np.int64]
Numbers = NDArray[np.float32]


def scratch(models: int) -> tuple[Tiles, Bits, Bits]:
    """What one call of :func:`task_sum` works in: its first three arguments."""
    tiles = new_tiles(_MODELS + 2 * models)
    words = new_tiles(1).view(np.uint32).reshape(4, _COUNTERS)
    return tiles, tiles.view(np.uint32), words


# What is thinned goes from one tile into another: in place, "this or nothing" becomes a store under a mask, which takes
# many processors ten times as long.


@njit(inline="always")
def _thin_at_random(
    tiles: Tiles, kept: int, change: int, n: int, bits: Bits, skipped: int, highest: np.uint32, scale: float
) -> None:
    """Elements of the change times ``scale`` where their random bits are at most ``highest``, else zero.

    Args:
        bits: the random ones are those of elements from ``skipped`` before the tile's first on.
    """
    for i in range(n):
        tiles[kept, i] = tiles[change, i] * scale if bits[_RANDOM, skipped + i] <= highest else _ZERO


@njit(inline="always")
def _thin_below(bits: Bits, kept: int, change: int, n: int, least: np.uint32) -> None:
    """The bits of elements whose magnitude has at least the bits ``least``, else zero."""
    for i in range(n):
        bits[kept, i] = bits[change, i] if np.uint32(_magnitude(bits[change, i])) >= least else _NO_BITS


@njit(inline="always")
def _add_elected(tiles: Tiles, n: int, kept: int, weights: Numbers, shares: Numbers, divide: bool) -> None:
    """Σ of those wᵢτᵢ that have the sign of Σ wᵢτᵢ; with ``divide``, over the sum of the shares of those that have.

    Args:
        kept: the row of the first τᵢ.
    """
    for i in range(n):
        tiles[_MASS, i], tiles[_TOTAL, i], tiles[_DIVISOR, i] = _ZERO, _ZERO, _ZERO
    for model in range(weights.size):
        for i in range(n):
            tiles[_MASS, i] += tiles[kept + model, i] * weights[model]
    for model in range(weights.size):
        weight, share = weights[model], shares[model]
        for i in range(n):
            value, mass = tiles[kept + model, i] * weight, tiles[_MASS, i]
            agrees = ((value > _ZERO) & (mass > _ZERO)) | ((value < _ZERO) & (mass < _ZERO))
            tiles[_TOTAL, i] += value if agrees else _ZERO
            tiles[_DIVISOR, i] += share if agrees else _ZERO
    if divide:
        for i in range(n):
            divisor = tiles[_DIVISOR, i]
            tiles[_TOTAL, i] = tiles[_TOTAL, i] / (divisor if divisor != _ZERO else _ONE)


@njit(inline="always")
def _add(tiles: Tiles, n: int, kept: int, weights: Numbers, mean_scale: float) -> None:
    """Σ wᵢτᵢ times ``mean_scale``; the arguments are those of :func:`_add_elected`."""
    for i in range(n):
        tiles[_TOTAL, i] = tiles[kept, i] * weights[0]
    for model in range(1, weights.size):
        for i in range(n):
            tiles[_TOTAL, i] += tiles[kept + model, i] * weights[model]
    if mean_scale != _ONE:
        for i in range(n):
            tiles[_TOTAL, i] *= mean_scale


_INTEGERS, _NUMBERS = types.int64[::1], types.float32[::1]


@compiled(
    types.void(
        *(types.float32[:, ::1], types.uint32[:, ::1], types.uint32[:, ::1]),
        *(_INTEGERS, _INTEGERS, types.int64, types.int64),
        *(_INTEGERS, _INTEGERS, _INTEGERS, _INTEGERS, _NUMBERS),
        *(_NUMBERS, _NUMBERS, types.boolean, types.boolean, types.float32, types.float32),
    )
)
def task_sum(
    tiles: Tiles,
    bits: Bits,
    words: Bits,
    addresses: Integers,
    stored: Integers,
    first: int,
    numel: int,
    keeping: Integers,
    key0: Integers,
    key1: Integers,
    thresholds: Integers,
    thin_scales: Numbers,
    weights: Numbers,
    shares: Numbers,
    elect: bool,
    divide: bool,
    mean_scale: float,
    scale: float,
) -> None:
    """result = start + s · combine(wᵢ · thin(modelᵢ − origin)).

    Args:
        tiles, bits, words: scratch.
        addresses: of the elements of the result, the origin, the start, and each model.
        stored: how they are stored.
        first: index in the tensor of the first element.
        keeping, key0, key1, thresholds, thin_scales: of each model's thinning.
        weights, shares: of each model.
        elect: whether only what has the sign of Σ wᵢτᵢ counts; the sum is then divided, with ``divide``.
        mean_scale: what the sum is multiplied with, without an election.
    """
    models = weights.size
    at = 0
    while at < numel:
        # A tile ends where a block of random numbers does.
        skipped = (first + at) % TILE
        n = min(TILE - skipped, numel - at)
        for one in range(1, addresses.size):
            load(tiles, _TOTAL + one, n, addresses[one], stored[one], at)
        for model in range(models):
            change, kept = _MODELS + model, _MODELS + models + model
            into = kept if keeping[model] == ALL else change
            for i in range(n):
                tiles[into, i] = tiles[change, i] - tiles[_ORIGIN, i]
            if keeping[model] == AT_RANDOM:
                counter = np.uint64((first + at - skipped) >> 2)
                _philox_block(words, counter, np.uint64(key0[model]), np.uint64(key1[model]))
                for j in range(_COUNTERS):
                    for k in range(4):
                        bits[_RANDOM, 4 * j + k] = words[k, j]
                highest, factor = np.uint32(thresholds[model]), thin_scales[model]
                _thin_at_random(tiles, kept, change, n, bits, skipped, highest, factor)
            elif keeping[model] == REACHING:
                _thin_below(bits, kept, change, n, np.uint32(thresholds[model]))
        if elect:
            _add_elected(tiles, n, _MODELS + models, weights, shares, divide)
        else:
            _add(tiles, n, _MODELS + models, weights, mean_scale)
        for i in range(n):
            tiles[_TOTAL, i] = tiles[_START, i] + tiles[_TOTAL, i] * scale
        store(tiles, _TOTAL, n, addresses[0], stored[0], at)
        at += n
