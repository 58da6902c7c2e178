"""The sums of :mod:`.compare_kernels` compiled by numba for the CPU: the same bits, sooner.

They are compiled when they are first called, and loaded from numba's cache on disk from then on. They release
the GIL. Each row of elements, one for each lane, is gone through by several plain loops, so that the compiler makes
use of the machine's vectors.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from daremerge_core.compiled import compiled

_LANES, _SUMS, _COUNTS, _VALUES = types.float64[::1], types.float64[:, ::1], types.int64[::1], types.float32[::1]


@compiled(types.void(_LANES, _VALUES, _VALUES))
def add_products(lanes: NDArray[np.float64], x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
    """Add each x·y to lane i mod n of the n ``lanes``, in the order of the elements."""
    for start in range(0, x.size, lanes.size):
        left, right = x[start : start + lanes.size], y[start : start + lanes.size]
        for i in range(left.size):
            lanes[i] += np.float64(left[i]) * np.float64(right[i])


@compiled(types.void(_SUMS, _LANES, _VALUES, _VALUES))
def add_differences(
    sums: NDArray[np.float64], peaks: NDArray[np.float64], x: NDArray[np.float32], a: NDArray[np.float32]
) -> None:
    """Add (x − a)², x², a² and x·a to the lanes of ``sums``, and keep the largest |x − a| of each lane."""
    deltas, own, reference, products = sums[0], sums[1], sums[2], sums[3]
    for start in range(0, x.size, peaks.size):
        xs, bases = x[start : start + peaks.size], a[start : start + peaks.size]
        for i in range(xs.size):
            delta = np.float64(xs[i] - bases[i])
            deltas[i] += delta * delta
            peaks[i] = max(peaks[i], abs(delta))
        for i in range(xs.size):
            own[i] += np.float64(xs[i]) * np.float64(xs[i])
        for i in range(xs.size):
            reference[i] += np.float64(bases[i]) * np.float64(bases[i])
        for i in range(xs.size):
            products[i] += np.float64(xs[i]) * np.float64(bases[i])


@compiled(types.void(_COUNTS, _VALUES, _VALUES))
def count_differences(counts: NDArray[np.int64], x: NDArray[np.float32], a: NDArray[np.float32]) -> None:
    """Count the elements that are not equal (NaN equals NaN), and those where either is not finite."""
    changed, broken = 0, 0
    for i in range(x.size):
        one, other = x[i], a[i]
        changed += (one != other) & ((one == one) | (other == other))
        broken += (one - one) + (other - other) != 0
    counts[0] += changed
    counts[1] += broken


_ROWS, _MATRIX = types.float32[:, ::1], types.int64[:, ::1]


@compiled(types.void(_SUMS, _COUNTS, _ROWS))
def add_movement(sums: NDArray[np.float64], counts: NDArray[np.int64], deltas: NDArray[np.float32]) -> None:
    """Add Σᵢ|τᵢ|, the same where signs conflict, and |Σᵢ τᵢ| to the lanes of ``sums``.

    ``counts`` are of elements that one model moves or more, that two move or more, and whose signs conflict.
    """
    models, size = deltas.shape
    width = sums.shape[1]
    zero = np.float32(0)
    for start in range(0, size, width):
        for i in range(start, min(start + width, size)):
            ups, downs, movement, net = 0, 0, zero, zero
            for model in range(models):
                delta = deltas[model, i]
                ups += delta > 0
                downs += delta < 0
                movement += abs(delta)
                net += delta
            opposed = (ups > 0) & (downs > 0)
            counts[0] += ups + downs > 0
            counts[1] += ups + downs > 1
            counts[2] += opposed
            sums[0, i - start] += np.float64(movement)
            sums[1, i - start] += np.float64(movement if opposed else zero)
            sums[2, i - start] += np.float64(abs(net))


@compiled(types.void(_COUNTS, _VALUES, _VALUES))
def count_pair(counts: NDArray[np.int64], x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
    """Count the elements that two deltas both move, and those that they move in opposite directions."""
    both, opposed = 0, 0
    for i in range(x.size):
        both += (x[i] != 0) & (y[i] != 0)
        opposed += ((x[i] > 0) & (y[i] < 0)) | ((x[i] < 0) & (y[i] > 0))
    counts[0] += both
    counts[1] += opposed


@compiled(types.void(_COUNTS, _COUNTS, _VALUES, _VALUES, _ROWS, types.boolean[::1]))
def count_work(
    counts: NDArray[np.int64],
    moved: NDArray[np.int64],
    before: NDArray[np.float32],
    result: NDArray[np.float32],
    deltas: NDArray[np.float32],
    selected: NDArray[np.bool_],
) -> None:
    """Count the elements that are selected, changed, changed where they could be, and not finite in the result.

    ``moved`` counts the selected ones by how many of the deltas are not zero there.
    """
    for i in range(result.size):
        old, new = before[i], result[i]
        movers = 0
        for model in range(deltas.shape[0]):
            movers += deltas[model, i] != 0
        changed = (old != new) & ((old == old) | (new == new))
        counts[0] += selected[i]
        counts[1] += changed
        counts[2] += changed & selected[i] & (movers > 0)
        counts[3] += new - new != 0
        moved[movers] += selected[i]
