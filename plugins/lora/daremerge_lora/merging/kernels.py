"""What TIES and DARE do to changes before they are added up.

Shapes: all tensors have the shape of the change, of any rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from daremerge_core.kernels import select

__all__ = ["drop", "elected_mean", "trim"]


def trim(delta: Tensor, density: float) -> Tensor:
    """The largest share of a change by size, zero elsewhere (TIES; Yadav et al., arXiv 2306.01708, section 4.2).

    Keeps round(density · n) elements, and those as large as the smallest of them.
    """
    count = round(density * delta.numel())
    if count >= delta.numel():
        return delta
    if count == 0:
        return torch.zeros_like(delta)
    sizes = delta.abs()
    threshold = sizes.reshape(-1).kthvalue(delta.numel() - count + 1).values
    return select(sizes >= threshold, delta)


def drop(delta: Tensor, keep: Tensor, density: float) -> Tensor:
    """m ⊙ δ / density: ``keep``'s, scaled so that the expectation stays (Yu et al., DARE, arXiv 2311.03099)."""
    return select(keep, delta * (1.0 / density)) if density else torch.zeros_like(delta)


def elected_mean(deltas: Sequence[Tensor]) -> Tensor:
    """The mean of those that agree with the sign of the sum, element by element (TIES, section 4.2).

    Zeros neither agree nor count. Where the sum is zero, so is the mean.
    """
    total = deltas[0]
    for one in deltas[1:]:
        total = total + one
    sign = torch.sign(total)
    mean, count = torch.zeros_like(total), torch.zeros_like(total)
    for one in deltas:
        agrees = one * sign > 0.0
        mean = mean + select(agrees, one)
        count = count + agrees
    return mean / count.clamp_min(1.0)
