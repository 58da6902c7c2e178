"""The change that a LoRA makes to a weight, whole or some rows of it.

Shapes: a weight of ``out`` rows is seen as a matrix ``[out, width]``; for a convolution ``width`` is input channels ×
kernel elements. Factors are float32, or float64.

**Tiles.** What a BLAS library answers for an element of a product depends, in the last bit, on the shape of the whole
product. So that the bits do not depend on which rows are asked for, a product is always computed in the same tiles of
whole rows, and cut from them. The tiles are a part of the result's definition. Another library, or another processor,
may round the last bit of a product differently.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "TILE",
    "decompose",
    "fold_core",
    "fold_hadamard_core",
    "hadamard_rows",
    "kronecker_rows",
    "product_norm",
    "product_rows",
]

TILE = 1 << 16
"""Elements in a tile of a product, about: large enough for a fast product, small beside the spans it is cut for."""


def product_rows(up: Tensor, down: Tensor, start: int, stop: int) -> Tensor:
    """Rows ``[start, stop)`` of B A, LoRA's change of a weight before scaling (Hu et al., arXiv 2106.09685, eq. 3).

    Args:
        up: B, ``[out, rank]``.
        down: A, ``[rank, width]``.

    Returns:
        ``[stop − start, width]``.
    """
    return _tiled(lambda rows: up[rows] @ down, up.shape[0], down.shape[1], start, stop)


def product_norm(up: Tensor, down: Tensor) -> float:
    """‖B A‖, the Frobenius norm, without the product: ‖B A‖² = tr(BᵀB · A Aᵀ), a sum over rank × rank elements.

    In float64. Where factors cancel each other to less than about 10⁻⁸ of their size, only rounding is left.
    """
    b, a = up.double(), down.double()
    squared = ((b.T @ b) * (a @ a.T)).sum()
    return float(squared.clamp_min(0.0).sqrt())


def hadamard_rows(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], start: int, stop: int) -> Tensor:
    """Rows of (B₁ A₁) ⊙ (B₂ A₂), LoHa's change of a weight (Hyeon-Woo et al., FedPara, arXiv 2108.06098, section 2.2).

    Args:
        first: B₁ ``[out, rank]`` and A₁ ``[rank, width]``.
        second: B₂ and A₂, the same.
    """
    (up1, down1), (up2, down2) = first, second
    width = down1.shape[1]
    return _tiled(lambda rows: (up1[rows] @ down1) * (up2[rows] @ down2), up1.shape[0], width, start, stop)


def kronecker_rows(first: Tensor, second: Tensor, start: int, stop: int) -> Tensor:
    """Rows of C ⊗ D, LoKr's change of a weight (Yeh et al., LyCORIS, arXiv 2309.14859, section 3.3).

    Row ``i · q + j`` is, for each element c of row i of C, c times row j of D. Each element is one product: no tiles.

    Args:
        first: C, ``[p, m]``.
        second: D, ``[q, n]``, where n includes the elements of a convolution's kernel.

    Returns:
        ``[stop − start, m · n]``.
    """
    rows = torch.arange(start, stop, device=first.device)
    left, right = first[rows // second.shape[0]], second[rows % second.shape[0]]
    return (left[:, :, None] * right[:, None, :]).flatten(1)


def fold_core(core: Tensor, down: Tensor) -> Tensor:
    """A Tucker core and the input's factor as one: ``[rank, width]``, so that B times it is LoCon's change of a
    convolution (LyCORIS, arXiv 2309.14859, section 3.2 and appendix B).

    ΔW[o, i, …] = Σₘₙ B[o, m] G[m, n, …] A[n, i]

    Args:
        core: G, ``[rank, rank, …kernel]``; its first rank is the output's.
        down: A, ``[rank, in]``.
    """
    folded = torch.einsum("mn...,ni->mi...", core, down)
    return folded.reshape(core.shape[0], -1)


def fold_hadamard_core(core: Tensor, output: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """One side of a LoHa convolution with a Tucker core as B and A of :func:`hadamard_rows`.

    LyCORIS keeps the output's factor transposed: ΔW[o, i, …] = Σₘₙ G[m, n, …] A[n, i] B[m, o].

    Args:
        core: G, ``[rank, rank, …kernel]``.
        output: B, ``[rank, out]``.
        down: A, ``[rank, in]``.
    """
    return output.T.contiguous(), fold_core(core, down)


def decompose(weight: Tensor, delta: Tensor, magnitude: Tensor, *, per_row: bool) -> Tensor:
    """m · (W + ΔW) / ‖W + ΔW‖, the weight that DoRA trained (Liu et al., arXiv 2402.09353, equation 5).

    The norm is over all dimensions but one: of each row, as PEFT has it and LyCORIS with ``wd_on_output``, or of each
    input channel, as LyCORIS has it without. The norm of zeros counts as the smallest step of float32 beside 1.

    Args:
        weight: W, ``[out, in, …kernel]``.
        delta: ΔW, of the same shape.
        magnitude: m, of as many elements as there are rows or input channels, in any shape.
        per_row: which of the two.
    """
    axis = 0 if per_row else 1
    moved = weight + delta
    others = [dim for dim in range(moved.dim()) if dim != axis]
    # In float64, so that the order of additions hardly matters.
    norm = (
        torch.linalg.vector_norm(moved, dim=others, keepdim=True, dtype=torch.float64) + torch.finfo(torch.float32).eps
    )
    factor: Tensor = magnitude.reshape(norm.shape).to(torch.float64) / norm
    return moved * factor.to(moved.dtype)


def _tiled(tile: Callable[[slice], Tensor], rows: int, width: int, start: int, stop: int) -> Tensor:
    """Rows ``[start, stop)``, cut from tiles of whole rows that begin at multiples of the tile's size."""
    size = max(TILE // max(width, 1), 1)
    pieces = []
    for first in range(start - start % size, stop, size):
        found = tile(slice(first, min(first + size, rows)))
        pieces.append(found[max(start - first, 0) : stop - first])
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
