"""Gradients from tables: selector → ratio, and part → ratio, on any architecture."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from daremerge_core import GradientFamily, Layout, Place
from daremerge_core.select import select

from .options import NeedsAny

__all__ = ["PartsGradient", "PatternGradient"]

RATIO = "1 keeps A, 0 takes B; not given: left alone."


class PatternGradient(GradientFamily):
    """Ratios by layer selectors, in order: of several that match a tensor, the first counts."""

    name = "pattern"
    layers: dict[str, float] = Field(
        min_length=1, description="Ratios by layer selector, e.g. '*.attn2.*': 0; the first that matches counts."
    )
    rest: float | None = Field(None, description="Ratio of tensors that no selector matches; not given: left alone.")

    def for_layout(self, layout: Layout) -> Callable[[Place], float | None]:
        keys = [place.key for place in layout.places()]
        ratios: dict[str, float] = {}
        for selector, ratio in self.layers.items():
            for key in select(keys, selector, what="layers"):
                ratios.setdefault(key, ratio)
        return lambda place: ratios.get(place.key, self.rest)


class PartsGradient(NeedsAny):
    """One ratio for each part of a checkpoint."""

    name = "parts"
    any_of = ("unet", "clip", "vae", "lm", "other")
    unet: float | None = Field(None, description=f"Ratio of the denoiser, U-Net or transformer. {RATIO}")
    clip: float | None = Field(None, description=f"Ratio of the text encoders. {RATIO}")
    vae: float | None = Field(None, description=f"Ratio of the autoencoder. {RATIO}")
    lm: float | None = Field(None, description=f"Ratio of a language model's decoder. {RATIO}")
    other: float | None = Field(None, description=f"Ratio of what belongs to none of these. {RATIO}")

    def ratio(self, place: Place) -> float | None:
        ratio: float | None = getattr(self, place.part)
        return ratio
