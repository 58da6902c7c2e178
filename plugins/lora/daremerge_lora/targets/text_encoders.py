"""Text encoders: CLIP by Hugging Face's names and OpenCLIP's, and T5, which has one set."""

from __future__ import annotations

from collections.abc import Iterator

from .tables import Entry, Table, entries

__all__ = ["CLIP", "T5"]

_CLIP_LAYERS, _T5_LAYERS = 32, 24  # of the largest: ViT-bigG, T5 XXL

_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def _clip_layer(index: int) -> Iterator[Entry]:
    native, hugging_face = f"transformer.resblocks.{index}.", f"text_model.encoder.layers.{index}."
    for third, one in enumerate("qkv"):
        yield Entry(
            f"{hugging_face}self_attn.{one}_proj", f"{native}attn.in_proj_weight", (third, third + 1, 3), suffix=""
        )
    yield from entries(native, hugging_face, _CLIP_LAYER)


def _clip() -> Iterator[Entry]:
    for index in range(_CLIP_LAYERS):
        yield from _clip_layer(index)
    yield Entry("text_model.final_layer_norm", "ln_final")
    # OpenCLIP multiplies by it from the left: a parameter without `.weight`, the transpose of a linear layer's.
    yield Entry("text_projection", "text_projection", suffix="", transposed=True)


CLIP = Table(_clip)
"""Every size of CLIP's text encoder."""

_T5_LAYER = (
    *(f"layer.0.SelfAttention.{one}" for one in ("q", "k", "v", "o")),
    "layer.0.layer_norm",
    *(f"layer.1.DenseReluDense.{one}" for one in ("wi_0", "wi_1", "wo")),
    "layer.1.layer_norm",
)


def _t5() -> Iterator[Entry]:
    for index in range(_T5_LAYERS):
        for layer in _T5_LAYER:
            yield Entry(f"encoder.block.{index}.{layer}", f"encoder.block.{index}.{layer}")
    yield Entry("encoder.final_layer_norm", "encoder.final_layer_norm")


T5 = Table(_t5)
"""The encoder of T5 v1.1."""
