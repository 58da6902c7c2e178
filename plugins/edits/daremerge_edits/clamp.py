"""A merge held within the range of its parents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from daremerge_core import ModelEdit, ModelRef, Site

if TYPE_CHECKING:
    from torch import Tensor


class Clamp(ModelEdit):
    """Keep every weight of a merge between those of its two parents.

    The range is [min(a, b) − w, max(a, b) + w] with w = margin · |a − b|; a weight outside it goes to the nearer end.
    Where the parents agree, the merge gets what they agree on. Tensors that a parent lacks stay as they are.
    """

    name = "clamp"
    a: ModelRef = Field(description="One parent.")
    b: ModelRef = Field(description="The other parent.")
    margin: float = Field(0.0, ge=0, description="Widen the range on both sides by this share of its width.")

    def edit(self, site: Site) -> Tensor:
        from . import kernels

        return kernels.clamp(site.model, site.a, site.b, self.margin)
