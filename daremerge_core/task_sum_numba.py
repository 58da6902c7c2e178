"""The loop of :mod:`.task_sum` compiled by numba for the CPU: the bits of the verbs in torch, sooner.

Elements are taken a tile at a time, so few that those of all models stay in the first cache: read as they are stored,
thinned, summed and rounded before the next, so that memory is read once and written once. Arithmetic is float32, in
the order of the verbs. What is stored is reached by its address: one function serves any number of models and dtypes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .quantile_numba import _magnitude
from .rng.philox_numba import _COUNTERS, _philox_block
from .task_sum import ALL, AT_RANDOM, MODEL_TILES, OWN_TILES, REACHING
from .tiles import TILE
from .tiles_numba import Bits, Tiles, load, store

__all__ = ["task_sum"]

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_NO_BITS = np.uint32(0)

# Tiles, by the index of the first element. From the sum's on they are in the order of addresses: the result's, the
# origin's, the start's, and each model's, which becomes its change from the origin. What is kept of changes follows.
_MASS, _DIVISOR, _RANDOM, _TOTAL, _ORIGIN, _START = (TILE * tile for tile in range(OWN_TILES))
_MODELS = TILE * OWN_TILES
assert MODEL_TILES == 2

Numbers = Any
"""A pointer to float32, one for each model."""
Integers = Any
"""A pointer to int64."""


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
        tiles[kept + i] = tiles[change + i] * scale if bits[_RANDOM + skipped + i] <= highest else _ZERO


@njit(inline="always")
def _thin_below(bits: Bits, kept: int, change: int, n: int, least: np.uint32) -> None:
    """The bits of elements whose magnitude has at least the bits ``least``, else zero."""
    for i in range(n):
        bits[kept + i] = bits[change + i] if np.uint32(_magnitude(bits[change + i])) >= least else _NO_BITS


@njit(inline="always")
def _add_elected(tiles: Tiles, n: int, kept: int, weights: Numbers, shares: Numbers, models: int, divide: int) -> None:
    """Σ of those wᵢτᵢ that have the sign of Σ wᵢτᵢ; with ``divide``, over the sum of the shares of those that have.

    Args:
        kept: the first τᵢ's tile.
    """
    for i in range(n):
        tiles[_MASS + i], tiles[_TOTAL + i], tiles[_DIVISOR + i] = _ZERO, _ZERO, _ZERO
    for model in range(models):
        for i in range(n):
            tiles[_MASS + i] += tiles[kept + TILE * model + i] * weights[model]
    for model in range(models):
        weight, share = weights[model], shares[model]
        for i in range(n):
            value, mass = tiles[kept + TILE * model + i] * weight, tiles[_MASS + i]
            agrees = ((value > _ZERO) & (mass > _ZERO)) | ((value < _ZERO) & (mass < _ZERO))
            tiles[_TOTAL + i] += value if agrees else _ZERO
            tiles[_DIVISOR + i] += share if agrees else _ZERO
    if divide:
        for i in range(n):
            divisor = tiles[_DIVISOR + i]
            tiles[_TOTAL + i] = tiles[_TOTAL + i] / (divisor if divisor != _ZERO else _ONE)


@njit(inline="always")
def _add(tiles: Tiles, n: int, kept: int, weights: Numbers, models: int, mean_scale: float) -> None:
    """Σ wᵢτᵢ times ``mean_scale``; the arguments are those of :func:`_add_elected`."""
    for i in range(n):
        tiles[_TOTAL + i] = tiles[kept + i] * weights[0]
    for model in range(1, models):
        for i in range(n):
            tiles[_TOTAL + i] += tiles[kept + TILE * model + i] * weights[model]
    if mean_scale != _ONE:
        for i in range(n):
            tiles[_TOTAL + i] *= mean_scale


def task_sum(
    tiles: Tiles,
    bits: Bits,
    words: Bits,
    addresses: Integers,
    stored: Integers,
    count: int,
    first: int,
    numel: int,
    keeping: Integers,
    key0: Integers,
    key1: Integers,
    thresholds: Integers,
    thin_scales: Numbers,
    weights: Numbers,
    shares: Numbers,
    elect: int,
    divide: int,
    mean_scale: float,
    scale: float,
) -> None:
    """result = start + s · combine(wᵢ · thin(modelᵢ − origin)).

    Args:
        tiles, bits: scratch, and the same again.
        words: a tile of scratch.
        addresses: of the elements of the result, the origin, the start, and each model; ``count`` of them.
        stored: how they are stored.
        first: index in the tensor of the first element.
        keeping, key0, key1, thresholds, thin_scales: of each model's thinning.
        weights, shares: of each model.
        elect: whether only what has the sign of Σ wᵢτᵢ counts; the sum is then divided, with ``divide``.
        mean_scale: what the sum is multiplied with, without an election.
    """
    models = count - 3
    kept = _MODELS + TILE * models
    at = 0
    while at < numel:
        # A tile ends where a block of random numbers does.
        skipped = (first + at) % TILE
        n = min(TILE - skipped, numel - at)
        for one in range(1, count):
            load(tiles, _TOTAL + TILE * one, n, addresses[one], stored[one], at)
        for model in range(models):
            change, thinned = _MODELS + TILE * model, kept + TILE * model
            into = thinned if keeping[model] == ALL else change
            for i in range(n):
                tiles[into + i] = tiles[change + i] - tiles[_ORIGIN + i]
            if keeping[model] == AT_RANDOM:
                counter = np.uint64((first + at - skipped) >> 2)
                _philox_block(words, counter, np.uint64(key0[model]), np.uint64(key1[model]))
                for j in range(_COUNTERS):
                    for k in range(4):
                        bits[_RANDOM + 4 * j + k] = words[k * _COUNTERS + j]
                highest = np.uint32(thresholds[model])
                _thin_at_random(tiles, thinned, change, n, bits, skipped, highest, thin_scales[model])
            elif keeping[model] == REACHING:
                _thin_below(bits, thinned, change, n, np.uint32(thresholds[model]))
        if elect:
            _add_elected(tiles, n, kept, weights, shares, models, divide)
        else:
            _add(tiles, n, kept, weights, models, mean_scale)
        for i in range(n):
            tiles[_TOTAL + i] = tiles[_START + i] + tiles[_TOTAL + i] * scale
        store(tiles, _TOTAL, n, addresses[0], stored[0], at)
        at += n
