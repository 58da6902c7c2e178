"""The architectures daremerge knows, as data."""

from __future__ import annotations

from ..spec import LayoutSpec, Tower
from .autoencoder import VAE
from .decoders import DECODER_LM
from .text_encoders import CLIP_G, CLIP_H, CLIP_L, T5XXL
from .transformers import FLUX, SD3
from .unets import SD2, SD15, SDXL, SDXL_REFINER

__all__ = ["COMMON", "KNOWN"]

KNOWN: tuple[LayoutSpec, ...] = (SD15, SD2, SDXL, SDXL_REFINER, SD3, FLUX, DECODER_LM)
"""Tried in this order; no file satisfies two of them."""

COMMON: tuple[Tower, ...] = (CLIP_L, CLIP_G, CLIP_H, T5XXL, VAE)
"""Part of every layout, known or not: a file may hold text encoders and an autoencoder beside anything."""
