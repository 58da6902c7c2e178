"""Whole models averaged: in a straight line, on the sphere, or towards one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from daremerge_core import MergeMethod, ModelRef, MultiMergeMethod, Site

from .tasks import WeighedModels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from typing_extensions import Self

__all__ = ["Karcher", "Linear", "MultiSlerp", "NearSwap", "NuSlerp", "Passthrough"]

KEEPS_FIRST = Field(0.0, description="1 keeps the first model, 0 takes the merge.")


class _Average(WeighedModels):
    ratio: float = KEEPS_FIRST

    def merge(self, site: Site) -> Tensor:
        from daremerge_core.kernels import lerp

        return lerp(self._origin(site), self.average(site), site.t)

    def _origin(self, site: Site) -> Tensor:
        return site.models[0]

    def average(self, site: Site) -> Tensor:
        raise NotImplementedError


class Linear(_Average):
    """The weighted mean of any number of models: Σ wᵢθᵢ / Σ wᵢ.

    Needs no base. With ``normalize`` none, the sum itself. A mean has no negative weights: to subtract what a model
    changed, use ``task-arithmetic``. Also known as model soup.

    Source: Wortsman et al., "Model soups", arXiv 2203.05482.
    """

    name = "linear"
    normalize: Literal["weights", "none"] = Field(
        "weights", description="Divide by the sum of the weights, or none: take the sum as it is."
    )

    @model_validator(mode="after")
    def _is_a_mean(self) -> Self:
        if self.normalize == "weights" and min(self.weights) < 0:
            raise ValueError("a mean has no negative weights: use task-arithmetic, or normalize none")
        if self.normalize == "weights" and not any(self.weights):
            raise ValueError("all weights are 0, so there is no mean")
        return self

    def average(self, site: Site) -> Tensor:
        from . import kernels

        weights = self.weights_at(site.place)
        divisor = sum(weights) if self.normalize == "weights" else 1.0
        if not divisor:
            return site.models[0]
        return kernels.weighted_sum(site.models, [weight / divisor for weight in weights])


class _OnSphere(_Average):
    """Averages of directions: all they need to know of a tensor is the products ⟨θᵢ, θⱼ⟩, measured first."""

    def passes(self) -> int:
        return 1

    def measure(self, site: Site) -> Tensor:
        vectors = self._vectors(site)
        return site.total(*(vectors[i] * vectors[j] for i in range(len(vectors)) for j in range(i + 1)))

    def _vectors(self, site: Site) -> Sequence[Tensor]:
        return site.models

    def average(self, site: Site) -> Tensor:
        from . import kernels, sphere

        vectors = self._vectors(site)
        factors = self.factors(sphere.gram(site.measured[0].tolist(), len(vectors)), self.weights_at(site.place))
        return kernels.weighted_sum(vectors, factors)

    def factors(self, gram: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
        """What each vector is multiplied by."""
        raise NotImplementedError


class Karcher(_OnSphere):
    """The Riemannian mean of any number of models: the direction nearest to all of theirs on the sphere.

    The unit vector u with the smallest Σ αᵢ ∠(u, θᵢ/‖θᵢ‖)², by iteration in the tangent space, times the weighted mean
    of the norms; αᵢ = wᵢ / Σ w. Each tensor is one vector. Vectors of length 0 have no direction and count in the norm
    alone. Two models of equal weight: slerp half way.

    Source: Karcher, "Riemannian center of mass and mollifier smoothing", 1977; as in mergekit.
    """

    name = "karcher"
    iterations: int = Field(10, ge=1, le=1000, description="At most so many steps.")
    tolerance: float = Field(1e-5, gt=0, description="Stop when a step is shorter than this angle.")

    def factors(self, gram: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
        from . import sphere

        return sphere.karcher(gram, weights, iterations=self.iterations, tolerance=self.tolerance)


class MultiSlerp(_OnSphere):
    """Spherical interpolation of any number of models, weighted, in one step from their mean direction.

    Unit vectors are projected into the tangent space at their weighted mean, summed, and taken back by the exponential
    map, times the weighted mean of the norms. With a base, of task vectors. Each tensor is one vector. Where the
    directions cancel out there is no mean direction: of two models the straight line is taken, of more the first stays.

    Source: mergekit's multislerp (https://goddard.blog/posts/multislerp-wow-what-a-cool-idea).
    """

    name = "multislerp"
    base: ModelRef | None = Field(None, description="Interpolate what each model changed of this one.")
    normalize: Literal["weights", "none"] = Field(
        "weights", description="Divide the weights by their sum, or none: take them as they are."
    )

    def _vectors(self, site: Site) -> Sequence[Tensor]:
        return site.models if site.base is None else site.deltas

    def average(self, site: Site) -> Tensor:
        found = super().average(site)
        return found if site.base is None else site.base + found

    def factors(self, gram: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
        from . import sphere

        divisor = sum(weights) if self.normalize == "weights" else 1.0
        return sphere.multislerp(gram, [weight / divisor for weight in weights] if divisor else list(weights))


class NuSlerp(MergeMethod):
    """Spherical interpolation of two models, or of what they changed of a base.

    sin((1 − t)Ω)/sin Ω · a + sin(tΩ)/sin Ω · b with Ω the angle between them: per tensor, or for each row or column of
    its (out, rest) matrix. Not normalised, so lengths are kept; parallel ones are mixed in a straight line. t = 1 −
    ratio; mergekit's weights give ratio = w₁/(w₁ + w₂).

    Source: mergekit's nuslerp.
    """

    name = "nuslerp"
    base: ModelRef | None = Field(None, description="Interpolate what each model changed of this one.")
    per: Literal["tensor", "row", "column"] = Field("tensor", description="What counts as one vector.")

    def needs_whole_tensors(self) -> bool:
        return self.per == "column"

    def needs_whole_rows(self) -> bool:
        return self.per == "row"

    def passes(self) -> int:
        return 1 if self.per == "tensor" else 0

    def measure(self, site: Site) -> Tensor:
        a, b = self._vectors(site)
        return site.total(a * a, b * b, a * b)

    def _vectors(self, site: Site) -> tuple[Tensor, Tensor]:
        base = site.base
        return (site.a, site.b) if base is None else (site.a - base, site.b - base)

    def merge(self, site: Site) -> Tensor:
        from . import sphere

        if site.t in (0.0, 1.0) or not site.numel:
            return site.b if site.t else site.a
        a, b = self._vectors(site)
        if self.per == "tensor":
            first, second = sphere.slerp_factors(*site.measured[0].tolist(), site.t)
            found = a * first + b * second
        else:
            found = sphere.slerp_lines(a, b, site.t, along_rows=self.per == "row")
        return found if site.base is None else site.base + found


class NearSwap(MergeMethod):
    """Move A towards B, but by at most a distance: where they are that close, B; elsewhere A, a step towards B.

    a + clamp(b − a, −distance, distance). Takes on what B shares with A nearly, and leaves what it changed most.

    Source: alchemonaut's QuartetAnemoi-70B; as in mergekit, whose t is the distance.
    """

    name = "nearswap"
    ratio: float = Field(0.0, description="1 keeps A, 0 takes the merge; values between mix.")
    distance: float = Field(1e-4, ge=0, description="How far a weight may move.")

    def merge(self, site: Site) -> Tensor:
        from daremerge_core.kernels import lerp

        from . import kernels

        return lerp(site.a, kernels.near(site.a, site.b, self.distance), site.t)


class Passthrough(MultiMergeMethod):
    """One model as it is, or times a number: for recipes that only copy or scale.

    Source: as in mergekit, without slices.
    """

    name = "passthrough"
    ratio: float = KEEPS_FIRST
    models: list[ModelRef] = Field(min_length=1, max_length=1, description="The model.")
    scale: float = Field(1.0, description="What its weights are multiplied by.")

    def merge(self, site: Site) -> Tensor:
        from daremerge_core.kernels import lerp

        (model,) = site.models
        return model if self.scale == 1.0 else lerp(model, model * self.scale, site.t)
