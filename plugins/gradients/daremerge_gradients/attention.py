"""Gradients by what a tensor does in its transformer block: normalise, attend, feed forward."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from daremerge_core import Layout, Place

from .options import NeedsAny, Part

__all__ = ["AttentionGradient"]

ATTENTION = frozenset({"attn.q", "attn.k", "attn.v", "attn.qkv", "attn.out", "attn"})
"""Roles of attention, without its own normalisation of queries and keys."""
RATIO = "1 keeps A, 0 takes B; not given: left alone."


class AttentionGradient(NeedsAny):
    """One ratio each for attention, feed-forward layers and normalisation of transformer blocks.

    ``norm`` covers the normalisations that stand directly before or behind an attention or a feed-forward layer, and
    those of queries and keys (QK-norm). Group norms of residual blocks, the norm in front of a spatial transformer
    and a network's final norm are not among them.

    Flux's single blocks keep attention and feed-forward in one tensor: that is ``fused``, and neither of the two.
    """

    name = "attention"
    any_of = ("norm", "attn", "ff", "fused")
    norm: float | None = Field(None, description=f"Ratio of the normalisations of transformer blocks. {RATIO}")
    attn: float | None = Field(None, description=f"Ratio of queries, keys, values and attention's output. {RATIO}")
    ff: float | None = Field(None, description=f"Ratio of the feed-forward layers. {RATIO}")
    fused: float | None = Field(
        None, description=f"Ratio of attention and feed-forward in one tensor (Flux's single blocks). {RATIO}"
    )
    parts: list[Part] = Field(
        ["unet", "lm", "other"],
        min_length=1,
        description="Where: unet, clip, vae, lm, other. Text encoders have transformer blocks too, when clip is named.",
    )

    def for_layout(self, layout: Layout) -> Callable[[Place], float | None]:
        holders = _holders(layout)

        def ratio(place: Place) -> float | None:
            if place.part not in self.parts:
                return None
            if place.role in ATTENTION:
                return self.attn
            if place.role == "attn.norm" or (place.role == "norm" and _above(place.key, 2) in holders):
                return self.norm
            return {"ff": self.ff, "fused": self.fused}.get(place.role)

        return ratio


def _holders(layout: Layout) -> frozenset[str]:
    """The modules right above attention or feed-forward: ``P`` of ``P.attn1.to_q.weight``, or of ``P.q.weight``.

    A normalisation ``P.norm1.weight`` works for those beside it. The norm of a spatial transformer, and a final
    norm, have whole transformer blocks beside them, whose layers lie further down.
    """
    keys = [place.key for place in layout.places() if place.role in ATTENTION or place.role == "ff"]
    return frozenset(_above(key, levels) for key in keys for levels in (2, 3))


def _above(key: str, levels: int) -> str:
    """The module that many levels above a parameter: one level is the module that it belongs to."""
    return ".".join(key.split(".")[:-levels])
