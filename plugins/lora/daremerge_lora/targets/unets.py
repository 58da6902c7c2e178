"""The U-Nets of Stable Diffusion 1.x, 2.x and XL: CompVis's names, and diffusers'.

Rombach et al., arXiv:2112.10752; Podell et al., SDXL, arXiv:2307.01952.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from .tables import Entry, Table, entries

__all__ = ["SDXL_REFINER_UNET", "SDXL_UNET", "SD_UNET"]

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_OUTER = {name: name for name in ("norm", "proj_in", "proj_out")}
_TRANSFORMER = {
    name: name
    for name in (
        *(f"{attention}.to_{one}" for attention in ("attn1", "attn2") for one in ("q", "k", "v", "out.0")),
        *("ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"),
    )
}
_ENDS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RESNETS = 2  # of each level on the way down; one more on the way up


def _attention(native: str, diffusers: str, depth: int) -> Iterator[Entry]:
    if depth:
        yield from entries(native, diffusers, _OUTER)
    for index in range(depth):
        block = f"transformer_blocks.{index}."
        yield from entries(native + block, diffusers + block, _TRANSFORMER)


def _unet(depths: Sequence[int], middle: int) -> Iterator[Entry]:
    """``depths``: transformer blocks in each attention of each level, finest first; ``middle``: of the middle."""
    yield from entries("", "", _ENDS)
    number, last = 1, len(depths) - 1
    for level, depth in enumerate(depths):
        for index in range(_RESNETS):
            yield from entries(f"input_blocks.{number}.0.", f"down_blocks.{level}.resnets.{index}.", _RESNET)
            yield from _attention(f"input_blocks.{number}.1.", f"down_blocks.{level}.attentions.{index}.", depth)
            number += 1
        if level < last:
            yield Entry(f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{number}.0.op")
            number += 1
    yield from entries("middle_block.0.", "mid_block.resnets.0.", _RESNET)
    yield from _attention("middle_block.1.", "mid_block.attentions.0.", middle)
    yield from entries("middle_block.2.", "mid_block.resnets.1.", _RESNET)
    number = 0
    for level, depth in enumerate(reversed(depths)):
        for index in range(_RESNETS + 1):
            yield from entries(f"output_blocks.{number}.0.", f"up_blocks.{level}.resnets.{index}.", _RESNET)
            yield from _attention(f"output_blocks.{number}.1.", f"up_blocks.{level}.attentions.{index}.", depth)
            if index == _RESNETS and level < last:
                place = 2 if depth else 1
                yield Entry(f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{number}.{place}.conv")
            number += 1


_ALIASES = {f"class_embedding.linear_{index}": f"add_embedding.linear_{index}" for index in (1, 2)}

SD_UNET = Table(partial(_unet, (1, 1, 1, 0), middle=1), _ALIASES)
"""Of 1.x and 2.x, whose layers have the same names."""

SDXL_UNET = Table(partial(_unet, (0, 2, 10), middle=10), _ALIASES)

SDXL_REFINER_UNET = Table(partial(_unet, (0, 4, 4, 0), middle=4), _ALIASES)
