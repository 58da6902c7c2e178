"""The numerics of reports on one model or mask: one reading of a tensor, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from daremerge_core.kernels import tree_sum
from daremerge_core.rng import accelerated

from .statistics import Statistics

__all__ = [
    "Grid",
    "Health",
    "Spot",
    "count_selected",
    "examine",
    "numbers",
    "pooled",
    "spots",
    "statistics",
]

Blocks = Iterable[tuple[Tensor, ...]]
"""Elements of a tensor in order, as 1-D tensors: float32, float64 or bool."""


def count_selected(blocks: Blocks) -> int:
    """How many elements of a mask are True."""
    return sum(int(torch.count_nonzero(block)) for (block,) in blocks)


def statistics(blocks: Blocks) -> Statistics:
    """All of :class:`Statistics` in one reading."""
    found = Statistics()
    for (block,) in blocks:
        if block.numel():
            found = found + of_block(block if block.is_floating_point() else block.to(torch.float32))
    return found


def of_block(values: Tensor) -> Statistics:
    """The statistics of one block of floats, of at least one element."""
    low, high = map(float, torch.aminmax(values))  # NaN where there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        return _of_broken(values)
    total, squares, nonzero = _sums(values)
    return Statistics(values.numel(), zeros=values.numel() - nonzero, total=total, squares=squares, low=low, high=high)


def _of_broken(values: Tensor) -> Statistics:
    """As :func:`of_block`, where some elements are NaN or infinite."""
    nans = int(torch.count_nonzero(values.isnan()))
    finite = values[values.isfinite()]
    rest = of_block(finite) if finite.numel() else Statistics()
    return rest + Statistics(
        values.numel() - finite.numel(), nans=nans, infinities=values.numel() - finite.numel() - nans
    )


def _sums(values: Tensor) -> tuple[float, float, int]:
    """Sum and sum of squares in float64 by :func:`~daremerge_core.kernels.tree_sum`, and how many are not zero."""
    if values.dtype == torch.float32 and values.numel() >= 4 and accelerated():
        from . import kernels_numba

        return kernels_numba.sums(values)
    wide = values.to(torch.float64)
    return float(tree_sum(wide)), float(tree_sum(wide * wide)), int(torch.count_nonzero(values))


# --- what is wrong with a tensor ------------------------------------------------------------------------

HALF_MAX = 65504.0
"""The largest float16."""
HALF_NOTHING = 2.0**-25
"""What is no larger than this becomes zero in float16: half its smallest subnormal, which rounds to even."""


class Health(NamedTuple):
    """What :func:`examine` finds in one tensor."""

    statistics: Statistics
    dead_rows: int
    """Rows (elements of the first dimension) that are zero all over."""
    over: int
    """Finite elements that float16 cannot hold."""
    under: int
    """Elements that are not zero, and would be in float16."""


def examine(blocks: Blocks, row: int, *, wide: bool) -> Health:
    """One reading of a tensor for its faults.

    Args:
        row: elements of a row; 0 for no counting of rows.
        wide: whether the tensor is stored in a dtype with more range than float16.
    """
    found = Statistics()
    rows = _DeadRows(row)
    over = under = 0
    for (block,) in blocks:
        if not block.numel():
            continue
        values = block if block.is_floating_point() else block.to(torch.float32)
        one = of_block(values)
        rows.take(values, one.zeros)
        if wide:
            if max(abs(one.low), abs(one.high)) > HALF_MAX:
                over += int(torch.count_nonzero((values.abs() > HALF_MAX) & values.isfinite()))
            under += int(torch.count_nonzero(values.abs() <= HALF_NOTHING)) - one.zeros
        found = found + one
    return Health(found, rows.dead, over, under)


class _DeadRows:
    """Counts the rows that are zero all over, of a tensor that comes in blocks of any length."""

    def __init__(self, row: int) -> None:
        self.row = row
        self.dead = 0
        self._alive = False
        """Whether the row that is not finished yet has an element that is not zero."""
        self._at = 0

    def take(self, values: Tensor, zeros: int) -> None:
        """The next elements; ``zeros`` of them are zero."""
        if not self.row:
            return
        start, self._at = self._at, self._at + values.numel()
        if zeros == 0:
            self._alive = self._at % self.row != 0
            return
        head = min(-start % self.row, values.numel())  # the rest of a row begun before
        if head:
            self._piece(values[:head], ends=(start + head) % self.row == 0)
        whole = (values.numel() - head) // self.row
        body = values[head : head + whole * self.row]
        if zeros >= self.row and whole:
            self.dead += whole - int(torch.count_nonzero((body != 0).view(whole, self.row).any(dim=1)))
        if head + body.numel() < values.numel():
            self._piece(values[head + body.numel() :], ends=False)

    def _piece(self, values: Tensor, *, ends: bool) -> None:
        self._alive = self._alive or bool(torch.count_nonzero(values))
        if ends:
            self.dead += not self._alive
            self._alive = False


# --- quantiles ------------------------------------------------------------------------------------------

_HALF = 1 << 16


class Spot(NamedTuple):
    """Where the element of some rank lies among all float32: the upper half of its bits, and its rank among those."""

    upper: int
    rank: int


def spots(blocks: Blocks, ranks: Sequence[int]) -> list[Spot]:
    """Where the finite elements of these ranks lie: 0 is the least. Elements are rounded to float32.

    A first reading counts the upper halves of the elements' bits, mapped so that they are in the order of the numbers;
    a second one (:func:`numbers`) counts the lower halves of those found here. No sorting, and memory for one block.
    """
    counts = torch.zeros(_HALF, dtype=torch.int64)
    for (block,) in blocks:
        counts += torch.bincount(_ordered(block) >> 16, minlength=_HALF)
    return [Spot(*_ranked(counts, rank)) for rank in ranks]


def numbers(blocks: Blocks, found: Sequence[Spot]) -> list[float]:
    """The elements that :func:`spots` has found."""
    counts = {spot.upper: torch.zeros(_HALF, dtype=torch.int64) for spot in found}
    for (block,) in blocks:
        bits = _ordered(block)
        upper = bits >> 16
        for half, count in counts.items():
            count += torch.bincount(bits[upper == half] & 0xFFFF, minlength=_HALF)
    return [_number(spot.upper << 16 | _ranked(counts[spot.upper], spot.rank)[0]) for spot in found]


def _ranked(counts: Tensor, rank: int) -> tuple[int, int]:
    """The index whose elements include the one of this rank, and its rank among them."""
    upto = counts.cumsum(0)
    index = int(torch.searchsorted(upto, rank, right=True))
    return index, rank - (int(upto[index - 1]) if index else 0)


def _ordered(values: Tensor) -> Tensor:
    """The bits of the finite elements as numbers from 0 that are in the order of the elements, in int64."""
    wide = values.to(torch.float32) + 0.0  # which makes −0 a 0
    bits = wide[wide.isfinite()].view(torch.int32).to(torch.int64)
    return torch.where(bits < 0, -1 - (bits & 0x7FFFFFFF), bits) + (1 << 31)


def _number(ordered: int) -> float:
    bits = ordered - (1 << 31)
    stored = bits if bits >= 0 else -1 - bits - (1 << 31)
    return float(torch.tensor(stored, dtype=torch.int32).view(torch.float32))


# --- pictures -------------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """A matrix reduced to cells. All are float64 [rows, columns] but the last."""

    mean: Tensor
    """Of the finite elements of each cell; NaN where there is none."""
    low: Tensor
    high: Tensor
    broken: Tensor
    """Bool: whether an element of the cell is NaN or infinite."""

    @property
    def extreme(self) -> Tensor:
        """The element of greatest magnitude, with its sign."""
        return torch.where(self.high.abs() >= self.low.abs(), self.high, self.low)


def pooled(blocks: Blocks, shape: tuple[int, int], cell: tuple[int, int]) -> Grid:
    """A matrix, which comes as its elements row by row, reduced to cells.

    Args:
        shape: rows and columns.
        cell: rows and columns of a cell; the last ones may be smaller.
    """
    rows, columns = -(-shape[0] // cell[0]), -(-shape[1] // cell[1])
    size = rows * columns
    low = torch.full((size,), math.inf, dtype=torch.float64)
    high = torch.full((size,), -math.inf, dtype=torch.float64)
    total = torch.zeros(size, dtype=torch.float64)
    count = torch.zeros(size, dtype=torch.int64)
    broken = torch.zeros(size, dtype=torch.bool)
    at = 0
    for (block,) in blocks:
        index = torch.arange(at, at + block.numel())
        at += block.numel()
        where = (index // shape[1]) // cell[0] * columns + (index % shape[1]) // cell[1]
        values = block.to(torch.float64)
        fine = values.isfinite()
        if not bool(fine.all()):
            broken[where[~fine]] = True
            where, values = where[fine], values[fine]
        low.scatter_reduce_(0, where, values, "amin")
        high.scatter_reduce_(0, where, values, "amax")
        total += torch.bincount(where, weights=values, minlength=size)
        count += torch.bincount(where, minlength=size)
    empty = count == 0
    low[empty] = high[empty] = math.nan
    return Grid(*(one.view(rows, columns) for one in (total / count, low, high, broken)))
