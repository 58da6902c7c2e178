"""Text encoders: CLIP in its two namings (Hugging Face and OpenCLIP), and T5.

ComfyUI and the later checkpoints name an encoder outright (``clip_l.``, ``text_encoders.t5xxl.``); the earlier
ones number them. Both spellings lead to the same block names.
"""

from __future__ import annotations

from ..spec import Tower, same

__all__ = ["CLIP_G", "CLIP_H", "CLIP_L", "T5XXL"]

_HUGGING_FACE = {
    "transformer.text_model.embeddings": "embeddings",
    "transformer.text_model.encoder.layers.#": "layers.#",
    "transformer.text_model.final_layer_norm": "final_layer_norm",
    "transformer.text_projection": "text_projection",
}
_OPENCLIP = {
    "model.token_embedding": "embeddings",
    "model.positional_embedding": "embeddings",
    "model.transformer.resblocks.#": "layers.#",
    "model.ln_final": "final_layer_norm",
    "model.text_projection": "text_projection",
}
_CLIP_ROLES = {
    "embeddings": "embed",
    "token_embedding": "embed",
    "positional_embedding": "embed",
    "q_proj": "attn.q",
    "k_proj": "attn.k",
    "v_proj": "attn.v",
    "in_proj_weight": "attn.qkv",
    "in_proj_bias": "attn.qkv",
    "out_proj": "attn.out",
    "mlp": "ff",
    "layer_norm1": "norm",
    "layer_norm2": "norm",
    "final_layer_norm": "norm",
    "ln_1": "norm",
    "ln_2": "norm",
    "ln_final": "norm",
    "text_projection": "head",
}

CLIP_L = Tower(
    part="clip",
    label="clip_l.",
    prefixes=("clip_l.", "text_encoders.clip_l.", "cond_stage_model.", "conditioner.embedders.0."),
    stack=_HUGGING_FACE,
    roles=_CLIP_ROLES,
)
"""OpenAI's CLIP ViT-L/14: SD1.x's only encoder, the first of SDXL, SD3 and Flux."""

CLIP_G = Tower(
    part="clip",
    label="clip_g.",
    prefixes=("clip_g.", "text_encoders.clip_g.", "conditioner.embedders.1."),
    stack={**_HUGGING_FACE, **_OPENCLIP},
    roles=_CLIP_ROLES,
)
"""OpenCLIP ViT-bigG/14: the second of SDXL and SD3."""

CLIP_H = Tower(
    part="clip",
    label="clip_h.",
    prefixes=("clip_h.", "cond_stage_model."),
    stack={**_HUGGING_FACE, **_OPENCLIP},
    roles=_CLIP_ROLES,
)
"""OpenCLIP ViT-H/14: SD2.x. Under ``cond_stage_model.`` its OpenCLIP names tell it from CLIP-L."""

T5XXL = Tower(
    part="clip",
    label="t5xxl.",
    prefixes=("t5xxl.transformer.", "text_encoders.t5xxl.transformer."),
    stack={
        **same("shared"),
        "encoder.embed_tokens": "shared",
        "encoder.block.#": "block.#",
        "encoder.final_layer_norm": "final_layer_norm",
    },
    roles={
        "shared": "embed",
        "embed_tokens": "embed",
        "SelfAttention.q": "attn.q",
        "SelfAttention.k": "attn.k",
        "SelfAttention.v": "attn.v",
        "SelfAttention.o": "attn.out",
        "SelfAttention": "attn",
        "DenseReluDense": "ff",
        "layer_norm": "norm",
        "final_layer_norm": "norm",
    },
)
"""The encoder of T5 v1.1 XXL: SD3's third, Flux's second."""
