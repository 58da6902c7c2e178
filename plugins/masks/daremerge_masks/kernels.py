"""The maths of the masks. Tensors of one call have one shape, of any rank; masks are bool tensors of that shape."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from daremerge_core import Span
from daremerge_core.rng import accelerated

# --- constants and patterns --------------------------------------------------------------------------


def constant(selected: bool, size: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.full(size, selected, dtype=torch.bool, device=device)


def pattern(shape: str, span: Span, rows: int, columns: int, size: int, device: torch.device) -> Tensor:
    """1-D: whether each element of ``span`` lies in a shape within a matrix of ``rows`` × ``columns``.

    ``size`` is the width of a stripe or the side of a square, in elements.
    """
    index = torch.arange(span.start, span.stop, device=device)
    row = index // max(columns, 1)
    column = index - row * columns
    if shape == "rows":
        return row // size % 2 == 0
    if shape == "columns":
        return column // size % 2 == 0
    if shape == "checkerboard":
        return (row // size + column // size) % 2 == 0
    # The centre of a cell lies at (row + ½)/rows from the top and (column + ½)/columns from the left.
    if shape == "upper-triangle":
        return (2 * column + 1) * rows >= (2 * row + 1) * columns
    if shape == "lower-triangle":
        return (2 * column + 1) * rows < (2 * row + 1) * columns
    if shape == "top":
        return 2 * row + 1 <= rows
    if shape == "bottom":
        return 2 * row + 1 > rows
    if shape == "left":
        return 2 * column + 1 <= columns
    if shape == "right":
        return 2 * column + 1 > columns
    raise ValueError(f"unknown shape {shape!r}")


# --- several models ----------------------------------------------------------------------------------


def same_sign(deltas: Sequence[Tensor], at_least: int) -> Tensor:
    """Where ``at_least`` of the deltas are positive, or as many are negative."""
    up = reduce(torch.add, [(delta > 0).to(torch.int32) for delta in deltas])
    down = reduce(torch.add, [(delta < 0).to(torch.int32) for delta in deltas])
    return torch.maximum(up, down) >= at_least


def tall_mask(delta: Tensor, others: Sequence[Tensor], strength: float) -> Tensor:
    """|τ| ≥ λ |Στ − τ| (arXiv 2405.07813); Στ − τ is the sum of the other deltas, in their order."""
    return delta.abs() >= strength * reduce(torch.add, others).abs()


# --- the exact quantile, by radix selection ----------------------------------------------------------
#
# The bits of non-negative floats, read as integers, are in the order of the floats. So the k-th smallest magnitude is
# found from two histograms, one of the upper 16 bits and one of the lower 16 of those elements whose upper bits are
# the k-th's: two passes over the data, and memory that does not depend on how much of it there is.

COARSE = 1 << 15
"""Values of the upper 16 bits, whose first, the sign, is zero."""
FINE = 1 << 16
NAN = 0x7F800001
"""The bits that stand for any NaN: one more than those of infinity."""


def magnitude_bits(model: Tensor, base: Tensor) -> Tensor:
    """int32 in the order of |model − base| in float32; every NaN is one value, above infinity."""
    return (model - base).to(torch.float32).abs_().view(torch.int32).clamp_(max=NAN)


def coarse_counts(bits: Tensor) -> Tensor:
    """int64, ``(COARSE,)``: how many elements of ``bits`` (1-D, on the CPU) have each value of the upper 16 bits."""
    if not accelerated():
        return torch.bincount(bits >> 16, minlength=COARSE)
    from .kernels_numba import add_coarse

    counts = torch.zeros(COARSE, dtype=torch.int64)
    add_coarse(counts.numpy(), bits.numpy().view(np.uint32))
    return counts


def fine_counts(bits: Tensor, found: Tensor) -> Tensor:
    """int64, ``(FINE,)``: the lower 16 bits of those elements that lie in the coarse bin ``found[0]``."""
    coarse = int(found[0])
    if not accelerated():
        return torch.bincount(bits[bits >> 16 == coarse] & 0xFFFF, minlength=FINE)
    from .kernels_numba import add_fine

    counts = torch.zeros(FINE, dtype=torch.int64)
    add_fine(counts.numpy(), bits.numpy().view(np.uint32), coarse)
    return counts


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
