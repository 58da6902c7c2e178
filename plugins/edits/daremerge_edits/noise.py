"""Noise on a model's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from daremerge_core import BlendRef, ModelEdit, Site

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

MEAN, STD = 0.0, 0.01


class Noise(ModelEdit):
    """Add noise to a model's weights, a little of it or all.

    noised = model + n, one n per element: N(mean, std), or U(−½, ½). Result = blend(model, noised, 1 − ratio).
    A ratio of 1 is the model bit for bit, 0 is the noised model. The same seed gives the same bytes on every device.

    The idea, for the layers that mix values in attention, is that of DRµGS (github.com/EGjoni/DRUGS).
    """

    name = "noise"
    operation: Literal["gaussian", "uniform"] = Field(
        "gaussian", description="Noise of a normal distribution, or evenly from −0.5 to 0.5."
    )
    mean: float = Field(MEAN, description="Mean of gaussian noise.")
    std: float = Field(STD, ge=0, description="Standard deviation of gaussian noise.")
    seed: int = Field(0, ge=0, description="Chooses the noise; the same seed gives the same bytes.")
    ratio: float = Field(0.98, description="1 adds no noise, 0 adds all of it; values between mix.")
    include: str | None = Field("*.to_v*", description="Only tensors matching this selector, e.g. '*.attn2.*'.")
    blend: BlendRef | None = Field(
        None, description="How model and noised model are blended: any two-model method; in a straight line by default."
    )

    @model_validator(mode="after")
    def _uniform_has_no_mean_or_std(self) -> Self:
        if self.operation == "uniform" and (self.mean, self.std) != (MEAN, STD):
            raise ValueError("mean and std are of gaussian noise: leave them out, and set uniform noise by the ratio")
        return self

    def passes(self) -> int:
        return self.blend.passes() if self.blend else 0

    def measure(self, site: Site) -> Tensor:
        assert self.blend is not None
        share: Tensor = self.blend.measure(self._towards_noise(site))
        return share

    def edit(self, site: Site) -> Tensor:
        return site.model + self._noise(site)

    def compute(self, site: Site) -> Tensor:
        if self.blend is None:
            return super().compute(site)
        blended: Tensor = self.blend.merge(self._towards_noise(site))
        return blended

    def _towards_noise(self, site: Site) -> Site:
        """The site the blend sees: from the model, A, to the noised model, B."""
        return site.replace(a=site.model, b=self.edit(site))

    def _noise(self, site: Site) -> Tensor:
        from . import kernels

        draw = site.draw(self.seed, self.name)
        if self.operation == "uniform":
            return kernels.centred(draw.uniform().to(site.dtype))
        return kernels.gaussian(draw.normal().to(site.dtype), self.mean, self.std)
