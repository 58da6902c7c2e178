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
from .tiles_numba import TILE, Tile, Tiles, load, store

__all__ = ["task_sum"]

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_NO_BITS = np.uint32(0)

Numbers = NDArray[np.float32]

# What is thinned goes from one tile into another: in place, "this or nothing" becomes a store under a mask, which takes
# many processors ten times as long.


@njit(inline="always")
def _thin_at_random(
    kept: Tiles,
    changes: Tiles,
    row: int,
    n: int,
    words: NDArray[np.uint32],
    in_order: NDArray[np.uint32],
    skipped: int,
    highest: np.uint32,
    scale: float,
) -> None:
    """Elements of the change times ``scale`` where their random bits are at most ``highest``, else zero.

    Args:
        words: of the block of random numbers that holds the tile's, ``skipped`` elements into it.
        in_order: scratch.
    """
    for j in range(_COUNTERS):
        for k in range(4):
            in_order[4 * j + k] = words[k, j]
    for i in range(n):
        kept[row, i] = changes[row, i] * scale if in_order[skipped + i] <= highest else _ZERO


@njit(inline="always")
def _thin_below(kept: NDArray[np.uint32], changes: NDArray[np.uint32], row: int, n: int, threshold: int) -> None:
    """The bits of elements whose magnitude has at least the bits ``threshold``, else zero."""
    least = np.uint32(threshold)
    for i in range(n):
        kept[row, i] = changes[row, i] if np.uint32(_magnitude(changes[row, i])) >= least else _NO_BITS


@njit(inline="always")
def _add_elected(
    total: Tile, n: int, mass: Tile, divisor: Tile, kept: Tiles, weights: Numbers, shares: Numbers, divide: bool
) -> None:
    """Σ of those wᵢτᵢ that have the sign of Σ wᵢτᵢ; with ``divide``, over the sum of the shares of those that have.

    Args:
        total: the result.
        mass, divisor: scratch.
        kept: τᵢ, a row each.
    """
    for i in range(n):
        mass[i], total[i], divisor[i] = _ZERO, _ZERO, _ZERO
    for model in range(weights.size):
        for i in range(n):
            mass[i] += kept[model, i] * weights[model]
    for model in range(weights.size):
        weight, share = weights[model], shares[model]
        for i in range(n):
            value = kept[model, i] * weight
            agrees = ((value > _ZERO) & (mass[i] > _ZERO)) | ((value < _ZERO) & (mass[i] < _ZERO))
            total[i] += value if agrees else _ZERO
            divisor[i] += share if agrees else _ZERO
    if divide:
        for i in range(n):
            total[i] = total[i] / (divisor[i] if divisor[i] != _ZERO else _ONE)


@njit(inline="always")
def _add(total: Tile, n: int, kept: Tiles, weights: Numbers, mean_scale: float) -> None:
    """Σ wᵢτᵢ times ``mean_scale``; the arguments are those of :func:`_add_elected`."""
    for i in range(n):
        total[i] = kept[0, i] * weights[0]
    for model in range(1, weights.size):
        for i in range(n):
            total[i] += kept[model, i] * weights[model]
    if mean_scale != _ONE:
        for i in range(n):
            total[i] *= mean_scale


_ADDRESSES, _NUMBERS = types.int64[::1], types.float32[::1]


@compiled(
    types.void(
        *(_ADDRESSES, _ADDRESSES, types.int64, types.int64),
        *(_ADDRESSES, _ADDRESSES, _ADDRESSES, _ADDRESSES, _NUMBERS),
        *(_NUMBERS, _NUMBERS, types.boolean, types.boolean, types.float32, types.float32),
    )
)
def task_sum(
    addresses: NDArray[np.int64],
    stored: NDArray[np.int64],
    first: int,
    numel: int,
    keeping: NDArray[np.int64],
    key0: NDArray[np.int64],
    key1: NDArray[np.int64],
    thresholds: NDArray[np.int64],
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
        addresses: of the elements of the result, the origin, the start, and each model.
        stored: how they are stored.
        first: index in the tensor of the first element.
        keeping, key0, key1, thresholds, thin_scales: of each model's thinning.
        weights, shares: of each model.
        elect: whether only what has the sign of Σ wᵢτᵢ counts; the sum is then divided, with ``divide``.
        mean_scale: what the sum is multiplied with, without an election.
    """
    models = weights.size
    # The origin's tile, the start's, and each model's, whose change from the origin it becomes; what is kept of those.
    tiles, kept = np.empty((2 + models, TILE), np.float32), np.empty((models, TILE), np.float32)
    changes = tiles[2:]
    total, mass, divisor = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    words, in_order = np.empty((4, _COUNTERS), np.uint32), np.empty(TILE, np.uint32)
    at = 0
    while at < numel:
        # A tile ends where a block of random numbers does.
        skipped = (first + at) % TILE
        n = min(TILE - skipped, numel - at)
        for row in range(2 + models):
            load(tiles, row, n, addresses[1 + row], stored[1 + row], at)
        for model in range(models):
            into = kept if keeping[model] == ALL else changes
            for i in range(n):
                into[model, i] = changes[model, i] - tiles[0, i]
            if keeping[model] == AT_RANDOM:
                counter = np.uint64((first + at - skipped) >> 2)
                _philox_block(words, counter, np.uint64(key0[model]), np.uint64(key1[model]))
                highest, factor = np.uint32(thresholds[model]), thin_scales[model]
                _thin_at_random(kept, changes, model, n, words, in_order, skipped, highest, factor)
            elif keeping[model] == REACHING:
                _thin_below(kept.view(np.uint32), changes.view(np.uint32), model, n, thresholds[model])
        if elect:
            _add_elected(total, n, mass, divisor, kept, weights, shares, divide)
        else:
            _add(total, n, kept, weights, mean_scale)
        for i in range(n):
            total[i] = tiles[1, i] + total[i] * scale
        store(total, n, addresses[0], stored[0], at)
        at += n
