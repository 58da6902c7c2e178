"""Exact quantiles of magnitudes, at any size and in bounded memory: radix selection on the bits of floats.

The bits of non-negative floats, read as integers, are in the order of the floats. So the k-th smallest magnitude is
found from two histograms: one of the upper 16 bits, and one of the lower 16 of those elements whose upper bits are the
k-th's. Two passes over the data, each a sum of integers, so the order of its parts does not matter.

A component takes them as measuring passes: counts of all elements and :func:`bin_of_rank`, then counts within that bin
and :func:`kth_smallest`. The counts are :mod:`.quantile`'s, or :mod:`.tally`'s where loops can run. Imports no torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["COARSE", "FINE", "NAN", "bin_of_rank", "kth_smallest"]

COARSE = 1 << 15
"""Values of the upper 16 bits, whose first, the sign, is zero."""
FINE = 1 << 16
NAN = 0x7F800001
"""The bits that stand for any NaN: one more than those of infinity."""

Counts = NDArray[np.int64]


def bin_of_rank(counts: Counts, rank: int) -> Counts:
    """int64, ``(2,)``: the bin of the ``rank``-th smallest element, counted from 1, and its rank within that bin.

    Rank 0, before the smallest element, is rank 0 of bin 0.
    """
    up_to = counts.cumsum()
    found = int(np.searchsorted(up_to, rank))
    return np.array([found, rank - int(up_to[found] - counts[found])])


def kth_smallest(counts: Counts, found: Counts) -> Counts:
    """int64, ``(1,)``: the bits of the element that :func:`bin_of_rank` has ``found``; −1, below all bits, for rank 0.

    ``counts`` is the fine histogram of its bin.
    """
    coarse, rank = found.tolist()
    return np.array([(coarse << 16) + int(bin_of_rank(counts, rank)[0]) if rank else -1])
