"""The sums of :mod:`.kernels` compiled by numba for the CPU: the same bits, sooner.

They are compiled when they are first called, and loaded from numba's cache on disk from then on. They release
the GIL.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from daremerge_core.compiled import compiled

__all__ = ["sums"]

_VALUES, _SUMS, _COUNT = types.float32[::1], types.float64[::1], types.int64[::1]


def sums(values: Tensor) -> tuple[float, float, int]:
    """Sum, sum of squares, and how many are not zero, of at least 4 numbers of float32."""
    size = 1 << (values.numel() - 1).bit_length()
    if values.numel() < size:
        values = pad(values, (0, size - values.numel()))
    totals, squares = np.empty(size // 4), np.empty(size // 4)
    nonzero = np.zeros(1, dtype=np.int64)
    _sums(values.numpy(), totals, squares, nonzero)
    return float(totals[0]), float(squares[0]), int(nonzero[0])


@compiled(types.void(_VALUES, _SUMS, _SUMS, _COUNT))
def _sums(
    x: NDArray[np.float32], totals: NDArray[np.float64], squares: NDArray[np.float64], nonzero: NDArray[np.int64]
) -> None:
    """Adds the second half to the first until one number is left, as ``tree_sum`` does; the first two times at once."""
    n = x.size // 4
    for i in range(n):
        a, b, c, d = np.float64(x[i]), np.float64(x[i + n]), np.float64(x[i + 2 * n]), np.float64(x[i + 3 * n])
        totals[i] = (a + c) + (b + d)
        squares[i] = (a * a + c * c) + (b * b + d * d)
    half = n // 2
    while half:
        for i in range(half):
            totals[i] += totals[i + half]
            squares[i] += squares[i + half]
        half //= 2
    count = 0
    for i in range(x.size):
        count += x[i] != 0
    nonzero[0] = count
