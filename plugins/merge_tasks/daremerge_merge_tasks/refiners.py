"""Refiners: what may be done to any merge of task vectors before it is added to the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from daremerge_core import Refiner, Site

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Lines", "Svc"]


class Svc(Refiner):
    """Rescale the merge's singular directions so that none is counted twice (singular value calibration).

    What several models changed in one direction adds up in a merge, and drowns the rest. In each left singular
    direction of the merged matrix, sᵢ says how many times model i's own change is in it, and its length is multiplied
    by N / Σ max(``floor``, sᵢ). Vectors are left as they are.

    Source: Li et al., "When Shared Knowledge Hurts", arXiv 2602.05536.
    """

    name = "svc"
    elementwise = False
    floor: float = Field(
        0.1, gt=0, le=10, description="α: what sᵢ counts at least; below 1 it may lengthen directions."
    )

    def effort(self, shape: tuple[int, ...]) -> float:
        """Products of matrices: a multiplication for each row, of each element."""
        return 1.0 + _side(shape) / 4 if len(shape) > 1 else 1.0

    def working_bytes(self, shape: tuple[int, ...], models: int) -> int:
        """Squares of the shorter side, one for each pair of matrices and a few more."""
        return 8 * _side(shape) ** 2 * (models * (models + 1) // 2 + 6) if len(shape) > 1 else 0

    def refine(self, site: Site, merged: Tensor, deltas: Sequence[Tensor]) -> Tensor:
        from . import spectral_kernels as spectral

        if merged.ndim < 2 or not merged.numel() or not deltas:
            return merged
        rows = [one.reshape(one.shape[0], -1) for one in (merged, *deltas)]
        return spectral.svc(rows[0], rows[1:], self.floor).reshape(merged.shape)


def _side(shape: tuple[int, ...]) -> int:
    """The shorter side of the matrix (out, rest)."""
    return min(shape[0], math.prod(shape[1:]))


class Lines(Refiner):
    """Scale the merge by depth: little in the first layers, which all tasks share, more in the last (LiNeS).

    λ_l = α + β · depth, with the depth of a layer from 0 for the first block to 1 for the last. What lies beside the
    stack of blocks, such as embeddings, is scaled by α.

    Source: Wang et al., "LiNeS: Post-training Layer Scaling", arXiv 2410.17146.
    """

    name = "lines"
    alpha: float = Field(0.5, ge=0, description="α: the scale of the first layer.")
    beta: float = Field(0.5, description="β: how much more the last layer is scaled by.")

    def refine(self, site: Site, merged: Tensor, deltas: Sequence[Tensor]) -> Tensor:
        depth = site.place.depth
        return merged * (self.alpha + (0.0 if depth is None else self.beta * depth))
