"""Tiny checkpoints: Stable Diffusion names, a few hundred parameters, every awkward shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..stores.memory import MemoryModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["SHAPES", "tiny_model", "tiny_tensors"]

_BLOCK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0"
SHAPES: dict[str, tuple[int, ...]] = {
    f"{_BLOCK}.attn1.to_q.weight": (12, 10),
    f"{_BLOCK}.attn1.to_k.weight": (12, 10),
    f"{_BLOCK}.norm1.weight": (10,),
    "model.diffusion_model.input_blocks.10.0.in_layers.2.weight": (5, 3, 3, 3),
    "model.diffusion_model.time_embed.0.bias": (7,),
    "model.diffusion_model.out.2.weight": (4, 6, 3, 3),
    "first_stage_model.decoder.conv_in.weight": (6, 4, 3, 3),
    "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight": (8, 8),
    "cond_stage_model.logit_scale": (),
    "cond_stage_model.empty": (0, 4),
}
"""Float tensors of a tiny checkpoint: rank 0 to 4, and one without elements."""


def tiny_tensors(seed: int = 0, dtype: torch.dtype | None = None, *, scale: float = 1.0) -> dict[str, Tensor]:
    """A state dict with the shapes of :data:`SHAPES` and an int64 ``position_ids``; the same for the same seed."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors = {
        key: (torch.randn(shape, generator=generator) * scale).to(dtype or torch.float32)
        for key, shape in SHAPES.items()
    }
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(6).reshape(1, 6)
    return tensors


def tiny_model(seed: int = 0, dtype: torch.dtype | None = None, *, scale: float = 1.0) -> MemoryModel:
    """:func:`tiny_tensors` as a model."""
    return MemoryModel(tiny_tensors(seed, dtype, scale=scale), {"format": "pt"})
