"""The tensors of a SD1.5 checkpoint: names and shapes, written out as the architecture does, not as a list of 1130."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

__all__ = ["REAL", "SMALL", "Shapes", "sd15"]

Shapes = dict[str, tuple[int, ...]]

CHANNELS = 320
CONTEXT = 768
EMBEDDING = 4 * CHANNELS

REAL = (1, 2, 4, 4)
"""Width of the U-Net's four levels, in :data:`CHANNELS`, as SD1.5 has it: 860 million parameters."""
SMALL = (1, 1, 1, 1)
"""112 million parameters. ComfyUI tells SD1.5 by the first convolution, the context and the blocks: all are there."""


def sd15(widths: Sequence[int] = SMALL) -> Shapes:
    """The whole checkpoint. Text encoder and VAE keep their size: ComfyUI builds them from fixed settings."""
    found = dict(_unet("model.diffusion_model", [CHANNELS * width for width in widths]))
    found.update(_clip("cond_stage_model.transformer.text_model"))
    found.update(_vae("first_stage_model"))
    return found


Found = Iterator[tuple[str, tuple[int, ...]]]


def _layer(name: str, *shape: int, bias: bool = True) -> Found:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


# --- U-Net ------------------------------------------------------------------------------------------------


def _unet(root: str, widths: Sequence[int]) -> Found:
    yield from _layer(f"{root}.time_embed.0", EMBEDDING, CHANNELS)
    yield from _layer(f"{root}.time_embed.2", EMBEDDING, EMBEDDING)
    yield from _layer(f"{root}.input_blocks.0.0", CHANNELS, 4, 3, 3)
    block, skips = 1, [CHANNELS]
    for level, width in enumerate(widths):
        for _ in range(2):
            yield from _unet_block(f"{root}.input_blocks.{block}", skips[-1], width, attention=level < 3)
            skips.append(width)
            block += 1
        if level < 3:
            yield from _layer(f"{root}.input_blocks.{block}.0.op", width, width, 3, 3)
            skips.append(width)
            block += 1
    middle = widths[-1]
    yield from _residual(f"{root}.middle_block.0", middle, middle)
    yield from _transformer(f"{root}.middle_block.1", middle)
    yield from _residual(f"{root}.middle_block.2", middle, middle)
    above, block = middle, 0
    for level, width in reversed(list(enumerate(widths))):
        for number in range(3):
            name = f"{root}.output_blocks.{block}"
            yield from _unet_block(name, above + skips.pop(), width, attention=level < 3)
            if level > 0 and number == 2:
                yield from _layer(f"{name}.{2 if level < 3 else 1}.conv", width, width, 3, 3)
            above = width
            block += 1
    yield from _layer(f"{root}.out.0", CHANNELS)
    yield from _layer(f"{root}.out.2", 4, CHANNELS, 3, 3)


def _unet_block(name: str, into: int, out: int, *, attention: bool) -> Found:
    yield from _residual(f"{name}.0", into, out)
    if attention:
        yield from _transformer(f"{name}.1", out)


