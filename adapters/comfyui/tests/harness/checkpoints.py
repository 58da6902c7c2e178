"""Small but real SD1.5 checkpoints of random weights, and a LoRA: what ComfyUI's own loaders read."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor

from .layout import REAL, SMALL, Shapes, sd15

__all__ = ["BASE", "LORA", "MODEL_A", "MODEL_B", "TAGS", "write_models"]

MODEL_A, MODEL_B, BASE = "a.safetensors", "b.safetensors", "base.safetensors"
LORA = "style.safetensors"
TAGS = {"1girl": 40, "solo": 31, "oil painting": 12, "sunset": 7}
"""What the LoRA says it was trained with, and how often."""

EXAMPLES = {
    "realistic.safetensors": MODEL_A,
    "anime.safetensors": MODEL_B,
    "painterly.safetensors": BASE,
    "sd15.safetensors": BASE,
}
"""What the example workflows call their checkpoints."""

RANK = 4


def write_models(folder: Path) -> None:
    """Fills ``folder``, ComfyUI's ``models``. Of the real widths with ``DAREMERGE_REAL_SHAPES=1``."""
    shapes = sd15(REAL if os.environ.get("DAREMERGE_REAL_SHAPES") == "1" else SMALL)
    checkpoints, loras = folder / "checkpoints", folder / "loras"
    checkpoints.mkdir(parents=True)
    loras.mkdir(parents=True)
    base = _pretrained(shapes)
    for name, tensors in ((BASE, base), (MODEL_A, _tuned(base, seed=1)), (MODEL_B, _tuned(base, seed=2))):
        save_file(tensors, checkpoints / name, {"format": "pt"})
    for name, same in EXAMPLES.items():
        os.link(checkpoints / same, checkpoints / name)
    save_file(_lora(shapes), loras / LORA, {"ss_tag_frequency": json.dumps({"10_style": TAGS})})


def _pretrained(shapes: Shapes) -> dict[str, Tensor]:
    """Weights that keep a signal's size from layer to layer, so that no picture is NaN."""
    generator = Generator().manual_seed(0)
    found = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            drawn /= math.sqrt(math.prod(shape[1:]))
        else:
            drawn = drawn / 100 + (1 if name.endswith("weight") else 0)
        found[name] = drawn.half()
    return found


def _tuned(base: dict[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """The base with small changes. The VAE stays, as fine-tunes mostly leave it."""
    generator = Generator().manual_seed(seed)
    return {
        name: tensor
        if name.startswith("first_stage_model.")
        else (tensor * (1 + 0.05 * torch.randn(tensor.shape, generator=generator))).half()
        for name, tensor in base.items()
    }


def _lora(shapes: Shapes) -> dict[str, Tensor]:
    """Modules for queries and values of U-Net and text encoder, under the names that kohya's trainer gives them."""
    generator = Generator().manual_seed(3)
    found = {}
    for name, shape in shapes.items():
        if name.endswith(("attn2.to_q.weight", "attn2.to_v.weight")):
            module = _diffusers_name(name)
        elif name.endswith(("self_attn.q_proj.weight", "self_attn.v_proj.weight")):
            layer = name.removeprefix("cond_stage_model.transformer.").removesuffix(".weight")
            module = f"lora_te_{layer.replace('.', '_')}"
        else:
            continue
        found[f"{module}.lora_down.weight"] = torch.randn(RANK, shape[1], generator=generator).half() / 50
        found[f"{module}.lora_up.weight"] = torch.randn(shape[0], RANK, generator=generator).half() / 50
        found[f"{module}.alpha"] = torch.tensor(float(RANK))
    return found


def _diffusers_name(name: str) -> str:
    """``…input_blocks.4.1.transformer_blocks…`` → ``lora_unet_down_blocks_1_attentions_0_transformer_blocks…``"""
    block, number, _, rest = name.removeprefix("model.diffusion_model.").split(".", 3)
    if block == "middle_block":
        place = "mid_block_attentions_0"
        rest = name.removeprefix("model.diffusion_model.middle_block.1.")
    elif block == "input_blocks":
        place = f"down_blocks_{(int(number) - 1) // 3}_attentions_{(int(number) - 1) % 3}"
    else:
        place = f"up_blocks_{int(number) // 3}_attentions_{int(number) % 3}"
    return f"lora_unet_{place}_{rest.removesuffix('.weight').replace('.', '_')}"
