"""The U-Nets of Stable Diffusion 1.x, 2.x and XL, in the CompVis/Stability naming that ComfyUI keeps.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022 (arXiv:2112.10752);
Podell et al., SDXL, 2023 (arXiv:2307.01952).
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import LayoutSpec, Tower, same
from .text_encoders import CLIP_G, CLIP_H

__all__ = ["DENOISER", "SD2", "SD15", "SDXL", "SDXL_REFINER"]

DENOISER = ("model.diffusion_model.", "diffusion_model.")
"""Where a checkpoint, and where ComfyUI, keeps the denoiser."""

UNET = Tower(
    part="unet",
    prefixes=DENOISER,
    bare=True,
    stack=same("input_blocks.#", "middle_block.#", "output_blocks.#", "out"),
    aside=same("time_embed", "label_emb"),
    roles={
        "attn1.to_q": "attn.q",
        "attn2.to_q": "attn.q",
        "attn1.to_k": "attn.k",
        "attn2.to_k": "attn.k",
        "attn1.to_v": "attn.v",
        "attn2.to_v": "attn.v",
        "attn1.to_out": "attn.out",
        "attn2.to_out": "attn.out",
        "ff.net": "ff",
        "norm": "norm",
        "norm1": "norm",
        "norm2": "norm",
        "norm3": "norm",
        "proj_in": "proj",
        "proj_out": "proj",
        # A residual block is norm, SiLU, conv; then the timestep; then norm, SiLU, dropout, conv.
        "in_layers.0": "norm",
        "in_layers.2": "conv",
        "emb_layers": "time",
        "out_layers.0": "norm",
        "out_layers.3": "conv",
        "skip_connection": "skip",
        "input_blocks.0.0": "conv",
        "input_blocks.#.0.op": "resample",
        "output_blocks.#.#.conv": "resample",
        "out.0": "norm",
        "out.2": "head",
        "time_embed": "time",
        "label_emb": "label",
    },
)

# A U-Net has both ends; a ControlNet, which copies the first half, has no `out`.
_ENDS = {"input_blocks.0.0.weight": (None, None, None, None), "out.2.weight": (None, None, None, None)}
# Keys of cross-attention are projected from the text encoder's width, which tells the models apart: [inner, context].
_FIRST_LEVEL = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_SECOND_LEVEL = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
_LABEL = "label_emb.0.0.weight"
_VIDEO = "input_blocks.1.1.time_stack.0.norm1.weight"

SD15 = LayoutSpec(
    name="sd15",
    towers=(UNET,),
    requires={**_ENDS, _FIRST_LEVEL: (None, 768)},
    lacks=(_LABEL, _VIDEO),
)

SD2 = LayoutSpec(
    name="sd2",
    # In checkpoints saved by Stability's later code, embedder 0 is OpenCLIP ViT-H.
    towers=(UNET, replace(CLIP_H, prefixes=("conditioner.embedders.0.",))),
    requires={**_ENDS, _FIRST_LEVEL: (None, 1024)},
    lacks=(_VIDEO,),
)

SDXL = LayoutSpec(
    name="sdxl",
    towers=(UNET,),
    requires={**_ENDS, _SECOND_LEVEL: (None, 2048), _LABEL: None},
    lacks=(_FIRST_LEVEL,),
)

SDXL_REFINER = LayoutSpec(
    name="sdxl-refiner",
    # The refiner has one text encoder, OpenCLIP ViT-bigG, as embedder 0.
    towers=(UNET, replace(CLIP_G, prefixes=("conditioner.embedders.0.",))),
    requires={**_ENDS, _SECOND_LEVEL: (None, 1280), _LABEL: None},
    lacks=(_FIRST_LEVEL,),
)