def _residual(name: str, into: int, out: int) -> Found:
    yield from _layer(f"{name}.in_layers.0", into)
    yield from _layer(f"{name}.in_layers.2", out, into, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", out, EMBEDDING)
    yield from _layer(f"{name}.out_layers.0", out)
    yield from _layer(f"{name}.out_layers.3", out, out, 3, 3)
    if into != out:
        yield from _layer(f"{name}.skip_connection", out, into, 1, 1)


def _transformer(name: str, width: int) -> Found:
    yield from _layer(f"{name}.norm", width)
    yield from _layer(f"{name}.proj_in", width, width, 1, 1)
    inner = f"{name}.transformer_blocks.0"
    for attention, context in (("attn1", width), ("attn2", CONTEXT)):
        yield from _layer(f"{inner}.{attention}.to_q", width, width, bias=False)
        yield from _layer(f"{inner}.{attention}.to_k", width, context, bias=False)
        yield from _layer(f"{inner}.{attention}.to_v", width, context, bias=False)
        yield from _layer(f"{inner}.{attention}.to_out.0", width, width)
    yield from _layer(f"{inner}.ff.net.0.proj", 8 * width, width)
    yield from _layer(f"{inner}.ff.net.2", width, 4 * width)
    for number in (1, 2, 3):
        yield from _layer(f"{inner}.norm{number}", width)
    yield from _layer(f"{name}.proj_out", width, width, 1, 1)


# --- text encoder -------------------------------------------------------------------------------------------


def _clip(root: str) -> Found:
    yield f"{root}.embeddings.position_embedding.weight", (77, CONTEXT)
    yield f"{root}.embeddings.token_embedding.weight", (49408, CONTEXT)
    for number in range(12):
        name = f"{root}.encoder.layers.{number}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _layer(f"{name}.self_attn.{part}", CONTEXT, CONTEXT)
        yield from _layer(f"{name}.layer_norm1", CONTEXT)
        yield from _layer(f"{name}.mlp.fc1", 4 * CONTEXT, CONTEXT)
        yield from _layer(f"{name}.mlp.fc2", CONTEXT, 4 * CONTEXT)
        yield from _layer(f"{name}.layer_norm2", CONTEXT)
    yield from _layer(f"{root}.final_layer_norm", CONTEXT)


# --- VAE ------------------------------------------------------------------------------------------------------

VAE_WIDTHS = (128, 256, 512, 512)


def _vae(root: str) -> Found:
    deepest = VAE_WIDTHS[-1]
    yield from _layer(f"{root}.encoder.conv_in", VAE_WIDTHS[0], 3, 3, 3)
    for level, (into, out) in enumerate(pairwise((VAE_WIDTHS[0], *VAE_WIDTHS))):
        yield from _vae_level(f"{root}.encoder.down.{level}", into, out, blocks=2)
        if level < 3:
            yield from _layer(f"{root}.encoder.down.{level}.downsample.conv", out, out, 3, 3)
    yield from _vae_middle(f"{root}.encoder.mid", deepest)
    yield from _layer(f"{root}.encoder.norm_out", deepest)
    yield from _layer(f"{root}.encoder.conv_out", 8, deepest, 3, 3)
    yield from _layer(f"{root}.quant_conv", 8, 8, 1, 1)
    yield from _layer(f"{root}.post_quant_conv", 4, 4, 1, 1)
    yield from _layer(f"{root}.decoder.conv_in", deepest, 4, 3, 3)
    yield from _vae_middle(f"{root}.decoder.mid", deepest)
    above = deepest
    for level, out in reversed(list(enumerate(VAE_WIDTHS))):
        yield from _vae_level(f"{root}.decoder.up.{level}", above, out, blocks=3)
        if level > 0:
            yield from _layer(f"{root}.decoder.up.{level}.upsample.conv", out, out, 3, 3)
        above = out
    yield from _layer(f"{root}.decoder.norm_out", VAE_WIDTHS[0])
    yield from _layer(f"{root}.decoder.conv_out", 3, VAE_WIDTHS[0], 3, 3)


def _vae_level(name: str, into: int, out: int, *, blocks: int) -> Found:
    for number in range(blocks):
        yield from _vae_block(f"{name}.block.{number}", into if number == 0 else out, out)


def _vae_middle(name: str, width: int) -> Found:
    yield from _vae_block(f"{name}.block_1", width, width)
    yield from _layer(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{name}.attn_1.{part}", width, width, 1, 1)
    yield from _vae_block(f"{name}.block_2", width, width)


def _vae_block(name: str, into: int, out: int) -> Found:
    yield from _layer(f"{name}.norm1", into)
    yield from _layer(f"{name}.conv1", out, into, 3, 3)
    yield from _layer(f"{name}.norm2", out)
    yield from _layer(f"{name}.conv2", out, out, 3, 3)
    if into != out:
        yield from _layer(f"{name}.nin_shortcut", out, into, 1, 1)
