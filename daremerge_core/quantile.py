"""Exact quantiles of magnitudes, at any size and in bounded memory: radix selection on the bits of floats.

The bits of non-negative floats, read as integers, are in the order of the floats. So the k-th smallest magnitude is
found from two histograms: one of the upper 16 bits, and one of the lower 16 of those elements whose upper bits are the
k-th's. Two passes over the data, each a sum of integers, so the order of its parts does not matter.

A component takes them as measuring passes: :func:`coarse_counts` and :func:`bin_of_rank`, then :func:`fine_counts` and
:func:`kth_smallest`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .compiled import compilable
from .kernels import select

__all__ = [
    "COARSE",
    "FINE",
    "NAN",
    "bin_of_rank",
    "coarse_counts",
    "fine_counts",
    "keep_reaching",
    "kth_smallest",
    "magnitude_bits",
    "reaching",
]

COARSE = 1 << 15
"""Values of the upper 16 bits, whose first, the sign, is zero."""
FINE = 1 << 16
NAN = 0x7F800001
"""The bits that stand for any NaN: one more than those of infinity."""


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


def bin_of_rank(counts: Tensor, rank: int) -> Tensor:
    """int64, ``(2,)``: the bin of the ``rank``-th smallest element, counted from 1, and its rank within that bin.

    Rank 0, before the smallest element, is rank 0 of bin 0.
    """
    up_to = counts.cumsum(0)
    found = int(torch.searchsorted(up_to, rank))
    return torch.tensor([found, rank - int(up_to[found] - counts[found])])


def kth_smallest(counts: Tensor, found: Tensor) -> Tensor:
    """int64, ``(1,)``: the bits of the element that :func:`bin_of_rank` has ``found``; −1, below all bits, for rank 0.

    ``counts`` is the fine histogram of its bin.
    """
    coarse, rank = found.tolist()
    return torch.tensor([(coarse << 16) + int(bin_of_rank(counts, rank)[0]) if rank else -1])
