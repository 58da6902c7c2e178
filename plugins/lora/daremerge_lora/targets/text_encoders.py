"""Text encoders: CLIP by Hugging Face's names and OpenCLIP's, and T5, which has one set."""

from __future__ import annotations

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


def _clip_layer(index: int) -> list[Entry]:
    native, hugging_face = f"transformer.resblocks.{index}.", f"text_model.encoder.layers.{index}."
    attention = [
        Entry(f"{hugging_face}self_attn.{one}_proj", f"{native}attn.in_proj_weight", (third, third + 1, 3), suffix="")
        for third, one in enumerate("qkv")
    ]
    return [*attention, *entries(native, hugging_face, _CLIP_LAYER)]


CLIP = Table.of(
    [
        *(entry for index in range(_CLIP_LAYERS) for entry in _clip_layer(index)),
        Entry("text_model.final_layer_norm", "ln_final"),
        # OpenCLIP multiplies by it from the left: a parameter without `.weight`, and the transpose of a linear layer's.
        Entry("text_projection", "text_projection", suffix="", transposed=True),
    ]
)
"""Every size of CLIP's text encoder."""

_T5_LAYER = (
    *(f"layer.0.SelfAttention.{one}" for one in ("q", "k", "v", "o")),
    "layer.0.layer_norm",
    *(f"layer.1.DenseReluDense.{one}" for one in ("wi_0", "wi_1", "wo")),
    "layer.1.layer_norm",
)

T5 = Table.of(
    [
        *(
            Entry(f"encoder.block.{index}.{layer}", f"encoder.block.{index}.{layer}")
            for index in range(_T5_LAYERS)
            for layer in _T5_LAYER
        ),
        Entry("encoder.final_layer_norm", "encoder.final_layer_norm"),
    ]
)
"""The encoder of T5 v1.1."""
