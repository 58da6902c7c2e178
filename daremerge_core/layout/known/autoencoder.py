"""The variational autoencoder of latent diffusion, with 4 or 16 latent channels."""

from __future__ import annotations

from ..spec import Tower, same

__all__ = ["VAE"]

VAE = Tower(
    part="vae",
    prefixes=("first_stage_model.", "vae."),
    stack=same(
        "encoder.conv_in",
        "encoder.down.#",
        "encoder.mid",
        "encoder.norm_out",
        "encoder.conv_out",
        "quant_conv",
        "post_quant_conv",
        "decoder.conv_in",
        "decoder.mid",
        # Levels are numbered from the finest: the decoder visits them from the last to the first.
        *(f"decoder.up.{level}" for level in reversed(range(6))),
        "decoder.norm_out",
        "decoder.conv_out",
    ),
    roles={
        "attn_1.q": "attn.q",
        "attn_1.k": "attn.k",
        "attn_1.v": "attn.v",
        "attn_1.proj_out": "attn.out",
        "attn_1.norm": "norm",
        "norm1": "norm",
        "norm2": "norm",
        "norm_out": "norm",
        "nin_shortcut": "skip",
        "downsample.conv": "resample",
        "upsample.conv": "resample",
        "conv1": "conv",
        "conv2": "conv",
        "conv_in": "conv",
        "quant_conv": "conv",
        "post_quant_conv": "conv",
        "conv_out": "head",
    },
)
