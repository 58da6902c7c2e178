"""Small checkpoints with real names, and what tests ask of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from daremerge_core import MemoryModel, Model
from daremerge_core.testing.layouts import load

__all__ = ["CONTEXT", "FEW", "difference", "small", "tensors_of"]

CONTEXT = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
"""Its width is what SD 1.5 is recognised by."""
FEW = ("input_blocks.1.", "input_blocks.3.", "middle_block.0.", "layers.0.", "layers.7.")
"""Parts of names: about a tenth of SD 1.5's layers, with one of each kind."""
FULL_WIDTH = {"sd15": {CONTEXT: (16, 768)}}


def small(
    name: str = "sd15",
    *,
    only: Sequence[str] = ("",),
    seed: int = 0,
    side: int = 12,
    dtype: torch.dtype = torch.float32,
) -> MemoryModel:
    """A checkpoint of the tensors of an architecture, its sides cut so that its weights are a few megabytes.

    Sides stay in proportion where that shows: a fused weight has three times the rows of its parts.

    Args:
        only: parts of names; a tensor whose name has none of them is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for key, meta in load(name).items():
        if not any(part in key for part in only):
            continue
        sides = [size if size <= 4 or index > 1 else side for index, size in enumerate(meta.shape)]
        if len(meta.shape) == 2 and "in_proj_weight" in key:
            sides[0] = 3 * side
        if "in_proj_bias" in key:
            sides = [3 * side]
        shape = FULL_WIDTH.get(name, {}).get(key, tuple(sides))
        weights = torch.randn(shape, generator=generator)
        tensors[key] = weights.to(dtype) if meta.dtype in ("F16", "F32", "BF16") else weights.long()
    return MemoryModel(tensors, {"format": "pt"})


def tensors_of(model: Model) -> dict[str, torch.Tensor]:
    """Every tensor of a model, read."""
    return {key: model.read(key) for key in model.keys()}


def difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """one − other of the tensors that differ, in float64."""
    return {key: one[key].double() - other[key].double() for key in one if not torch.equal(one[key], other[key])}
