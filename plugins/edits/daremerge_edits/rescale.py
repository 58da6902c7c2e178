"""A model's change over its base, at another length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from daremerge_core import ModelEdit, ModelRef, Site
from daremerge_core.components import Scope

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self


class Rescale(ModelEdit):
    """Give a model's change over its base a new norm: that of another model's change, or a number.

    τ = model − base; result = base + τ · target / ‖τ‖, the target being ``norm`` or ‖like − base‖. Norms are 2-norms
    over all elements of a tensor, of a block or of the model, of the tensors this step applies to; a mask does not
    change them. Where ‖τ‖ is zero, or a norm is not finite, the model stays as it is.
    """

    name = "rescale"
    base: ModelRef = Field(description="The model the change is counted from.")
    norm: float | None = Field(None, gt=0, description="The norm to give the change.")
    like: ModelRef | None = Field(None, description="Give the change the norm of this model's change over the base.")
    over: Scope = Field("model", description="One norm over each tensor, each block, or the whole model.")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.norm is None) == (self.like is None):
            raise ValueError("give the new norm either as a number (norm) or by another model (like), one of the two")
        return self

    def scope(self) -> Scope:
        return self.over

    def passes(self) -> int:
        return 1

    def measure(self, site: Site) -> Tensor:
        """Squared norms: of the change, and with ``like`` of its change."""
        from . import kernels

        models = [site.model] if self.like is None else [site.model, site["like"]]
        return site.total(*(kernels.squares(model - site["base"]) for model in models))

    def edit(self, site: Site) -> Tensor:
        from . import kernels

        return kernels.stretch(site.model, site["base"], self._factor(site))

    def _factor(self, site: Site) -> float:
        norms = [math.sqrt(square) for square in site.measured[0].tolist()]
        target = norms[-1] if self.norm is None else self.norm
        possible = norms[0] > 0 and math.isfinite(norms[0]) and math.isfinite(target)
        return target / norms[0] if possible else 1.0
