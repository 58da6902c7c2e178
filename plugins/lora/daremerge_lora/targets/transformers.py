"""The diffusion transformers of Stable Diffusion 3 and Flux: their authors' names, and diffusers'.

Esser et al., arXiv:2403.03206. Every size is in the tables: there are as many blocks as any model may have.
"""

from __future__ import annotations

from collections.abc import Iterator

from .tables import Entry, Layers, Table, entries

__all__ = ["FLUX_TRANSFORMER", "SD3_TRANSFORMER"]

_BLOCKS = 64
"""More than the largest has (38)."""

_LAST = "final_layer.adaLN_modulation.1"


def _thirds(pattern: str) -> dict[str, int]:
    return {pattern.format(one): 1 for one in "qkv"}


_SD3_ENDS: Layers = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    _LAST: "norm_out.linear",
    "final_layer.linear": "proj_out",
}
_SD3_BLOCK: Layers = {
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.attn.qkv": _thirds("attn.to_{}"),
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn2.qkv": _thirds("attn2.to_{}"),
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.attn.qkv": _thirds("attn.add_{}_proj"),
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}


def _sd3() -> Iterator[Entry]:
    yield from entries("", "", _SD3_ENDS, swaps=[_LAST])
    for index in range(_BLOCKS):
        native, diffusers = f"joint_blocks.{index}.", f"transformer_blocks.{index}."
        # Swapped in the last block alone, whose context goes no further: it has two rows for each column there.
        yield from entries(native, diffusers, _SD3_BLOCK, swaps=["context_block.adaLN_modulation.1"])


SD3_TRANSFORMER = Table(_sd3)

_FLUX_ENDS: Layers = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    **{
        f"{native}.{which}_layer": f"time_text_embed.{diffusers}_embedder.linear_{number}"
        for native, diffusers in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance"))
        for number, which in enumerate(("in", "out"), start=1)
    },
    _LAST: "norm_out.linear",
    "final_layer.linear": "proj_out",
}
_FLUX_DOUBLE: Layers = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.qkv": _thirds("attn.to_{}"),
    "txt_attn.qkv": _thirds("attn.add_{}_proj"),
    "img_attn.norm.query_norm.scale": "attn.norm_q",
    "img_attn.norm.key_norm.scale": "attn.norm_k",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_FLUX_SINGLE: Layers = {
    "modulation.lin": "norm.linear",
    # Attention and the MLP's first layer are one weight; the MLP is four times as wide.
    "linear1": {**_thirds("attn.to_{}"), "proj_mlp": 4},
    "linear2": "proj_out",
    "norm.query_norm.scale": "attn.norm_q",
    "norm.key_norm.scale": "attn.norm_k",
}


def _flux() -> Iterator[Entry]:
    yield from entries("", "", _FLUX_ENDS, swaps=[_LAST])
    for index in range(_BLOCKS):
        yield from entries(f"double_blocks.{index}.", f"transformer_blocks.{index}.", _FLUX_DOUBLE)
    for index in range(_BLOCKS):
        yield from entries(f"single_blocks.{index}.", f"single_transformer_blocks.{index}.", _FLUX_SINGLE)


FLUX_TRANSFORMER = Table(_flux)
