"""Merges that look at where, or how far, the models agree: model stock, SCE, consensus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from daremerge_core import ModelRef, MultiMergeMethod, Place, Site

from .options import BASE
from .tasks import TaskMerge

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from daremerge_core.measuring import Measured

__all__ = ["Consensus", "ModelStock", "Sce"]


class ModelStock(MultiMergeMethod):
    """The point between base and mean of the models that their angles suggest (Model Stock).

    t = N c / (1 + (N − 1) c) with c the mean cosine between task vectors, at least 0; result base + t · (mean of τ).
    Each tensor is one vector, or each row of its (out, rest) matrix with ``per`` row.

    For fine-tunes of one task that differ in their seeds or settings alone. Fine-tunes of different tasks are nearly
    orthogonal, c is near 0 and the result near the base: the plan warns.

    Source: Jang et al., "Model Stock: All we need is just a few fine-tuned models", arXiv 2403.19522.
    """

    name = "model-stock"
    models: list[ModelRef] = Field(min_length=2, description="The models to merge, two or more.")
    base: ModelRef = BASE
    per: Literal["tensor", "row"] = Field("tensor", description="What counts as one vector.")

    def needs_whole_rows(self) -> bool:
        return self.per == "row"

    def passes(self) -> int:
        return 1 if self.per == "tensor" else 0

    def measure(self, site: Site) -> Tensor:
        deltas = site.deltas
        return site.total(*(deltas[i] * deltas[j] for i in range(len(deltas)) for j in range(i + 1)))

    def merge(self, site: Site) -> Tensor:
        from . import kernels, stock

        base, deltas = site.base, site.deltas
        assert base is not None
        if not site.numel:
            return base
        mean = kernels.total(deltas) * (1.0 / len(deltas))
        if self.per == "tensor":
            return base + mean * (stock.share(site.measured[0].tolist(), len(deltas)) * site.t)
        return base + stock.by_rows(mean, deltas) * site.t


class Sce(MultiMergeMethod):
    """Select where models differ most, calculate their weights, erase minority signs (SCE).

    Of each tensor, the ``density`` share of those positions where the task vectors vary is kept, the ones with the
    largest variance; each model weighs as the mean of its squared changes there; and for each element only changes of
    the sign that wins (by mass, unweighted) are averaged. Models that agree exactly have no variance and change nothing
    at a density below 1.

    Source: Wan et al., "FuseChat", arXiv 2408.07990, section 3.2.
    """

    name = "sce"
    base: ModelRef = BASE
    density: float = Field(0.1, ge=0, le=1, description="Share of the varying positions of each tensor kept.")

    def passes(self) -> int:
        return 3 if self.density < 1 else 1

    def measure(self, site: Site) -> Tensor:
        import torch

        from daremerge_core import quantile

        from . import kernels

        deltas = site.deltas
        if len(site.measured) == self.passes() - 1:
            return site.total(*(one * one for one in self._selected(site, deltas)))
        variance = kernels.variance(deltas)
        if site.measured:
            return quantile.fine_counts(variance, site.measured[0])
        return torch.cat([quantile.coarse_counts(variance), variance.count_nonzero().reshape(1)])

    def conclude(self, place: Place, total: Measured, measured: tuple[Measured, ...]) -> Measured:
        import numpy as np

        from daremerge_core import ranks

        from .sparsifiers import NOTHING

        if len(measured) == self.passes() - 1:
            return total
        if measured:
            return ranks.kth_smallest(total, measured[0]) if measured[0][1] else np.array([NOTHING])
        counts, varying = total[:-1], int(total[-1])
        kept = round(self.density * varying)
        return ranks.bin_of_rank(counts, int(counts.sum()) - kept + 1) if kept else np.array([0, 0])

    def _selected(self, site: Site, deltas: Sequence[Tensor]) -> list[Tensor]:
        from daremerge_core.kernels import select
        from daremerge_core.quantile import reaching

        from . import kernels

        if self.density == 1:
            return list(deltas)
        chosen = reaching(kernels.variance(deltas), int(site.measured[1]))
        return [select(chosen, delta) for delta in deltas]

    def merge(self, site: Site) -> Tensor:
        from . import kernels

        base = site.base
        assert base is not None
        deltas = self._selected(site, site.deltas)
        squares = site.measured[-1].tolist()
        whole = sum(squares)
        shares = [one / whole if whole else 1.0 / len(squares) for one in squares]
        signs = kernels.elected_signs(deltas, deltas, by_count=False)
        values = [delta * share for delta, share in zip(deltas, shares, strict=True)]
        return base + kernels.disjoint(values, signs, shares) * site.t


class Consensus(TaskMerge):
    """Task arithmetic without what matters to one model alone, or to none (consensus, TALL masks).

    mᵢ = |vᵢ| ≥ λₜ |Σv − vᵢ| with vᵢ = wᵢτᵢ marks what matters to model i; Σv is kept where at least ``at_least`` models
    mark it: base + λ Σv. ``strength`` is λₜ, the paper's best of 0.2 to 0.6 on validation data. With one model nothing
    is left at the default of two.

    Source: Wang et al., "Localizing Task Information for Improved Model Merging and Compression", arXiv 2405.07813.
    """

    name = "consensus"
    models: list[ModelRef] = Field(min_length=2, description="The models to merge, two or more.")
    strength: float = Field(0.4, ge=0, description="λₜ: how large a change must be against the others' to matter.")
    at_least: int = Field(2, ge=1, description="To so many models an element must matter.")

    @model_validator(mode="after")
    def _so_many_can_agree(self) -> Self:
        if self.at_least > len(self.models):
            raise ValueError(f"at_least is {self.at_least}, but there are {len(self.models)} models")
        return self

    def combined(self, site: Site, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        from . import kernels

        values = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
        return kernels.localised(values, self.strength, self.at_least)
