"""Averages of directions. All they need of N vectors is their Gram matrix, so they work on numbers, not on tensors:
a result is a factor for each vector, and the sum of the vectors times their factors is the average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Gram = Sequence[Sequence[float]]
"""⟨θᵢ, θⱼ⟩ for each pair."""

PARALLEL = 1e-8
"""Sine of an angle below which vectors count as parallel."""


def gram(products: Sequence[float], count: int) -> Gram:
    """The symmetric matrix of its lower triangle, row by row."""
    rows = [list(products[i * (i + 1) // 2 : i * (i + 1) // 2 + i + 1]) for i in range(count)]
    return [[rows[max(i, j)][min(i, j)] for j in range(count)] for i in range(count)]


def _unit(found: Gram) -> tuple[list[float], Gram]:
    """Norms, and the cosines between the vectors: 0 for a vector of length 0."""
    norms = [math.sqrt(max(row[i], 0.0)) for i, row in enumerate(found)]
    return norms, [
        [found[i][j] / (norms[i] * norms[j]) if norms[i] and norms[j] else 0.0 for j in range(len(norms))]
        for i in range(len(norms))
    ]


def _length(factors: Sequence[float], cosines: Gram) -> float:
    """‖Σ cᵢuᵢ‖ of unit vectors uᵢ."""
    pairs = ((i, j) for i in range(len(factors)) for j in range(len(factors)))
    return math.sqrt(max(math.fsum(factors[i] * factors[j] * cosines[i][j] for i, j in pairs), 0.0))


def _dots(factors: Sequence[float], cosines: Gram) -> list[float]:
    """⟨Σ cⱼuⱼ, uᵢ⟩ for each i."""
    return [math.fsum(factor * row[j] for j, factor in enumerate(factors)) for row in cosines]


def karcher(found: Gram, weights: Sequence[float], *, iterations: int, tolerance: float) -> list[float]:
    """The Riemannian mean on the sphere, times the weighted mean of the norms; see :class:`~.averages.Karcher`."""
    norms, cosines = _unit(found)
    whole = sum(weights)
    alphas = [weight / whole if whole else 1.0 / len(weights) for weight in weights]
    scale = math.fsum(alpha * norm for alpha, norm in zip(alphas, norms, strict=True))
    alphas = [alpha if norm > tolerance else 0.0 for alpha, norm in zip(alphas, norms, strict=True)]
    if not (directed := sum(alphas)):
        return [0.0] * len(norms)
    alphas = [alpha / directed for alpha in alphas]
    mean = _normalised(alphas, cosines) or [float(i == alphas.index(max(alphas))) for i in range(len(alphas))]
    for _ in range(iterations):
        dots = [min(max(dot, -1.0), 1.0) for dot in _dots(mean, cosines)]
        angles = [math.acos(dot) for dot in dots]
        pulls = [
            alpha * angle / math.sin(angle) if tolerance <= angle and math.sin(angle) else 0.0
            for alpha, angle in zip(alphas, angles, strict=True)
        ]
        back = math.fsum(pull * dot for pull, dot in zip(pulls, dots, strict=True))
        tangent = [pull - back * one for pull, one in zip(pulls, mean, strict=True)]
        step = _length(tangent, cosines)
        if step < tolerance:
            break
        mean = [math.cos(step) * one + math.sin(step) / step * way for one, way in zip(mean, tangent, strict=True)]
        mean = _normalised(mean, cosines) or mean
    return [scale * one / norm if norm else 0.0 for one, norm in zip(mean, norms, strict=True)]


def _normalised(factors: Sequence[float], cosines: Gram) -> list[float] | None:
    length = _length(factors, cosines)
    return [factor / length for factor in factors] if length > PARALLEL else None


def multislerp(found: Gram, weights: Sequence[float]) -> list[float]:
    """See :class:`~.averages.MultiSlerp`; ``weights`` as they are used."""
    norms, cosines = _unit(found)
    if len(norms) == 1:
        return [1.0]
    mean = _normalised(weights, cosines)
    if mean is None:
        return list(weights) if len(norms) == 2 else [1.0] + [0.0] * (len(norms) - 1)
    back = math.fsum(weight * dot for weight, dot in zip(weights, _dots(mean, cosines), strict=True))
    tangent = [weight - back * one for weight, one in zip(weights, mean, strict=True)]
    angle = _length(tangent, cosines)
    turn = math.sin(angle) / angle if angle else 1.0
    scale = math.fsum(weight * norm for weight, norm in zip(weights, norms, strict=True))
    moved = [math.cos(angle) * one + turn * way for one, way in zip(mean, tangent, strict=True)]
    return [scale * one / norm if norm else 0.0 for one, norm in zip(moved, norms, strict=True)]


def slerp_factors(aa: float, bb: float, ab: float, t: float) -> tuple[float, float]:
    """What a and b are multiplied by, from ⟨a, a⟩, ⟨b, b⟩ and ⟨a, b⟩."""
    lengths = math.sqrt(aa) * math.sqrt(bb)
    cosine = min(max(ab / lengths, -1.0), 1.0) if lengths else 1.0
    angle = math.acos(cosine)
    sine = math.sin(angle)
    if sine < PARALLEL:
        return 1.0 - t, t
    return math.sin((1.0 - t) * angle) / sine, math.sin(t * angle) / sine


def slerp_lines(a: Tensor, b: Tensor, t: float, *, along_rows: bool) -> Tensor:
    """Slerp of each row, or each column, of the matrix (out, rest); a vector is one vector. Angles in float64."""
    first, second = (one.reshape(one.shape[0], -1) if one.ndim > 1 else one.reshape(1, -1) for one in (a, b))
    axis = 1 if along_rows or a.ndim < 2 else 0
    wide, other = first.to(torch.float64), second.to(torch.float64)
    lengths = wide.norm(dim=axis, keepdim=True) * other.norm(dim=axis, keepdim=True)
    products = (wide * other).sum(dim=axis, keepdim=True)
    cosine = torch.where(lengths > 0, products / torch.where(lengths > 0, lengths, 1.0), 1.0).clamp(-1.0, 1.0)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    parallel = sine < PARALLEL
    safe = torch.where(parallel, 1.0, sine)
    one = torch.where(parallel, 1.0 - t, torch.sin((1.0 - t) * angle) / safe).to(a.dtype)
    two = torch.where(parallel, t, torch.sin(t * angle) / safe).to(a.dtype)
    return (first * one + second * two).reshape(a.shape)
