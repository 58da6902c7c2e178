"""Magnitudes in torch: the counts that :mod:`.ranks` finds quantiles from, and where elements reach a threshold."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .compiled import compilable
from .kernels import select
from .ranks import COARSE, FINE, NAN

__all__ = [
    "coarse_counts",
    "fine_counts",
    "keep_reaching",
    "magnitude_bits",
    "reaching",
]


def magnitude_bits(values: Tensor) -> Tensor:
    """int32, of any shape: in the order of their sizes in float32; every NaN is one value, above infinity."""
    return values.to(torch.float32).abs().view(torch.int32).clamp_(max=NAN)


def coarse_counts(values: Tensor) -> Tensor:
    """int64, ``(COARSE,)``: how many elements (on the CPU) have each value of the upper 16 magnitude bits."""
    if not compilable(values):
        return torch.bincount(magnitude_bits(values.reshape(-1)) >> 16, minlength=COARSE)
    from .quantile_numba import add_coarse

    counts = torch.zeros(COARSE, dtype=torch.int64)
    add_coarse(counts.numpy(), _bits(values))
    return counts


def fine_counts(values: Tensor, found: Tensor) -> Tensor:
    """int64, ``(FINE,)``: the lower 16 bits of those elements that lie in the coarse bin ``found[0]``."""
    coarse = int(found[0])
    if not compilable(values):
        bits = magnitude_bits(values.reshape(-1))
        return torch.bincount(bits[bits >> 16 == coarse] & 0xFFFF, minlength=FINE)
    from .quantile_numba import add_fine

    counts = torch.zeros(FINE, dtype=torch.int64)
    add_fine(counts.numpy(), _bits(values), coarse)
    return counts


def _bits(values: Tensor) -> NDArray[np.uint32]:
    """The bits of float32, signs included."""
    return values.reshape(-1).view(torch.int32).numpy().view(np.uint32)


def reaching(values: Tensor, threshold: int) -> Tensor:
    """Where magnitude bits are at least ``threshold``: all for 0 and below, none beyond :data:`NAN`."""
    if not compilable(values):
        return magnitude_bits(values) >= threshold
    from .quantile_numba import mark_reaching

    out = torch.empty(values.shape, dtype=torch.bool)
    mark_reaching(out.view(torch.uint8).reshape(-1).numpy(), _bits(values), threshold)
    return out


def keep_reaching(values: Tensor, threshold: int) -> Tensor:
    """``values`` where :func:`reaching`, zero elsewhere."""
    if not compilable(values):
        return select(reaching(values, threshold), values)
    from .quantile_numba import copy_reaching

    out = torch.empty_like(values)
    copy_reaching(_bits(out), _bits(values), threshold)
    return out
