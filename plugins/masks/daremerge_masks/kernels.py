"""The maths of the masks. Tensors of one call have one shape, of any rank; masks are bool tensors of that shape."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from daremerge_core import Span

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
