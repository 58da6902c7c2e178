"""What all merges of task vectors share: base + λ · combine(sparsify(τᵢ), weights).

A :class:`Scheme` is the data that tells one named method from another; the methods themselves are in :mod:`.presets`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from daremerge_core import GradientRef, ModelRef, MultiMergeMethod, Numbers, Place, RefinerRef, Shares, Site, Sparsifier

from .options import BASE, DENSITIES, GRADIENTS, LAMBDA, REFINE, WEIGHTS, density

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from daremerge_core.components import Component
    from daremerge_core.loops import Loop
    from daremerge_core.measuring import Measured
    from daremerge_core.site import TensorSite
    from daremerge_core.tally import Tally
    from daremerge_core.task_sum import Thinning

__all__ = ["Election", "Normalization", "Scheme", "SparseMerge", "TaskMerge", "WeighedModels", "installed_sparsifier"]

Election = Literal["mass", "count", "none"]
Normalization = Literal["weights", "count", "none"]


def installed_sparsifier(name: str, **options: Any) -> Sparsifier:
    """A sparsifier of whichever plugin ships it.

    Raises :class:`~daremerge_core.errors.CatalogError`, which says what to install.
    """
    from daremerge_core import discover

    found: Any = discover().get("sparsify", name)(**options)
    return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Scheme:
    """How task vectors become one."""

    sparsifiers: tuple[Sparsifier, ...] = ()
    """Thin each task vector out, one after the other."""
    elect: Election = "none"
    """Which changes of an element count: those of the sign that wins, or all."""
    weighted: bool = True
    """Whether weights count in the election."""
    normalize: Normalization = "none"
    """What the sum is divided by."""


class WeighedModels(MultiMergeMethod):
    """Models with a weight each, which a gradient may vary from layer to layer."""

    weights: Numbers = WEIGHTS
    gradients: list[GradientRef] | None = GRADIENTS

    @model_validator(mode="after")
    def _one_for_each_model(self) -> Self:
        for field in ("weights", "density", "gradients", "density_gradients"):
            given = getattr(self, field, None)
            alone = field in ("weights", "density") and given is not None and len(given) == 1
            if given is not None and not alone and len(given) != len(self.models):
                raise ValueError(f"{field}: {len(given)} for {len(self.models)} models: give one for each")
        return self

    def weights_at(self, place: Place) -> list[float]:
        """wᵢ at one layer: 0 where a gradient leaves the model's changes out, or has no value."""
        weights = for_each(self.weights, len(self.models))
        if self.gradients is None:
            return weights
        ratios = [gradient.ratio(place.key) for gradient in self.gradients]
        return [0.0 if ratio is None else weight * (1.0 - ratio) for weight, ratio in zip(weights, ratios, strict=True)]


def for_each(numbers: Sequence[float], count: int) -> list[float]:
    """One number for each model."""
    return list(numbers) * count if len(numbers) == 1 else list(numbers)


