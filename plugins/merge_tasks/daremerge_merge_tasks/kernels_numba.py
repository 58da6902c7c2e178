"""The election of :mod:`.kernels` compiled by numba for the CPU: the same bits, sooner."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from daremerge_core.compiled import compiled

_VALUES = types.float32[::1]
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_BLOCK = 512
"""Elements of which all models are looked at before the next: what is summed stays in the first cache."""

Values = NDArray[np.float32]


@compiled(types.void(_VALUES, types.float32[:, ::1], _VALUES, _VALUES, types.boolean))
def elected_mean(out: Values, deltas: Values, weights: Values, shares: Values, divide: bool) -> None:
    """Σ of those wᵢτᵢ that have the sign of Σ wᵢτᵢ; with ``divide``, over the sum of the shares of those that have.

    Args:
        out: ``[n]``.
        deltas: ``[models, n]``.
        weights, shares: ``[models]``.
    """
    mass, kept, divisor = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for start in range(0, out.size, _BLOCK):
        n = min(_BLOCK, out.size - start)
        for i in range(n):
            mass[i], kept[i], divisor[i] = _ZERO, _ZERO, _ZERO
        for model in range(weights.size):
            delta, weight = deltas[model, start : start + n], weights[model]
            for i in range(n):
                mass[i] += delta[i] * weight
        for model in range(weights.size):
            delta, weight, share = deltas[model, start : start + n], weights[model], shares[model]
            for i in range(n):
                value = delta[i] * weight
                agrees = ((value > _ZERO) & (mass[i] > _ZERO)) | ((value < _ZERO) & (mass[i] < _ZERO))
                kept[i] += value if agrees else _ZERO
                divisor[i] += share if agrees else _ZERO
        into = out[start : start + n]
        for i in range(n):
            into[i] = kept[i] / (divisor[i] if divide and divisor[i] != _ZERO else _ONE)
