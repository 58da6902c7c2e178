"""The maths of task vectors, element by element. Tensors of one call have one shape, of any rank.

τᵢ is a task vector (model − base), wᵢ its weight, vᵢ = wᵢτᵢ.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from daremerge_core.compiled import compilable

# --- how many become one -----------------------------------------------------------------------------


def total(values: Sequence[Tensor]) -> Tensor:
    """Σ vᵢ, in their order."""
    return reduce(torch.add, values)


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ wᵢ xᵢ, in their order."""
    return total([tensor * weight for tensor, weight in zip(tensors, weights, strict=True)])


def elected_signs(values: Sequence[Tensor], votes: Sequence[Tensor], *, by_count: bool) -> Tensor:
    """−1, 0 or 1 for each element: the sign that wins (TIES, arXiv 2306.01708, section 4.1).

    By mass, the sign of Σ votes. By count, the sign that more of the votes have; where as many have one as the other,
    the sign of the larger mass of ``values``. 0 where nobody votes, or votes cancel out exactly.
    """
    if not by_count:
        return torch.sign(total(votes))
    counted = total([torch.sign(vote) for vote in votes])
    return torch.sign(torch.where(counted == 0.0, total(values), counted))


def agreeing(values: Sequence[Tensor], signs: Tensor) -> list[Tensor]:
    """Where each of the values has the elected sign, as 1.0 or 0.0. A value of zero has none."""
    return [((torch.sign(value) == signs) & (signs != 0.0)).to(value.dtype) for value in values]


def disjoint(values: Sequence[Tensor], signs: Tensor, shares: Sequence[float] | None) -> Tensor:
    """Σ of the values that have the elected sign; with ``shares``, over the sum of the shares of those that have.

    Shares of |wᵢ| give the weighted mean of τᵢ, shares of 1 the mean of vᵢ. Zero where none has it.
    """
    agree = agreeing(values, signs)
    kept = total([torch.where(one != 0.0, value, 0.0) for value, one in zip(values, agree, strict=True)])
    if shares is None:
        return kept
    divisor = weighted_sum(agree, shares)
    return kept / torch.where(divisor == 0.0, 1.0, divisor)


def elected_mean(deltas: Sequence[Tensor], weights: Sequence[float], shares: Sequence[float] | None) -> Tensor:
    """:func:`disjoint` of vᵢ = wᵢτᵢ by the sign of their mass: TIES itself, and most of its time.

    Compiled where numba is there and the tensors are float32 on the CPU; the same bits either way.
    """
    if compilable(*deltas):
        from . import kernels_numba as fast

        out = torch.empty_like(deltas[0])
        flat = torch.stack([delta.reshape(-1) for delta in deltas]).numpy()
        numbers = (np.array(weights, np.float32), np.array(shares or [0.0] * len(deltas), np.float32))
        fast.elected_mean(out.reshape(-1).numpy(), flat, *numbers, shares is not None)
        return out
    values = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    return disjoint(values, elected_signs(values, values, by_count=False), shares)


# --- which elements stay -----------------------------------------------------------------------------


def della_probabilities(delta: Tensor, density: float, window: float) -> Tensor:
    """d_r = d − ε/2 + ε r/(n − 1) for each element, r its rank from the smallest of its row (DELLA, arXiv 2406.11617).

    Args:
        delta: ``[rows, n]``. Of equal magnitudes, the first in the row ranks lower. n = 1: d.
        window: ε, the whole range of probabilities.
    """
    n = delta.shape[1]
    order = delta.abs().argsort(dim=1, stable=True)
    ranks = torch.empty_like(delta)
    ranks.scatter_(1, order, torch.arange(n, dtype=delta.dtype, device=delta.device).expand_as(delta))
    return density - window / 2 + ranks * (window / (n - 1)) if n > 1 else torch.full_like(delta, density)


def drop_by_probability(delta: Tensor, uniform: Tensor, keep: Tensor, *, rescale: bool) -> Tensor:
    """m ⊙ τ / d with m ~ Bernoulli(d), a probability ``keep`` for each element; ``uniform`` is in [0, 1)."""
    return torch.where(uniform < keep, delta / keep if rescale else delta, 0.0)


def localised(values: Sequence[Tensor], strength: float, agree: int) -> Tensor:
    """Σ vᵢ where at least ``agree`` of the masks |vᵢ| ≥ λₜ |Σ v − vᵢ| select (consensus, arXiv 2405.07813)."""
    summed = total(values)
    votes = total([(value.abs() >= strength * (summed - value).abs()).to(torch.int32) for value in values])
    return torch.where(votes >= agree, summed, 0.0)


def variance(values: Sequence[Tensor]) -> Tensor:
    """Population variance over the models, element by element."""
    mean = total(values) / len(values)
    return total([(value - mean).square() for value in values]) / len(values)


def near(a: Tensor, b: Tensor, distance: float) -> Tensor:
    """a moved towards b by at most ``distance``: all the way where they are that close."""
    return torch.where((b - a).abs() <= distance, b, a + torch.sign(b - a) * distance)
