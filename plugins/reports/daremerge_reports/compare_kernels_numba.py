"""The sum of :mod:`.compare_kernels` compiled by numba for the CPU: the same bits, sooner.

It is compiled when this module is first imported, and loaded from numba's cache on disk from then on. It releases
the GIL.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from daremerge_core.compiled import compiled

_LANES, _VALUES = types.float64[::1], types.float32[::1]


@compiled(types.void(_LANES, _VALUES, _VALUES))
def add_products(lanes: NDArray[np.float64], x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
    """Add each x·y to lane i mod n of the n ``lanes``, in the order of the elements."""
    width = lanes.size
    whole = x.size // width
    for row in range(whole):
        left, right = x[row * width : (row + 1) * width], y[row * width : (row + 1) * width]
        for lane in range(width):
            lanes[lane] += np.float64(left[lane]) * np.float64(right[lane])
    for i in range(whole * width, x.size):
        lanes[i - whole * width] += np.float64(x[i]) * np.float64(y[i])
