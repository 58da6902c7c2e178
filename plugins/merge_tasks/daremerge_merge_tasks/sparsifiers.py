"""Sparsifiers: which elements of a task vector stay. ``dare`` is the plugin ``daremerge-merge-dare``'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from daremerge_core import Site, Sparsifier

from .options import RESCALE, SEED

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from daremerge_core.measuring import Measured
    from daremerge_core.site import TensorSite
    from daremerge_core.tally import Magnitudes
    from daremerge_core.task_sum import Thinning

__all__ = ["OVER", "Breadcrumbs", "Della", "Magnitude"]

OVER = Field("tensor", description="What the largest are sought in: each tensor, each block, or the whole model.")
DENSITY = Field(0.5, ge=0, le=1, description="Share of the elements kept.")
NOTHING = 0x7F800002
"""More than the bits of any magnitude."""


class Magnitude(Sparsifier):
    """Keep the largest changes: the share of the elements with the largest |τ|, exactly.

    Of D elements, k = round(density · D) are kept, and whatever ties with the smallest of them. Over the whole model as
    in TIES's paper, over each block, or over each tensor as mergekit does. Nothing is rescaled. Density 0 keeps
    nothing, 1 everything. Magnitudes are compared in float32.

    Source: Yadav et al., "TIES-Merging", arXiv 2306.01708, section 4.1.
    """

    name = "magnitude"
    density: float = DENSITY
    over: Literal["tensor", "block", "model"] = OVER

    def at_density(self, density: float) -> Sparsifier:
        return self.model_copy(update={"density": density})

    def passes(self) -> int:
        return 2

    def scope(self) -> Literal["tensor", "block", "model"]:
        return self.over

    def measure(self, site: Site, delta: Tensor) -> Tensor:
        from daremerge_core import quantile

        return quantile.fine_counts(delta, site.measured[0]) if site.measured else quantile.coarse_counts(delta)

    def tally(self, site: TensorSite) -> Magnitudes:
        from daremerge_core.tally import Magnitudes

        return Magnitudes.after(site.measured)

    def conclude(self, total: Measured, measured: tuple[Measured, ...]) -> Measured:
        import numpy as np

        from daremerge_core import ranks

        if measured:
            return ranks.kth_smallest(total, measured[0]) if measured[0][1] else np.array([NOTHING])
        count = int(total.sum())
        kept = round(self.density * count)
        return ranks.bin_of_rank(total, count - kept + 1) if kept else np.array([0, 0])

    def sparsify(self, site: Site, delta: Tensor) -> Tensor:
        from daremerge_core.quantile import keep_reaching

        return keep_reaching(delta, int(site.measured[1]))

    def thinning(self, site: TensorSite) -> Thinning:
        from daremerge_core.task_sum import Thinning

        return Thinning.reaching(int(site.measured[1][0]) if site.measured else 0)


class Breadcrumbs(Sparsifier):
    """Drop the largest changes, as outliers, and the smallest: keep a band of magnitudes of each tensor.

    Of D elements the round(γ D) largest are dropped and the round(density · D) next are kept, with whatever ties with
    the smallest of them. Where density + γ exceed 1, fewer of the largest are dropped. A tensor so small that
    round(γ D) = 0 loses none of its largest.

    Source: Davari and Belilovsky, "Model Breadcrumbs", arXiv 2312.06795.
    """

    name = "breadcrumbs"
    density: float = DENSITY
    gamma: float = Field(0.01, ge=0, le=1, description="γ: share of the largest changes that is dropped.")

    def at_density(self, density: float) -> Sparsifier:
        return self.model_copy(update={"density": density})

    def passes(self) -> int:
        return 2

    def measure(self, site: Site, delta: Tensor) -> Tensor:
        import torch

        from daremerge_core import quantile

        if not site.measured:
            return quantile.coarse_counts(delta)
        return torch.stack([quantile.fine_counts(delta, found) for found in site.measured[0]])

    def conclude(self, total: Measured, measured: tuple[Measured, ...]) -> Measured:
        import numpy as np

        from daremerge_core import ranks

        if measured:
            ends = [ranks.kth_smallest(*pair) for pair in zip(total, measured[0], strict=True)]
            return np.concatenate(ends) if measured[0][0][1] else np.array([NOTHING, NOTHING])
        count = int(total.sum())
        kept = round(self.density * count)
        largest = min(round(self.gamma * count), count - kept)
        ordinals = (count - largest - kept + 1, count - largest) if kept else (0, 0)
        return np.stack([ranks.bin_of_rank(total, one) for one in ordinals])

    def sparsify(self, site: Site, delta: Tensor) -> Tensor:
        from daremerge_core.kernels import select
        from daremerge_core.quantile import magnitude_bits

        low, high = site.measured[1].tolist()
        bits = magnitude_bits(delta)
        return select((bits >= low) & (bits <= high), delta)


class Della(Sparsifier):
    """Drop changes at random, the small ones more often: each element by its rank in its row (MagPrune).

    d_r = d − ε/2 + ε r/(n − 1) for rank r = 0 … n − 1 from the smallest |τ| of a row of n; τ̃ = mτ/d_r with
    m ~ Bernoulli(d_r). A convolution's rows are (out, rest); a vector is one row; of a single element d_r is d.
    Unbiased with ``rescale``. Density 0 gives zeros and 1 everything, whatever ε.

    ε is the whole window, as in the paper; mergekit's epsilon is half of it.

    Source: Deep et al., "DELLA-Merging", arXiv 2406.11617, section 3.
    """

    name = "della"
    elementwise = False
    rowwise = True
    density: float = DENSITY
    epsilon: float = Field(0.2, ge=0, le=1, description="ε: how far the probabilities range over a row, in all.")
    rescale: bool = RESCALE
    seed: int = SEED

    @model_validator(mode="after")
    def _probabilities_are_possible(self) -> Self:
        half = self.epsilon / 2
        if 0 < self.density < 1 and not (half < self.density <= 1 - half):
            raise ValueError(
                f"density {self.density:g} with epsilon {self.epsilon:g} gives probabilities from "
                f"{self.density - half:g} to {self.density + half:g}: they must lie above 0 and at most at 1"
            )
        return self

    def kept_at_random(self) -> float:
        return self.density  # on average over a row

    def at_density(self, density: float) -> Sparsifier:
        return type(self)(**{**dict(self), "density": density})

    def effort(self, shape: tuple[int, ...]) -> float:
        """Sorting each row."""
        return 12.0

    def sparsify(self, site: Site, delta: Tensor) -> Tensor:
        from . import kernels

        if self.density in (0.0, 1.0) or not delta.numel():
            return delta * self.density
        rows = delta.reshape(delta.shape[0], -1) if delta.ndim > 1 else delta.reshape(1, -1)
        uniform = site.draw(self.seed, self.name).uniform().reshape(rows.shape)
        keep = kernels.della_probabilities(rows, self.density, self.epsilon)
        return kernels.drop_by_probability(rows, uniform, keep, rescale=self.rescale).reshape(delta.shape)
