"""The numbers that comparing models takes. Tensors of one call are 1-D, of one length and one float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from daremerge_core.kernels import tree_sum
from daremerge_core.rng import accelerated

LANES = 4096
"""Sums that are kept side by side: few enough to stay in a core's cache, and enough for torch to add them in few calls.
They divide the survey's blocks."""


class Dot:
    """Σ x·y over the blocks of a tensor, in float64: the same bits on every machine.

    Element i of each block is added to lane i mod :data:`LANES`, in the order of the elements; in the end the lanes are
    added by a binary tree.
    """

    def __init__(self) -> None:
        self._lanes = torch.zeros(LANES, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the products of one block."""
        if x.dtype == torch.float32 and accelerated():
            from .compare_kernels_numba import add_products

            add_products(self._lanes.numpy(), x.contiguous().numpy(), y.contiguous().numpy())
        else:
            add_products_in_torch(self._lanes, x, y)

    def total(self) -> float:
        return float(tree_sum(self._lanes))


def add_products_in_torch(lanes: Tensor, x: Tensor, y: Tensor) -> None:
    """The reference of :func:`.compare_kernels_numba.add_products`."""
    products = x.to(torch.float64) * y.to(torch.float64)
    whole = products.numel() // lanes.numel() * lanes.numel()
    for row in products[:whole].view(-1, lanes.numel()):
        lanes += row
    lanes[: products.numel() - whole] += products[whole:]


def largest(values: Tensor) -> float:
    """max |v|; 0 of none, NaN where there is one."""
    if not values.numel():
        return 0.0
    low, high = torch.aminmax(values)
    return float(torch.maximum(-low, high))


def finite(*values: Tensor) -> tuple[list[Tensor], int]:
    """The values with zeros wherever one of them is NaN or infinite, and the number of such places."""
    good = torch.isfinite(values[0])
    for one in values[1:]:
        good &= torch.isfinite(one)
    return [torch.where(good, one, 0.0) for one in values], int((~good).sum())
