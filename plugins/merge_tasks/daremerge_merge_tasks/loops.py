"""Merges of task vectors as loops over plain arrays: the bits of :mod:`.kernels`, sooner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daremerge_core import loops

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from daremerge_core.loops import Block, Loop, Tally, Thinning, Values

__all__ = ["merged", "tally_of_each"]


def tally_of_each(each: Sequence[Tally | None]) -> Tally | None:
    """What a sparsifier of each model counts of its task vector, ``[models, …]``; None if one of them has no tally."""
    tallies = [one for one in each if one is not None]
    if len(tallies) < len(each):
        return None

    def add(block: Block, counts: NDArray[np.int64]) -> None:
        for tally, change, own in zip(tallies, loops.deltas(block), counts, strict=True):
            tally.add(change, own)

    return loops.Tally((len(tallies), *tallies[0].shape), add)


def merged(
    thinning: Sequence[Thinning | None],
    weights: Sequence[float],
    shares: Sequence[float] | None,
    *,
    elect: bool,
    scale: float,
) -> Loop:
    """base + λ · combine(thinned τᵢ, wᵢ).

    Args:
        thinning: for each model.
        weights: for each model; one of weight 0 takes no part.
        shares: for each model that takes part, what it adds to the divisor; None where nothing is divided.
        elect: whether only changes of the sign of Σ wᵢτᵢ count.
    """
    import numpy as np

    from . import kernels_numba as fast

    part = [index for index, weight in enumerate(weights) if weight]
    numbers = np.array([weights[index] for index in part], np.float32)
    divisors = np.array(shares or [0.0] * len(part), np.float32)
    divide = shares is not None

    def combined(block: Block) -> Values:
        changes = loops.deltas(block)
        if not part:
            return changes[0] * np.float32(0.0)
        if any(thinning) or len(part) < len(changes):
            kept = block.new(len(part))
            for row, index in zip(kept, part, strict=True):
                thin = thinning[index]
                if thin is None:
                    np.copyto(row, changes[index])
                else:
                    thin(row, changes[index], block.start)
            changes = kept
        if elect:
            out = block.new()
            fast.elected_mean(out, changes, numbers, divisors, divide)
            return out
        return _mean(changes)

    def _mean(changes: Values) -> Values:
        total = np.multiply(changes[0], numbers[0], out=changes[0])
        for change, weight in zip(changes[1:], numbers[1:], strict=True):
            np.add(total, np.multiply(change, weight, out=change), out=total)
        if shares is None or sum(shares) == 1.0:
            return total
        return np.multiply(total, np.float32(1.0 / sum(shares)), out=total)

    return lambda block: loops.add_scaled(block, block["base"], combined(block), scale)
