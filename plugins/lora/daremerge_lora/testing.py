"""For tests and examples: LoRAs with random weights that fit a checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daremerge_core import MemoryModel, Model

from .formats import Writable, tensor_name
from .targets import module_names

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EXAMPLES", "random_lora", "write_examples"]

EXAMPLES: Mapping[str, dict[str, Any]] = {
    "style": {"rank": 4, "alpha": 2.0, "tags": {"1_style": {"watercolour": 40, "painting": 31, "soft light": 12}}},
    "character": {"rank": 2, "alpha": 2.0, "tags": {"10_hero": {"hero": 60, "cape": 44, "smile": 9}}},
}
"""The LoRAs of :func:`write_examples`, by the names of their files."""


def random_lora(
    model: Model,
    *,
    rank: int = 4,
    alpha: float | None = None,
    names: Writable = "kohya",
    seed: int = 0,
    size: float = 0.1,
    metadata: Mapping[str, str] | None = None,
) -> MemoryModel:
    """A LoRA in float16 of every linear and convolution of a checkpoint, from its headers.

    Args:
        alpha: the rank by default, so that the scale is 1; diffusers' format has none.
        size: about the size of the elements of each ΔW.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, target in module_names(model, names):
        shape = model.meta(target.key).shape
        out, *rest = shape[::-1] if target.transposed else shape
        if target.rows is not None:
            out = target.rows[1] - target.rows[0]
        scale = 1.0 if alpha is None or names == "diffusers" else alpha / rank
        spread = math.sqrt(size / math.sqrt(rank) / scale)
        for slot, sides in (("down", (rank, *rest)), ("up", (out, rank, *[1] * len(rest[1:])))):
            tensors[tensor_name(names, name, slot)] = (torch.randn(sides, generator=generator) * spread).half()
        if names != "diffusers":
            value = float(rank if alpha is None else alpha)
            tensors[tensor_name(names, name, "alpha")] = torch.tensor(value, dtype=torch.float16)
    return MemoryModel(tensors, metadata)


def write_examples(folder: Path, model: Model) -> Sequence[Path]:
    """Write the LoRAs of :data:`EXAMPLES` for a checkpoint of SD 1.5 into a folder."""
    from daremerge_core.stores import write_model

    paths = []
    for seed, (name, chosen) in enumerate(EXAMPLES.items(), start=1):
        metadata = {
            "ss_base_model_version": "sd_v1",
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(chosen["rank"]),
            "ss_network_alpha": str(chosen["alpha"]),
            "ss_tag_frequency": json.dumps(chosen["tags"]),
        }
        lora = random_lora(model, rank=chosen["rank"], alpha=chosen["alpha"], seed=seed, metadata=metadata)
        paths.append(folder / f"{name}.safetensors")
        write_model(paths[-1], {key: lora.read(key) for key in lora.keys()}, metadata, overwrite=True)
    return paths
