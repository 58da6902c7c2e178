"""The numbers that comparing models takes. Tensors of one call are 1-D, of one length and one float dtype.

Sums are taken in float64 and are the same bits on every machine: element i of each block of a tensor is added to lane
i mod :data:`LANES`, in the order of the elements; in the end the lanes are added by a binary tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from daremerge_core.kernels import tree_sum
from daremerge_core.rng import accelerated

LANES = 4096
"""Few enough to stay in a core's cache, and enough for torch to add them in few calls. They divide a block."""


class Dot:
    """Σ x·y over the blocks of a tensor."""

    def __init__(self) -> None:
        self._lanes = torch.zeros(LANES, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        if _fast(x):
            from .compare_kernels_numba import add_products

            add_products(self._lanes.numpy(), x.contiguous().numpy(), y.contiguous().numpy())
        else:
            _add(self._lanes, x.to(torch.float64) * y.to(torch.float64))

    def total(self) -> float:
        return float(tree_sum(self._lanes))


class DifferenceSums:
    """What is summed over the blocks of two tensors X and A. Elements that are not finite in both are left out."""

    def __init__(self) -> None:
        self._sums = torch.zeros(4, LANES, dtype=torch.float64)
        self._peaks = torch.zeros(LANES, dtype=torch.float64)
        self._counts = torch.zeros(2, dtype=torch.int64)
        self.elements = 0

    def add(self, x: Tensor, a: Tensor) -> None:
        fast = _fast(x)
        x, a = x.contiguous(), a.contiguous()
        before = int(self._counts[1])
        self.elements += x.numel()
        if fast:
            from . import compare_kernels_numba

            compare_kernels_numba.count_differences(self._counts.numpy(), x.numpy(), a.numpy())
        else:
            self._counts[0] += ((x != a) & ~(x.isnan() & a.isnan())).sum()
            self._counts[1] += (~(x.isfinite() & a.isfinite())).sum()
        if int(self._counts[1]) != before:
            finite = x.isfinite() & a.isfinite()
            x, a = torch.where(finite, x, 0.0), torch.where(finite, a, 0.0)
        if fast:
            compare_kernels_numba.add_differences(self._sums.numpy(), self._peaks.numpy(), x.numpy(), a.numpy())
        else:
            delta = (x - a).to(torch.float64)
            x, a = x.to(torch.float64), a.to(torch.float64)
            for lanes, products in zip(self._sums, (delta * delta, x * x, a * a, x * a), strict=True):
                _add(lanes, products)
            if delta.numel():
                self._peaks[0] = max(self._peaks[0], delta.abs().max())

    @property
    def changed(self) -> int:
        """Elements that are not equal; NaN equals NaN."""
        return int(self._counts[0])

    @property
    def broken(self) -> int:
        """Elements that are NaN or infinite in X or in A."""
        return int(self._counts[1])

    @property
    def largest(self) -> float:
        """max |X − A|."""
        return float(self._peaks.max())

    def totals(self) -> tuple[float, float, float, float]:
        """Σ (X − A)², Σ X², Σ A² and Σ X·A."""
        square, own, reference, product = (float(tree_sum(lanes)) for lanes in self._sums)
        return square, own, reference, product


def _fast(x: Tensor) -> bool:
    return x.dtype == torch.float32 and accelerated()


def _add(lanes: Tensor, values: Tensor) -> None:
    """Add each value to lane i mod n of the n ``lanes``, in order."""
    whole = values.numel() // lanes.numel() * lanes.numel()
    for row in values[:whole].view(-1, lanes.numel()):
        lanes += row
    lanes[: values.numel() - whole] += values[whole:]


class TensionSums:
    """What is summed over the blocks of a base and the models tuned from it; see :class:`.conflict.Tension`."""

    def __init__(self, models: int) -> None:
        self._several = range(models)
        self._products = {(i, j): Dot() for i in self._several for j in self._several if i <= j}
        self._sums = torch.zeros(3, LANES, dtype=torch.float64)
        self._counts = torch.zeros(3, dtype=torch.int64)
        self._pairs = {pair: torch.zeros(2, dtype=torch.int64) for pair in self._products}
        self._elements = self._broken = 0

    def add(self, base: Tensor, models: Sequence[Tensor]) -> None:
        deltas = torch.stack([model - base for model in models])
        self._elements += base.numel()
        if not all_finite(deltas):
            finite = deltas.isfinite().all(0)
            deltas = torch.where(finite, deltas, 0.0)
            self._broken += int((~finite).sum())
        if _fast(base):
            from . import compare_kernels_numba

            rows = deltas.numpy()
            compare_kernels_numba.add_movement(self._sums.numpy(), self._counts.numpy(), rows)
            for (i, j), counts in self._pairs.items():
                compare_kernels_numba.count_pair(counts.numpy(), rows[i], rows[j])
        else:
            self._add_movement(deltas)
        for (i, j), product in self._products.items():
            product.add(deltas[i], deltas[j])

    def _add_movement(self, deltas: Tensor) -> None:
        """The reference of the compiled functions."""
        signs = torch.sign(deltas).to(torch.int8)
        movers = signs.abs().sum(0)
        opposed = signs.amax(0) - signs.amin(0) == 2
        self._counts += torch.stack([(movers > 0).sum(), (movers > 1).sum(), opposed.sum()])
        movement, net = reduce(torch.add, deltas.abs()), reduce(torch.add, deltas)
        for lanes, values in zip(self._sums, (movement, movement * opposed, net.abs()), strict=True):
            _add(lanes, values.to(torch.float64))
        for (i, j), counts in self._pairs.items():
            agreement = signs[i] * signs[j]
            counts += torch.stack([(agreement != 0).sum(), (agreement < 0).sum()])

    def totals(self) -> tuple[Any, ...]:
        """The fields of :class:`.conflict.Tension` after the first, in their order."""
        products = {pair: product.total() for pair, product in self._products.items()}
        return (
            *(self._elements, *self._counts.tolist()),
            *(float(tree_sum(lanes)) for lanes in self._sums),
            self._broken,
            self._matrix(products),
            self._matrix({pair: int(counts[0]) for pair, counts in self._pairs.items()}),
            self._matrix({pair: int(counts[1]) for pair, counts in self._pairs.items()}),
        )

    def _matrix(self, of: Mapping[tuple[int, int], Any]) -> tuple[tuple[Any, ...], ...]:
        return tuple(tuple(of[min(i, j), max(i, j)] for j in self._several) for i in self._several)


class WorkSums:
    """What is summed over the blocks of a merged tensor; see :class:`.merge.Work`."""

    def __init__(self, inputs: int) -> None:
        self._after, self._anchor = Dot(), Dot()
        self._before = [Dot() for _ in range(inputs)]
        self._counts = torch.zeros(4, dtype=torch.int64)
        self._moved = torch.zeros(inputs + 1, dtype=torch.int64)
        self._elements = 0

    def add(
        self, anchor: Tensor, result: Tensor, deltas: Sequence[Tensor], selected: Tensor | None, dtype: torch.dtype
    ) -> None:
        """Add one block.

        Args:
            deltas: what each input would change.
            selected: the mask, bool; None for one that selects all.
            dtype: the result's storage dtype: a change is a change of what the anchor would be, stored so.
        """
        before = anchor.to(dtype).to(anchor.dtype)
        selected = torch.ones_like(result, dtype=torch.bool) if selected is None else selected
        rows = torch.stack(list(deltas)) if deltas else result.new_empty(0, result.numel())
        self._elements += result.numel()
        if _fast(result):
            from .compare_kernels_numba import count_work

            held = [one.contiguous().numpy() for one in (before, result, rows, selected)]
            count_work(self._counts.numpy(), self._moved.numpy(), *held)
        else:
            self._count(before, result, rows, selected)
        after = _finite(result - before)
        anchor = _finite(anchor)
        self._after.add(after, after)
        self._anchor.add(anchor, anchor)
        for dot, delta in zip(self._before, deltas, strict=True):
            finite = _finite(delta)
            dot.add(finite, finite)

    def _count(self, before: Tensor, result: Tensor, deltas: Tensor, selected: Tensor) -> None:
        """The reference of the compiled function."""
        movers = (deltas != 0).sum(0)
        changed = (before != result) & ~(before.isnan() & result.isnan())
        counted = (selected, changed, changed & selected & (movers > 0), ~result.isfinite())
        self._counts += torch.stack([one.sum() for one in counted])
        self._moved += torch.bincount(movers[selected], minlength=self._moved.numel())

    def totals(self) -> tuple[Any, ...]:
        """The fields of :class:`.merge.Work` after the first, in their order."""
        return (
            *(self._elements, *self._counts.tolist()),
            tuple(self._moved.tolist()),
            self._after.total(),
            self._anchor.total(),
            tuple(dot.total() for dot in self._before),
        )


def all_finite(values: Tensor) -> bool:
    """Whether no element is NaN or infinite; cheap where that is so."""
    return bool(torch.isfinite(values.sum())) or bool(values.isfinite().all())


def _finite(values: Tensor) -> Tensor:
    """The values, zero where they are NaN or infinite."""
    return values if all_finite(values) else torch.where(values.isfinite(), values, 0.0)
