"""The diffusion transformers of Stable Diffusion 3 and Flux.

Esser et al., Scaling Rectified Flow Transformers, 2024 (arXiv:2403.03206). Block counts come from the file, so
every size (SD3 medium, SD3.5 medium and large, Flux dev and schnell) is the same data.
"""

from __future__ import annotations

from ..spec import LayoutSpec, Tower, same
from .unets import DENOISER

__all__ = ["FLUX", "SD3"]

SD3 = LayoutSpec(
    name="sd3",
    towers=(
        Tower(
            part="unet",
            prefixes=DENOISER,
            bare=True,
            stack=same("x_embedder", "pos_embed", "context_embedder", "joint_blocks.#", "final_layer"),
            aside=same("t_embedder", "y_embedder"),
            roles={
                "t_embedder": "time",
                "y_embedder": "label",
                "x_embedder": "embed",
                "pos_embed": "embed",
                "context_embedder": "embed",
                "attn.qkv": "attn.qkv",
                "attn2.qkv": "attn.qkv",
                "attn.proj": "attn.out",
                "attn2.proj": "attn.out",
                "ln_q": "attn.norm",
                "ln_k": "attn.norm",
                "adaLN_modulation": "mod",
                "mlp": "ff",
                "final_layer.linear": "head",
            },
        ),
    ),
    requires={
        "x_embedder.proj.weight": (None, None, None, None),
        "context_embedder.weight": (None, None),
        "joint_blocks.0.x_block.attn.qkv.weight": (None, None),
    },
)

FLUX = LayoutSpec(
    name="flux",
    towers=(
        Tower(
            part="unet",
            prefixes=DENOISER,
            bare=True,
            stack=same("img_in", "txt_in", "double_blocks.#", "single_blocks.#", "final_layer"),
            aside=same("time_in", "vector_in", "guidance_in"),
            roles={
                "time_in": "time",
                "vector_in": "label",
                "guidance_in": "label",
                "img_in": "embed",
                "txt_in": "embed",
                "query_norm": "attn.norm",
                "key_norm": "attn.norm",
                "img_attn.qkv": "attn.qkv",
                "txt_attn.qkv": "attn.qkv",
                "img_attn.proj": "attn.out",
                "txt_attn.proj": "attn.out",
                "img_mlp": "ff",
                "txt_mlp": "ff",
                "img_mod": "mod",
                "txt_mod": "mod",
                "modulation": "mod",
                # QKV with the MLP's first layer, and attention's output with its second, are one tensor each.
                "linear1": "fused",
                "linear2": "fused",
                "final_layer.adaLN_modulation": "mod",
                "final_layer.linear": "head",
            },
        ),
    ),
    requires={
        "img_in.weight": (None, None),
        "time_in.in_layer.weight": (None, None),
        "vector_in.in_layer.weight": (None, None),
        "double_blocks.0.img_attn.qkv.weight": (None, None),
        "single_blocks.0.linear1.weight": (None, None),
    },
)
