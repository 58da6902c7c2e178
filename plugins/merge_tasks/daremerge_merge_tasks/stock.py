"""Model Stock's share of the way from the base to the mean (arXiv 2403.19522, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor

from .sphere import gram


def _way(cosine: float, count: int) -> float:
    """t = N c / (1 + (N − 1) c), for a mean cosine c ≥ 0."""
    return count * cosine / (1.0 + (count - 1) * cosine)


def mean_cosine(products: Sequence[float], count: int) -> float:
    """Over the pairs of vectors, from the lower triangle of their Gram matrix; at least 0."""
    found = gram(products, count)
    cosines = [
        found[i][j] / (found[i][i] ** 0.5 * found[j][j] ** 0.5) if found[i][i] and found[j][j] else 0.0
        for i, j in combinations(range(count), 2)
    ]
    return max(fmean(cosines), 0.0)


def share(products: Sequence[float], count: int) -> float:
    """t of one tensor, from the lower triangle of the Gram matrix of its task vectors."""
    return _way(mean_cosine(products, count), count)


def by_rows(mean: Tensor, deltas: Sequence[Tensor]) -> Tensor:
    """The mean task vector, each row of (out, rest) times its own t; a vector is one row. Cosines in float64."""
    rows = [(one.reshape(one.shape[0], -1) if one.ndim > 1 else one.reshape(1, -1)).to(torch.float64) for one in deltas]
    norms = [one.norm(dim=1) for one in rows]
    cosines = []
    for i, j in combinations(range(len(rows)), 2):
        lengths = norms[i] * norms[j]
        products = (rows[i] * rows[j]).sum(dim=1)
        cosines.append(torch.where(lengths > 0, products / torch.where(lengths > 0, lengths, 1.0), 0.0))
    cosine = torch.stack(cosines).mean(dim=0).clamp_min(0.0)
    way = len(rows) * cosine / (1.0 + (len(rows) - 1) * cosine)
    return (mean.reshape(rows[0].shape) * way[:, None].to(mean.dtype)).reshape(mean.shape)
