"""A model's layers at the norms of another's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from daremerge_core import ModelEdit, ModelRef, Place, Site

from .attention import attention_of, is_bias, layer_of, sections

if TYPE_CHECKING:
    from torch import Tensor

    from daremerge_core.measuring import Measured

FACTORS = ("query", "key", "value", "rest", "bias")
"""What has a factor in a group of tensors: the sections of an attention, or the weight (rest) and bias of a layer."""


class Normalize(ModelEdit):
    """Scale a model's layers to the norms of another model's.

    Where s = ‖Q_B‖ / ‖Q_A‖, of the query weights of each attention (of both streams of a joint one together):

    ``attn_only`` is Q · s and K / s, weights and biases: QKᵀ, and so what the model computes, stays.

    ``q_norm`` is the same, and every other layer at B's norm, V too: QKᵀ of the same input stays.

    ``all`` is every layer at B's norm, Q and K too, a fused tensor as one: QKᵀ changes.

    ``none`` is no change.

    A layer's factor is that of its weight, and its bias follows; a bias without a weight has its own. The factor is 1
    where a norm is zero or not finite, and for queries without keys or keys without queries: where the other is not
    known, not in B, or not selected.

    A ratio between 0 and 1 scales by a power, factor**(1 − ratio), so that QKᵀ stays at any ratio that Q and K share.
    (The last bit of a power may differ between machines; at a ratio of 0 there is none.) Under a mask QKᵀ stays where
    the mask has all of Q and K.
    """

    name = "normalize"
    like: ModelRef = Field(description="Model B, whose norms are taken.")
    method: Literal["attn_only", "q_norm", "all", "none"] = Field(
        "attn_only",
        description="attn_only: queries to B's norm, keys by the inverse; q_norm: that, and every other layer to B's "
        "norm; all: every layer to B's norm; none: nothing.",
    )
    magnify: bool = Field(False, description="Scale by the inverse, away from B's norms: ‖A‖ / ‖B‖.")

    def leaves_alone(self, place: Place) -> str | None:
        if not self._keeps_scores():
            return None
        found = sections(place, self.model)
        if found is not None and not found:
            return "its rows are not those of queries, keys and values"
        if self.method == "attn_only" and not any(one.projection in ("query", "key") for one in found or ()):
            return "not queries or keys of an attention (method all scales every layer)"
        return "a norm of queries or keys" if place.role == "attn.norm" else None

    def passes(self) -> int:
        return 0 if self.method == "none" else 1

    def group(self, place: Place) -> str:
        if self._is_projection(place):
            return f"attention {attention_of(place.key)}"
        return f"layer {layer_of(place.key)}"

    def measure(self, site: Site) -> Tensor:
        """Squared norms by :data:`FACTORS`, of the model, then of B. For keys, only how many there are."""
        import torch

        from . import kernels

        squares = torch.zeros(2, len(FACTORS), dtype=torch.float64)
        is_follower = self._is_projection(site.place) and is_bias(site.place.key)
        for name, part in () if is_follower else self._parts(site):
            index = FACTORS.index(name)
            if name == "key":
                squares[:, index] = part.stop - part.start
            elif name == "query" or self.method != "attn_only":
                both = (kernels.squares(values.reshape(-1)[part]) for values in (site.model, site["like"]))
                squares[:, index] = site.total(*both)
        return squares.reshape(-1)

    def conclude(self, place: Place, total: Measured, measured: tuple[Measured, ...]) -> Measured:
        """The factors, in the order of :data:`FACTORS`."""
        import numpy as np

        ours, theirs = (dict(zip(FACTORS, row, strict=True)) for row in total.reshape(2, -1).tolist())
        factors = {name: self._factor(ours[name], theirs[name]) for name in FACTORS}
        if not ours["key"]:
            factors["query"] = 1.0
        factors["key"] = 1.0 / factors["query"]
        if ours["rest"]:
            factors["bias"] = factors["rest"]
        return np.array(list(factors.values()))

    def edit(self, site: Site) -> Tensor:
        return self._scaled(site, 1.0)

    def compute(self, site: Site) -> Tensor:
        return self._scaled(site, site.t)

    def _scaled(self, site: Site, t: float) -> Tensor:
        from . import kernels

        if self.method == "none" or not site.numel:
            return site.model
        factors = dict(zip(FACTORS, site.measured[0].tolist(), strict=True))
        cuts = [(part, factors[name] ** t) for name, part in self._parts(site)]
        return kernels.scale(site.model.reshape(-1), cuts).reshape(site.model.shape)

    def _factor(self, ours: float, theirs: float) -> float:
        """What takes one squared norm to the other, or the inverse."""
        factor = math.sqrt(theirs) / math.sqrt(ours) if ours else 0.0
        if not 0 < factor < math.inf:
            return 1.0
        return 1.0 / factor if self.magnify else factor

    def _keeps_scores(self) -> bool:
        """Whether QKᵀ stays, so that Q, K and V are looked at one by one."""
        return self.method in ("attn_only", "q_norm")

    def _is_projection(self, place: Place) -> bool:
        return self._keeps_scores() and sections(place, self.model) is not None

    def _parts(self, site: Site) -> Iterator[tuple[str, slice]]:
        """Consecutive slices of the site's elements, each with the name of its factor."""
        parts: Sequence[tuple[str, int]] = [("bias" if is_bias(site.place.key) else "rest", site.numel)]
        if self._keeps_scores():
            parts = sections(site.place, self.model) or parts
        start = site.span.start
        for name, end in parts:
            stop = min(end, site.span.stop)
            if stop > start:
                yield name, slice(start - site.span.start, stop - site.span.start)
                start = stop
