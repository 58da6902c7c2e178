"""Merging by singular directions, on matrices ``[rows, columns]`` in float32; a convolution is (out, rest).

No singular value decomposition of a large matrix is taken. With Cᵢⱼ = AᵢAⱼᵀ, the products of the task matrices over
their longer side, every method here is Σ MᵢAᵢ with small square Mᵢ: singular values and left vectors are those of an
eigendecomposition of Cᵢᵢ, and right vectors, Vᵢᵀ = Sᵢ⁻¹UᵢᵀAᵢ, are never needed but in products VᵢᵀVⱼ, which are
Sᵢ⁻¹Uᵢᵀ Cᵢⱼ UⱼSⱼ⁻¹. That is several times sooner and takes no memory beyond the matrices themselves. The Cᵢⱼ are summed
in float64, so singular values are right to about 1e−8 of the largest; smaller ones count as zero (:data:`NEGLIGIBLE`).

Functions take and give matrices whose rows are the shorter side, but where a method says which side it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NEGLIGIBLE = 1e-7
"""Singular values below this share of the largest are zero."""
CHUNK = 1 << 21
"""Elements of a matrix that are in float64 at a time."""

Products = Sequence[Sequence[Tensor]]
"""Cᵢⱼ = AᵢAⱼᵀ, ``[rows, rows]`` in float64."""


class Directions(NamedTuple):
    """Left singular vectors U ``[rows, r]`` and their singular values ``[r]``, falling, in float64."""

    left: Tensor
    values: Tensor

    def first(self, count: int) -> Directions:
        return Directions(self.left[:, :count], self.values[:count])

    def projector(self) -> Tensor:
        """S⁻¹Uᵀ, ``[r, rows]``: what makes right vectors of a matrix."""
        return (self.left / self.values).T


def _chunks(columns: int, rows: int) -> list[slice]:
    step = max(CHUNK // max(rows, 1), 1)
    return [slice(start, start + step) for start in range(0, columns, step)]


def products(matrices: Sequence[Tensor]) -> Products:
    """Cᵢⱼ = AᵢAⱼᵀ for every pair."""
    rows, columns = matrices[0].shape
    count, device = len(matrices), matrices[0].device
    found = [[torch.zeros(rows, rows, dtype=torch.float64, device=device) for _ in range(i + 1)] for i in range(count)]
    for chunk in _chunks(columns, rows * count):
        wide = [matrix[:, chunk].to(torch.float64) for matrix in matrices]
        for i in range(count):
            for j in range(i + 1):
                found[i][j].addmm_(wide[i], wide[j].T)
    return [[found[i][j] if j <= i else found[j][i].T for j in range(count)] for i in range(count)]


def combined(factors: Sequence[Tensor], matrices: Sequence[Tensor]) -> Tensor:
    """Σ MᵢAᵢ in float32: factors ``[rows, rows]`` in float64."""
    result = torch.zeros_like(matrices[0])
    for factor, matrix in zip(factors, matrices, strict=True):
        result.addmm_(factor.to(matrix.dtype), matrix)
    return result


def directions(product: Tensor, of: Tensor | None = None) -> Directions:
    """The singular directions of A from AAᵀ, those of negligible length left out.

    Args:
        of: the product of what A is a part of, which says what is negligible; A itself by default.
    """
    squares, vectors = torch.linalg.eigh(product)
    values = squares.clamp_min(0.0).sqrt().flip(0)
    left = vectors.flip(1)
    largest = values[:1] if of is None else of.trace().sqrt()
    count = int((values > NEGLIGIBLE * largest).sum())
    return Directions(left[:, :count], values[:count])


def inverse_root(product: Tensor) -> Tensor:
    """G^(−1/2) of a positive semi-definite matrix, on its range."""
    squares, vectors = torch.linalg.eigh(product)
    roots = squares.clamp_min(0.0).sqrt()
    inverse = torch.where(roots > NEGLIGIBLE * roots[-1], 1.0 / roots, 0.0) if len(roots) else roots
    return (vectors * inverse) @ vectors.T


def tsv_m(found: Products, rank: int) -> list[Tensor]:
    """Task singular vectors, merged (arXiv 2412.00081): the first ``rank`` directions of each task, made orthogonal.

    U = [U₁ … U_N] and V likewise, replaced by their polar factors Û = U(UᵀU)^(−1/2), V̂; the result is Û S V̂ᵀ.
    """
    tasks = [directions(found[i][i]).first(rank) for i in range(len(found))]
    left = torch.cat([task.left for task in tasks], dim=1)
    values = torch.cat([task.values for task in tasks])
    return _assembled(left, values, [task.projector() for task in tasks], found)


def _assembled(left: Tensor, values: Tensor, projectors: Sequence[Tensor], found: Products) -> list[Tensor]:
    """Mᵢ of Û S V̂ᵀ, with Vᵀ the stack of projector · Aᵢ.

    Args:
        left: U, ``[rows, r]``, the tasks side by side.
        values: S, ``[r]``.
        projectors: for each task, what makes its right vectors of its matrix.
    """
    gram = torch.cat(
        [
            torch.cat([one @ found[i][j] @ other.T for j, other in enumerate(projectors)], dim=1)
            for i, one in enumerate(projectors)
        ]
    )
    middle = (left @ inverse_root(left.T @ left) * values) @ inverse_root(gram)
    sizes = [len(one) for one in projectors]
    return [part @ one for part, one in zip(middle.split(sizes, dim=1), projectors, strict=True)]


def iso_c(found: Products, sides: int, rank: int | None = None) -> list[Tensor]:
    """Isotropic merging (arXiv 2502.04959): Σ Aᵢ with all its singular values replaced by their mean.

    Args:
        sides: min(rows, columns) of the matrix, over which the mean is taken.
        rank: of the first so many directions alone, whose mean it then is.
    """
    summed = directions(_summed(found))
    if rank is not None:
        summed, sides = summed.first(rank), min(rank, sides)
    mean = float(summed.values.sum()) / sides if sides else 0.0
    return [summed.left @ (summed.projector() * mean)] * len(found)


def _summed(found: Products) -> Tensor:
    """ΣᵢΣⱼ Cᵢⱼ: the product of Σ Aᵢ with itself."""
    return torch.stack([torch.stack(list(row)).sum(0) for row in found]).sum(0)


def iso_cts(found: Products, sides: int, common: float) -> list[Tensor]:
    """Isotropic merging in common and task-specific subspaces (arXiv 2502.04959, algorithm 2).

    The first k directions of Σ Aᵢ, and of each task the first (sides − k)/N of what is orthogonal to them, made
    orthogonal together and of one length, the mean of theirs. k is near ``common`` · sides, so that the rest divides.
    """
    tasks, like = len(found), found[0][0]
    each = round((sides - int(sides * common)) / tasks)
    shared = directions(_summed(found)).first(sides - each * tasks)
    outside = torch.eye(len(like), dtype=like.dtype, device=like.device) - shared.left @ shared.left.T
    own = [directions(outside @ found[i][i] @ outside, found[i][i]).first(each) for i in range(tasks)]
    left = torch.cat([*(one.left for one in own), shared.left], dim=1)
    values = torch.cat([*(one.values for one in own), shared.values])
    mean = float(values.sum()) / sides if sides else 0.0
    # Vᵀ is Σ FᵢAᵢ: S⁻¹Uᵀ of what each task has outside, one below the other, then S⁻¹Uᵀ of the sum of all.
    factors = []
    for task in range(tasks):
        rows = [one.projector() @ outside if i == task else torch.zeros_like(one.left.T) for i, one in enumerate(own)]
        factors.append(torch.cat([*rows, shared.projector()]))
    gram = torch.zeros(len(values), len(values), dtype=like.dtype, device=like.device)
    for i, one in enumerate(factors):
        for j, other in enumerate(factors):
            gram += one @ found[i][j] @ other.T
    middle = left @ inverse_root(left.T @ left) @ inverse_root(gram) * mean
    return [middle @ one for one in factors]


def wudi(matrices: Sequence[Tensor], ridge: float) -> Tensor:
    """The merge that disturbs no task's inputs, in closed form (WUDI, arXiv 2503.08099, section 3.3).

    min over W of Σ ‖(W − Aᵢ)Aᵢᵀ‖²/‖Aᵢ‖², whose rows span the inputs of task i: W = (Σ AᵢGᵢ + ρ Σ Aᵢ)(Σ Gᵢ + ρI)⁻¹ with
    Gᵢ = AᵢᵀAᵢ/‖Aᵢ‖² and ρ = ridge · tr(ΣG)/columns. Columns are the inputs, whichever side is shorter.

    Where the rows of all tasks together are fewer than the columns, the same by the smaller matrix XXᵀ of the stacked
    X = [Aᵢ/‖Aᵢ‖]: W = (B + ρC)(XXᵀ + ρI)⁻¹X with B = [AᵢAᵢᵀ/‖Aᵢ‖] and C = [‖Aᵢ‖I].
    """
    rows, columns = matrices[0].shape
    norms = [float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) for matrix in matrices]
    moved = [(matrix, norm) for matrix, norm in zip(matrices, norms, strict=True) if norm]
    if not moved:
        return torch.zeros_like(matrices[0])
    tasks = len(moved)
    rho = ridge * tasks / columns
    if tasks * rows < columns:
        return _wudi_by_rows([one for one, _ in moved], [norm for _, norm in moved], rho)
    eye = torch.eye(columns, dtype=torch.float64, device=matrices[0].device)
    squares = [products([one.T])[0][0] / norm**2 for one, norm in moved]
    root = torch.linalg.cholesky(sum(squares, eye * rho))
    result = torch.zeros_like(matrices[0])
    for (matrix, _), square in zip(moved, squares, strict=True):
        result.addmm_(matrix, torch.cholesky_solve(square + eye * rho, root).T.to(matrix.dtype))
    return result


def _wudi_by_rows(matrices: Sequence[Tensor], norms: Sequence[float], rho: float) -> Tensor:
    found = products(matrices)
    rows, tasks = len(matrices[0]), len(matrices)
    eye = torch.eye(rows, dtype=torch.float64, device=matrices[0].device)
    system = torch.cat(
        [torch.cat([found[i][j] / (norms[i] * norms[j]) for j in range(tasks)], dim=1) for i in range(tasks)]
    )
    system.diagonal().add_(rho)
    wanted = torch.cat([found[i][i] / norms[i] + eye * (rho * norms[i]) for i in range(tasks)], dim=1)
    solved = torch.cholesky_solve(wanted.T, torch.linalg.cholesky(system)).T
    parts = [part / norm for part, norm in zip(solved.split(rows, dim=1), norms, strict=True)]
    return combined(parts, matrices)


def wudi_by_descent(matrices: Sequence[Tensor], steps: int, rate: float) -> Tensor:
    """The same loss from Σ Aᵢ down by Adam, as the paper does it: ends nearer to the sum than to the minimum."""
    norms = [float(one.square().sum(dtype=torch.float64)) for one in matrices]
    moved = [(one, norm) for one, norm in zip(matrices, norms, strict=True) if norm]
    merged = torch.stack(list(matrices)).sum(0)
    if not moved:
        return merged
    first, second = torch.zeros_like(merged), torch.zeros_like(merged)
    grams = [products([one.T])[0][0].to(one.dtype) / norm for one, norm in moved]
    for step in range(1, steps + 1):
        # d/dW ‖(W − A)Aᵀ‖² = 2 (W − A)AᵀA
        slope = torch.zeros_like(merged)
        for (one, _), gram in zip(moved, grams, strict=True):
            slope.addmm_(merged - one, gram, alpha=2.0)
        first.mul_(0.9).add_(slope, alpha=0.1)
        second.mul_(0.999).addcmul_(slope, slope, value=0.001)
        merged = merged - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return merged


def svc(merged: Tensor, matrices: Sequence[Tensor], floor: float) -> Tensor:
    """Singular values calibrated so that no direction is counted twice (SVC, arXiv 2602.05536).

    In each left singular direction u_r of the merge, sᵢ = ⟨u_rᵀM, u_rᵀAᵢ⟩ / ‖u_rᵀAᵢ‖² says how much of task i's own
    response there is in it; its singular value is multiplied by N / Σ max(floor, sᵢ). Rows may be either side.
    """
    tall = merged.shape[0] > merged.shape[1]
    sides = [one.T if tall else one for one in (merged, *matrices)]
    found = products(sides)
    own = directions(found[0][0])
    if not len(own.values):
        return merged
    overlaps = []
    for i in range(1, len(sides)):
        if tall:  # u = Mv/s, so uᵀAᵢ = vᵀ(MᵀAᵢ)/s
            response = own.left.T @ found[0][i]
            inner, size = (response * own.left.T).sum(1), (response / own.values[:, None]).square().sum(1)
        else:
            inner = ((own.left.T @ found[0][i]) * own.left.T).sum(1)
            size = ((own.left.T @ found[i][i]) * own.left.T).sum(1)
        overlaps.append(torch.where(size > 0, inner / torch.where(size > 0, size, 1.0), floor).clamp_min(floor))
    factor = len(matrices) / torch.stack(overlaps).sum(0)
    change = (own.left * (factor - 1.0)) @ own.left.T
    result = sides[0] + combined([change], sides[:1])
    return result.T if tall else result


# --- about as well, in a fraction of the time --------------------------------------------------------


class Factors(NamedTuple):
    """U ``[rows, r]``, S ``[r]``, Vᵀ ``[r, columns]``."""

    left: Tensor
    values: Tensor
    right: Tensor


def sketched(matrix: Tensor, rank: int, sketch: Tensor) -> Factors:
    """About the first ``rank`` singular directions, from random combinations of columns (Halko et al., 0909.4061).

    One power iteration. What it loses is at most, in expectation, 1 + rank/(p − 1) times the square of what the best
    approximation of that rank loses, for p columns of ``sketch`` beyond the rank; the iteration makes it far less.

    Args:
        sketch: ``[columns, rank + p]`` of independent standard normal numbers.
    """
    basis = torch.linalg.qr(matrix @ sketch).Q
    basis = torch.linalg.qr(matrix.T @ basis).Q
    basis = torch.linalg.qr(matrix @ basis).Q
    small = basis.T @ matrix
    own = directions(products([small])[0][0]).first(rank)
    left = basis @ own.left.to(basis.dtype)
    return Factors(left, own.values, own.projector().to(small.dtype) @ small)


def tsv_m_of(tasks: Sequence[Factors]) -> Tensor:
    """Û S V̂ᵀ of tasks that are there as factors."""
    left = torch.cat([task.left for task in tasks], dim=1)
    right = torch.cat([task.right for task in tasks])
    values = torch.cat([task.values for task in tasks])
    wide, tall = left.to(torch.float64), right.to(torch.float64)
    middle = (inverse_root(wide.T @ wide) * values) @ inverse_root(tall @ tall.T)
    return (left @ middle.to(left.dtype)) @ right
