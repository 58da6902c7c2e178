"""What can be said of a tensor in an architecture nobody described: little, and nothing wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .patterns import is_number, within

__all__ = ["GenericBlock", "block_of", "role_of"]


class GenericBlock(NamedTuple):
    """``encoder.blocks.3``: the family ``encoder.blocks`` and the number 3."""

    name: str
    family: str
    number: int


UNMISTAKABLE: dict[str, str] = {
    **dict.fromkeys(("to_q", "add_q_proj", "q_proj"), "attn.q"),
    **dict.fromkeys(("to_k", "add_k_proj", "k_proj"), "attn.k"),
    **dict.fromkeys(("to_v", "add_v_proj", "v_proj"), "attn.v"),
    **dict.fromkeys(("to_qkv", "qkv_proj", "qkv", "in_proj_weight", "in_proj_bias"), "attn.qkv"),
    **dict.fromkeys(("to_out", "to_add_out", "o_proj", "self_attn.out_proj"), "attn.out"),
    **dict.fromkeys(("q_norm", "k_norm", "query_norm", "key_norm", "norm_q", "norm_k"), "attn.norm"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj", "gate_up_proj"), "ff"),
    **dict.fromkeys(("input_layernorm", "post_attention_layernorm", "final_layer_norm"), "norm"),
    **dict.fromkeys(("embed_tokens", "token_embedding", "position_embedding", "positional_embedding"), "embed"),
    "adaLN_modulation": "mod",
    "lm_head": "head",
    "logit_scale": "scale",
}
"""Pattern → role, for names that mean one thing wherever they stand."""

QUANTISATION: frozenset[str] = frozenset(
    {"scale_weight", "scale_input", "weight_scale", "input_scale", "weight_scale_inv", "scaled_fp8"}
)
"""Last segments of tensors that only say how a quantised neighbour is stored."""


def block_of(path: str) -> GenericBlock | None:
    """The block of a name without its container's prefix: the path as far as its first number, if more follows."""
    segments = path.split(".")
    for i in range(len(segments) - 1):
        if is_number(segments[i]):
            return GenericBlock(".".join(segments[: i + 1]), ".".join(segments[:i]), int(segments[i]))
    return None


def role_of(key: str, roles: Mapping[str, str] = UNMISTAKABLE) -> str:
    """The role that the first matching pattern of ``roles`` gives, else ``"other"``."""
    if key.rpartition(".")[2] in QUANTISATION:
        return "scale"
    return next((role for pattern, role in roles.items() if within(pattern).search(key)), "other")