class TaskMerge(WeighedModels):
    """Task vectors over a base, merged and added to it: base + λ · τ."""

    base: ModelRef = BASE
    scale: float = LAMBDA
    refine: RefinerRef | None = REFINE

    def merge(self, site: Site) -> Tensor:
        from daremerge_core.kernels import add_scaled

        base, merged = site.base, self._refined(site)
        assert base is not None
        return add_scaled(base, merged, self.scale * site.t)

    def _refined(self, site: Site) -> Tensor:
        weights = self.weights_at(site.place)
        deltas = self.task_vectors(site)
        merged = self.combined(site, deltas, weights)
        if self.refine is None:
            return merged
        refined: Tensor = self.refine.refine(site, merged, [d * w for d, w in zip(deltas, weights, strict=True) if w])
        return refined

    def task_vectors(self, site: Site) -> list[Tensor]:
        """τᵢ as they are merged."""
        return site.deltas

    def combined(self, site: Site, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The merged task vector, before λ. A refiner sees the deltas after it, as they are then."""
        raise NotImplementedError

    def working_bytes(self, shape: tuple[int, ...], numel: int, models: int) -> int:
        refining = 0 if self.refine is None else self.refine.working_bytes(shape, models)
        return super().working_bytes(shape, numel, models) + refining


class SchemeMerge(TaskMerge):
    """A merge of task vectors by a :class:`Scheme`."""

    def make_scheme(self) -> Scheme:
        """The method, as its options say."""
        raise NotImplementedError

    @cached_property
    def scheme(self) -> Scheme:
        return self.make_scheme()

    def loop(self, site: TensorSite) -> Loop | None:
        """Elections by count, or without weights that differ, and refiners have none."""
        from daremerge_core.task_sum import TaskSum

        weights = self.weights_at(site.place)
        if self.refine is not None or self.scheme.elect == "count" or not self._weights_vote(weights):
            return None
        thinning = self.thinning(site, weights)
        if thinning is None:
            return None
        shares = self._shares(weights)
        return TaskSum(
            "models",
            "base",
            "base",
            self.scale * site.t,
            weights=tuple(weights),
            thinning=tuple(thinning),
            elect=self.scheme.elect == "mass",
            shares=None if shares is None else tuple(shares),
        )

    def thinning(self, site: TensorSite, weights: Sequence[float]) -> list[Thinning] | None:
        """What is kept of each model's task vector; None where a sparsifier cannot say it as data."""
        from daremerge_core.task_sum import Thinning

        return [Thinning()] * len(weights)

    def _weights_vote(self, weights: Sequence[float]) -> bool:
        """Whether votes are the weighted changes themselves."""
        return self.scheme.elect == "none" or self.scheme.weighted or {abs(one) for one in weights if one} <= {1.0}

    def _shares(self, weights: Sequence[float]) -> list[float] | None:
        """What each model that takes part adds to the divisor; None where nothing is divided."""
        sizes = [abs(weight) for weight in weights if weight]
        return {"weights": sizes, "count": [1.0] * len(sizes), "none": None}[self.scheme.normalize]

    def combined(self, site: Site, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        from . import kernels

        scheme = self.scheme
        taking_part = [(delta, weight) for delta, weight in zip(deltas, weights, strict=True) if weight]
        if not taking_part:
            return deltas[0] * 0.0
        sizes = [abs(weight) for _, weight in taking_part]
        shares = self._shares(weights)
        if scheme.elect == "mass" and self._weights_vote(weights):
            return kernels.elected_mean([delta for delta, _ in taking_part], [w for _, w in taking_part], shares)
        values = [delta if weight == 1.0 else delta * weight for delta, weight in taking_part]
        if scheme.elect == "none":
            summed = kernels.total(values)
            return summed if shares is None or sum(shares) == 1.0 else summed * (1.0 / sum(shares))
        votes = values if scheme.weighted else [v / size for v, size in zip(values, sizes, strict=True)]
        signs = kernels.elected_signs(values, votes, by_count=scheme.elect == "count")
        return kernels.disjoint(values, signs, shares)


class SparseMerge(SchemeMerge):
    """A merge of task vectors that are thinned out first."""

    density: Shares = density(0.5)  # type: ignore[assignment]
    density_gradients: list[GradientRef] | None = DENSITIES

    def nested_components(self) -> Iterator[Component]:
        yield from super().nested_components()
        yield from self.scheme.sparsifiers

    @model_validator(mode="after")
    def _densities_are_possible(self) -> Self:
        for share in self.density:
            self._thinners_at(share)
        if self.density_gradients is not None and self.scope() != "tensor":
            raise ValueError(f"density_gradients: a density by layer needs thresholds by tensor, not by {self.scope()}")
        return self

    def kept_at_random(self) -> float | None:
        if len(set(self.density)) > 1 or len(self.scheme.sparsifiers) > 1 or self.density_gradients is not None:
            return None
        first, *_ = self._thinners_at(self.density[0]) or (None,)
        return None if first is None else first.kept_at_random()

    # --- thinning out: measuring passes of the sparsifiers, for all models at once ---

    def _thinners_at(self, share: float) -> tuple[Sparsifier, ...]:
        """The first sparsifier at this density, and those after it."""
        if share not in self._at_density:
            first, *others = self.scheme.sparsifiers
            self._at_density[share] = () if share == 1.0 and not others else (first.at_density(share), *others)
        return self._at_density[share]

    @cached_property
    def _at_density(self) -> dict[float, tuple[Sparsifier, ...]]:
        return {}

    def _thinners(self, place: Place, index: int) -> tuple[Sparsifier, ...]:
        share = for_each(self.density, len(self.models))[index]
        if self.density_gradients is not None:
            at_layer = self.density_gradients[index].ratio(place.key)
            share = share if at_layer is None else at_layer
        return self._thinners_at(share)

    def passes(self) -> int:
        thinned = self.density_gradients is not None or any(self._thinners_at(share) for share in self.density)
        return sum(one.passes() for one in self.scheme.sparsifiers) if thinned else 0

    def scope(self) -> Any:
        scopes = [one.scope() for one in self.scheme.sparsifiers if one.passes()]
        return scopes[0] if scopes else "tensor"

    def measure(self, site: Site) -> Tensor:
        """``[models, …]``: what the sparsifier whose turn it is measures of each task vector."""
        import torch

        done = len(site.measured)
        return torch.stack([self._measured(site, index, delta, done) for index, delta in enumerate(site.deltas)])

    def _measured(self, site: Site, index: int, delta: Tensor, done: int) -> Tensor:
        first = 0
        for one in self._thinners(site.place, index) or self.scheme.sparsifiers:
            of_model = _for_model(site, index, first, min(first + one.passes(), done))
            if done < first + one.passes():
                return one.measure(of_model, delta)
            delta = one.sparsify(of_model, delta)
            first += one.passes()
        raise AssertionError("there are as many passes as the sparsifiers have")

    def tally(self, site: TensorSite) -> Tally | None:
        """For one sparsifier; a second one would have to see what the first leaves."""
        from daremerge_core.tally import Tally

        if len(self.scheme.sparsifiers) > 1:
            return None
        counted = []
        for index in range(len(self.models)):
            first, *_ = self._thinners(site.place, index) or self.scheme.sparsifiers
            found = first.tally(site.for_model(index, measured=tuple(pass_[index] for pass_ in site.measured)))
            if found is None:
                return None
            counted.append(found)
        return Tally("models", "base", tuple(counted))

    def conclude(self, place: Place, total: Measured, measured: tuple[Measured, ...]) -> Measured:
        import numpy as np

        done, kept = len(measured), []
        for index, share in enumerate(total):
            first = 0
            for one in self._thinners(place, index) or self.scheme.sparsifiers:
                if done < first + one.passes():
                    kept.append(one.conclude(share, tuple(earlier[index] for earlier in measured[first:done])))
                    break
                first += one.passes()
        return np.stack(kept)

    def task_vectors(self, site: Site) -> list[Tensor]:
        weights = self.weights_at(site.place)
        return [
            self._thinned(site, index, delta) if weight else delta
            for index, (delta, weight) in enumerate(zip(site.deltas, weights, strict=True))
        ]

    def thinning(self, site: TensorSite, weights: Sequence[float]) -> list[Thinning] | None:
        each = super().thinning(site, weights) or []
        for index, weight in enumerate(weights):
            thinners = self._thinners(site.place, index) if weight else ()
            if not thinners:
                continue
            measured = tuple(pass_[index] for pass_ in site.measured)
            only, *others = thinners
            kept = only.thinning(site.for_model(index, measured=measured))
            if others or kept is None:
                return None
            each[index] = kept
        return each

    def _thinned(self, site: Site, index: int, delta: Tensor) -> Tensor:
        first = 0
        for one in self._thinners(site.place, index):
            delta = one.sparsify(_for_model(site, index, first, first + one.passes()), delta)
            first += one.passes()
        return delta


def _for_model(site: Site, index: int, first: int, last: int) -> Site:
    """The site as a sparsifier of one model sees it: its own measurements, its own random numbers."""
    measured = tuple(pass_[index].to(site.device) for pass_ in site.measured[first:last])
    return site.for_model(index, measured=measured)
