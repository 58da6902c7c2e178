"""Singular value decompositions of changes, exact and randomised, and the ranks and factors that follow from them.

Shapes: a change is a matrix ``[out, width]``; ``k`` singular values s₁ ≥ s₂ ≥ … come with left vectors ``[out, k]`` and
right vectors ``[k, width]``. The best approximation of rank r keeps the first r, and its squared error is the sum of
the squares of the rest (Eckart and Young, 1936).

Everything here is float64 inside, except where said. LAPACK's last bits differ between libraries and processors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from daremerge_core.kernels import tree_sum

from ..scales import balanced

__all__ = [
    "Svd",
    "clamp",
    "concatenate",
    "exact_svd",
    "product_svd",
    "randomised_svd",
    "rank_for_energy",
    "singular_values",
    "split",
    "squared_norm",
]


class Svd(NamedTuple):
    """U diag(s) Vᵀ, of as many terms as there are singular values."""

    left: Tensor
    """U, ``[out, k]``. In each column the entry of the largest size, the first of them, is positive."""
    values: Tensor
    """s, ``[k]``, falling."""
    right: Tensor
    """Vᵀ, ``[k, width]``."""

    def truncated(self, rank: int) -> Svd:
        """The first ``rank`` terms, or all where there are fewer."""
        return Svd(self.left[:, :rank], self.values[:rank], self.right[:rank])


def singular_values(delta: Tensor) -> Tensor:
    """All min(out, width) singular values, falling, as the roots of the eigenvalues of the smaller Gram matrix.

    Half as much work as vectors too. sᵢ has a relative error of about 10⁻¹⁶ (s₁ / sᵢ)²: single precision down to
    s₁ / 30,000; below about s₁ / 10⁸ there is only rounding.
    """
    squares: Tensor = torch.linalg.eigvalsh(_gram(delta.to(torch.float64))).flip(0)
    return squares.clamp_min(0.0).sqrt()


def exact_svd(delta: Tensor, rank: int) -> Svd:
    """The first ``rank`` terms of the decomposition of a change.

    By way of the eigenvectors of the smaller Gram matrix, in float64: more accurate for the large terms than a
    decomposition in float32, and several times sooner for an oblong matrix. U Uᵀ ΔW is the projection that it is, to
    float64's rounding, however close two singular values are.
    """
    wide = delta.to(torch.float64)
    tall = wide.shape[0] > wide.shape[1]
    found = torch.linalg.eigh(_gram(wide)).eigenvectors.flip(1)[:, :rank]
    return _from_right(wide, found) if tall else _from_left(wide, found)


def randomised_svd(delta: Tensor, rank: int, sketch: Tensor, *, power_iterations: int) -> Svd:
    """About the first ``rank`` terms, from random combinations of columns (Halko, Martinsson and Tropp, arXiv
    0909.4061, algorithms 4.4 and 5.1).

    The range Q of (ΔW ΔWᵀ)^q ΔW Ω, made orthonormal after every product, then the decomposition of Qᵀ ΔW. In float32:
    products of large matrices are all there is to do.

    What it loses is known afterwards: ‖ΔW − U diag(s) Vᵀ‖² = ‖ΔW‖² − Σ s². In expectation it is at most
    1 + r / (p − 1) times the square of the best approximation's, for p columns of Ω beyond the rank and q = 0 (theorem
    10.5); each power iteration raises the ratios of singular values to two more powers (section 10.4).

    Args:
        sketch: Ω, ``[width, rank + p]``: independent standard normal numbers.
        power_iterations: q.
    """
    range_of = delta @ sketch
    basis = torch.linalg.qr(range_of).Q
    for _ in range(power_iterations):
        basis = torch.linalg.qr(delta.T @ basis).Q
        basis = torch.linalg.qr(delta @ basis).Q
    small = exact_svd(basis.T @ delta, rank)
    return _signed(basis.to(torch.float64) @ small.left, small.values, small.right)


def product_svd(products: Sequence[tuple[float, Tensor, Tensor]]) -> Svd:
    """The decomposition of Σ cᵢ Bᵢ Aᵢ, without the sum itself: the work grows with the ranks, not with out × width.

    The factors stacked are Q_B R_B and (Q_A R_A)ᵀ; what is left is the decomposition of the small R_B R_Aᵀ.

    Args:
        products: (c, B ``[out, rank]``, A ``[rank, width]``); the ranks may differ.

    Returns:
        As many terms as the ranks together, or as the smaller side where that is less.
    """
    up = torch.cat([factor * up.to(torch.float64) for factor, up, _ in products], dim=1)
    down = torch.cat([down.to(torch.float64) for _, _, down in products])
    rows, columns = torch.linalg.qr(up), torch.linalg.qr(down.T)
    small = torch.linalg.svd(rows.R @ columns.R.T, full_matrices=False)
    return _signed(rows.Q @ small.U, small.S, small.Vh @ columns.Q.T)


def concatenate(products: Sequence[tuple[float, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """B and A with B A = Σ cᵢ Bᵢ Aᵢ, exactly but for rounding: factors side by side, each with its share of cᵢ."""
    shares = [(balanced(factor), up, down) for factor, up, down in products]
    up = torch.cat([up * share for (share, _), up, _ in shares], dim=1)
    down = torch.cat([down * share for (_, share), _, down in shares])
    return up, down


def squared_norm(delta: Tensor) -> Tensor:
    """‖ΔW‖², 0-d float64, in an order of additions that is always the same."""
    return tree_sum(delta.to(torch.float64).square())


def rank_for_energy(values: Tensor, energy: float, total: float | None = None) -> int:
    """The smallest r, at least 1, with Σ_{i ≤ r} sᵢ² ≥ energy · Σ sᵢ²; all of them where even that is too little.

    Args:
        values: singular values, falling.
        energy: a share of the squared Frobenius norm, 0 to 1.
        total: Σ sᵢ² of all singular values, where ``values`` are not all.
    """
    squares = values.to(torch.float64).square()
    kept = squares.cumsum(0)
    whole = float(kept[-1]) if total is None else total
    # What is left over, added from the small end: 1 − energy may be as small as the rounding of the sum.
    lost = whole - kept if total is not None else squares.flip(0).cumsum(0).flip(0) - squares
    enough = (lost <= (1.0 - energy) * whole).nonzero()
    return int(enough[0]) + 1 if len(enough) else len(values)


def split(svd: Svd) -> tuple[Tensor, Tensor]:
    """B = U √s and A = √s Vᵀ: factors of one size, so that neither leaves the range of a small dtype."""
    root = svd.values.sqrt()
    return svd.left * root, root[:, None] * svd.right


def clamp(up: Tensor, down: Tensor, quantile: float) -> tuple[Tensor, Tensor]:
    """Both factors with the entries beyond ± the quantile of all their sizes cut down to it; 1 cuts nothing.

    The quantile is an entry, not between two: the one of index ⌈q · n⌉, counted from 1 in rising order.
    """
    if quantile == 1.0:
        return up, down
    sizes = torch.cat([up.reshape(-1), down.reshape(-1)]).abs()
    bound = float(sizes.kthvalue(max(math.ceil(quantile * sizes.numel()), 1)).values)
    return up.clamp(-bound, bound), down.clamp(-bound, bound)


def _gram(wide: Tensor) -> Tensor:
    return wide.T @ wide if wide.shape[0] > wide.shape[1] else wide @ wide.T


def _from_left(delta: Tensor, left: Tensor) -> Svd:
    """The terms of orthonormal left vectors: Vᵀ are the rows of Uᵀ ΔW, made of length 1."""
    rows = left.T @ delta
    values = torch.linalg.vector_norm(rows, dim=1)
    return _signed(left, values, _unit(rows, values[:, None]))


def _from_right(delta: Tensor, right: Tensor) -> Svd:
    columns = delta @ right
    values = torch.linalg.vector_norm(columns, dim=0)
    return _signed(_unit(columns, values), values, right.T)


def _unit(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Vectors of length 1; zeros stay zeros."""
    return vectors / torch.where(lengths > 0, lengths, 1.0)


def _signed(left: Tensor, values: Tensor, right: Tensor) -> Svd:
    """A decomposition leaves the sign of each pair of vectors open: the largest entry of the left one is positive."""
    if not len(values):
        return Svd(left, values, right)
    largest = left.gather(0, left.abs().argmax(0, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(left.dtype)
    return Svd(left * sign, values, right * sign.T)
