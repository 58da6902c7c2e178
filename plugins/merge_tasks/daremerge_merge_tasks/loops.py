"""What is measured of task vectors, as loops over plain arrays: the counts of :mod:`.kernels`, sooner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daremerge_core import loops

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from daremerge_core.loops import Block, Tally

__all__ = ["tally_of_each"]


def tally_of_each(each: Sequence[Tally | None]) -> Tally | None:
    """What a sparsifier of each model counts of its task vector, ``[models, …]``; None if one of them has no tally."""
    tallies = [one for one in each if one is not None]
    if len(tallies) < len(each):
        return None

    def add(block: Block, counts: NDArray[np.int64]) -> None:
        for tally, change, own in zip(tallies, loops.deltas(block), counts, strict=True):
            tally.add(change, own)

    return loops.Tally((len(tallies), *tallies[0].shape), add)
