"""Decoder language models as Hugging Face names them: Llama, Mistral, Mixtral, Qwen, Gemma, Phi-3."""

from __future__ import annotations

from ..spec import LayoutSpec, Tower, same

__all__ = ["DECODER_LM"]

DECODER_LM = LayoutSpec(
    name="decoder-lm",
    towers=(
        Tower(
            part="lm",
            # A causal model keeps its decoder under `model.` and `lm_head` outside; a bare decoder has neither.
            prefixes=("model.", ""),
            stack=same("embed_tokens", "layers.#", "norm", "lm_head"),
            roles={
                "self_attn.q_proj": "attn.q",
                "self_attn.k_proj": "attn.k",
                "self_attn.v_proj": "attn.v",
                "self_attn.qkv_proj": "attn.qkv",
                "self_attn.o_proj": "attn.out",
                "self_attn.q_norm": "attn.norm",
                "self_attn.k_norm": "attn.norm",
                "self_attn": "attn",
                "mlp": "ff",
                "block_sparse_moe": "ff",
                "input_layernorm": "norm",
                "post_attention_layernorm": "norm",
                "pre_feedforward_layernorm": "norm",
                "post_feedforward_layernorm": "norm",
                "norm": "norm",
                "embed_tokens": "embed",
                "lm_head": "head",
            },
        ),
    ),
    requires={
        "embed_tokens.weight": (None, None),
        "layers.0.self_attn.o_proj.weight": (None, None),
    },
)
