"""The numbers that comparing models takes. Tensors of one call are 1-D, of one length and one float dtype.

Sums are taken in float64 and are the same bits on every machine: element i of each block of a tensor is added to lane
i mod :data:`LANES`, in the order of the elements; in the end the lanes are added by a binary tree.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        self._movement, self._opposed_movement, self._net = Dot(), Dot(), Dot()
        self._pairs = torch.zeros(models, models, dtype=torch.int64)
        self._pairs_opposed = torch.zeros(models, models, dtype=torch.int64)
        self._counts = torch.zeros(5, dtype=torch.int64)

    def add(self, base: Tensor, models: Sequence[Tensor]) -> None:
        deltas = [model - base for model in models]
        finite = reduce(torch.logical_and, map(torch.isfinite, [base, *models]))
        broken = base.numel() - int(finite.sum())
        if broken:
            deltas = [torch.where(finite, delta, 0.0) for delta in deltas]
        signs = [torch.sign(delta).to(torch.int8) for delta in deltas]
        moved = reduce(torch.add, [sign.abs() for sign in signs])
        opposed = (reduce(torch.maximum, signs) - reduce(torch.minimum, signs)) == 2
        self._counts += torch.stack(
            [torch.tensor(base.numel()), (moved > 0).sum(), (moved > 1).sum(), opposed.sum(), torch.tensor(broken)]
        )
        movement = reduce(torch.add, [delta.abs() for delta in deltas])
        ones = torch.ones_like(movement)
        self._movement.add(movement, ones)
        self._opposed_movement.add(movement, opposed.to(movement.dtype))
        self._net.add(reduce(torch.add, deltas).abs(), ones)
        for (i, j), product in self._products.items():
            product.add(deltas[i], deltas[j])
            agreement = signs[i] * signs[j]
            self._pairs[i, j] += torch.count_nonzero(agreement)
            self._pairs_opposed[i, j] += (agreement < 0).sum()

    def totals(self) -> tuple[Any, ...]:
        """The fields of :class:`.conflict.Tension` after the first, in their order."""
        elements, moved, shared, opposed, broken = self._counts.tolist()
        products = {pair: product.total() for pair, product in self._products.items()}
        return (
            *(elements, moved, shared, opposed),
            *(self._movement.total(), self._opposed_movement.total(), self._net.total()),
            broken,
            tuple(tuple(products[min(i, j), max(i, j)] for j in self._several) for i in self._several),
            _symmetric(self._pairs),
            _symmetric(self._pairs_opposed),
        )


def _symmetric(upper: Tensor) -> tuple[tuple[int, ...], ...]:
    """Rows of a matrix whose lower half is zero, made symmetric."""
    return tuple(map(tuple, (upper + upper.triu(1).T).tolist()))


class WorkSums:
    """What is summed over the blocks of a merged tensor; see :class:`.merge.Work`."""

    def __init__(self, inputs: int) -> None:
        self._after, self._anchor = Dot(), Dot()
        self._before = [Dot() for _ in range(inputs)]
        self._moved = torch.zeros(inputs + 1, dtype=torch.int64)
        self._counts = torch.zeros(5, dtype=torch.int64)

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
        changed = (result != before) & ~(result.isnan() & before.isnan())
        moved = torch.zeros_like(result, dtype=torch.int64)
        for delta in deltas:
            moved += delta != 0
        possible = (moved > 0) & selected
        finite = result.isfinite() & before.isfinite()
        counts = (selected, changed, possible & changed, ~result.isfinite())
        self._counts += torch.tensor([result.numel(), *(int(one.sum()) for one in counts)])
        self._moved += torch.bincount(moved[selected], minlength=self._moved.numel())
        after = torch.where(finite, result - before, 0.0)
        anchor = torch.where(finite, anchor, 0.0)
        self._after.add(after, after)
        self._anchor.add(anchor, anchor)
        for dot, delta in zip(self._before, deltas, strict=True):
            delta = torch.where(delta.isfinite(), delta, 0.0)
            dot.add(delta, delta)

    def totals(self) -> tuple[Any, ...]:
        """The fields of :class:`.merge.Work` after the first, in their order."""
        return (
            *self._counts.tolist(),
            tuple(self._moved.tolist()),
            self._after.total(),
            self._anchor.total(),
            tuple(dot.total() for dot in self._before),
        )
