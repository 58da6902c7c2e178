"""The election of :mod:`.kernels` compiled by numba for the CPU: the same bits, sooner.

One model at a time, so that any number of models takes the same few loops. Arrays are 1-D float32.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from daremerge_core.compiled import compiled

_VALUES, _NUMBER = types.float32[::1], types.float32
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)

Values = NDArray[np.float32]


@compiled(types.void(_VALUES, _VALUES, _NUMBER))
def add_mass(mass: Values, delta: Values, weight: float) -> None:
    """mass += w τ."""
    for i in range(mass.size):
        mass[i] += delta[i] * weight


@compiled(types.void(_VALUES, _VALUES, _VALUES, _VALUES, _NUMBER, _NUMBER))
def add_agreeing(kept: Values, divisor: Values, mass: Values, delta: Values, weight: float, share: float) -> None:
    """kept += w τ and divisor += share, where w τ has the sign of the mass."""
    for i in range(kept.size):
        value = delta[i] * weight
        agrees = ((value > _ZERO) & (mass[i] > _ZERO)) | ((value < _ZERO) & (mass[i] < _ZERO))
        kept[i] += value if agrees else _ZERO
        divisor[i] += share if agrees else _ZERO


@compiled(types.void(_VALUES, _VALUES))
def divide(kept: Values, divisor: Values) -> None:
    """kept /= divisor, where it is not 0."""
    for i in range(kept.size):
        kept[i] /= divisor[i] if divisor[i] != _ZERO else _ONE
