"""Gradients over the blocks of a Stable Diffusion U-Net: by kind of block, and by how deep in the U they lie."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from daremerge_core import Layout, Place

from .options import NeedsAny

__all__ = ["BlockGradient", "ShellGradient", "blocks_by_kind"]

RATIO = "1 keeps A, 0 takes B; not given: left alone."


def blocks_by_kind(layout: Layout) -> dict[str, list[str]] | None:
    """The blocks of a U-Net by the first word of their names, in forward order; None for what is no such U-Net.

    A U-Net is what names its blocks as Stable Diffusion does: ``input_blocks``, ``middle_block``, ``output_blocks``
    and ``out``, perhaps with ``time_embed`` and ``label_emb`` beside them.
    """
    found: dict[str, list[str]] = {}
    for block in layout.blocks("unet"):
        found.setdefault(_kind(block), []).append(block)
    whole = {"input_blocks", "middle_block", "output_blocks"} <= found.keys() and found.get("out") == ["out"]
    return found if whole else None


def _kind(block: str) -> str:
    return block.partition(".")[0]


def _require_unet(layout: Layout, name: str) -> dict[str, list[str]]:
    found = blocks_by_kind(layout)
    if found is None:
        raise ValueError(
            f"gradient.{name} is for the U-Nets of Stable Diffusion, and this model is {layout.arch}: "
            "use depth, mbw, pattern or parts, which work on every architecture"
        )
    return found


class BlockGradient(NeedsAny):
    """One ratio for each kind of block of a Stable Diffusion U-Net.

    Covers the blocks named, whole, and nothing else of the checkpoint.
    """

    name = "block"
    any_of = ("time", "label", "input", "middle", "output", "out")
    time: float | None = Field(None, description=f"Ratio of time_embed. {RATIO}")
    label: float | None = Field(None, description=f"Ratio of label_emb, which SDXL has. {RATIO}")
    input: float | None = Field(None, description=f"Ratio of all input_blocks. {RATIO}")
    middle: float | None = Field(None, description=f"Ratio of middle_block. {RATIO}")
    output: float | None = Field(None, description=f"Ratio of all output_blocks. {RATIO}")
    out: float | None = Field(None, description=f"Ratio of out, the last convolution. {RATIO}")

    def for_layout(self, layout: Layout) -> Callable[[Place], float | None]:
        _require_unet(layout, self.name)
        ratios = {
            "time_embed": self.time,
            "label_emb": self.label,
            "input_blocks": self.input,
            "middle_block": self.middle,
            "output_blocks": self.output,
            "out": self.out,
        }

        def ratio(place: Place) -> float | None:
            return ratios.get(_kind(place.block)) if place.part == "unet" and place.block else None

        return ratio


class ShellGradient(NeedsAny):
    """One ratio for each of three shells around a U-Net's middle, like those of an onion.

    The exterior is the first third of the input blocks and the last third of the output blocks, the core the middle
    block and what is next to it, the interior what lies between; the two ends of a skip connection are always in one
    shell. time_embed, label_emb and out are in none.
    """

    name = "shell"
    any_of = ("exterior", "interior", "core")
    exterior: float | None = Field(None, description=f"Ratio of the outer third (SD1.5: IN00–03, OUT08–11). {RATIO}")
    interior: float | None = Field(None, description=f"Ratio of the next third (SD1.5: IN04–07, OUT04–07). {RATIO}")
    core: float | None = Field(None, description=f"Ratio of the rest (SD1.5: IN08–11, M00, OUT00–03). {RATIO}")

    def for_layout(self, layout: Layout) -> Callable[[Place], float | None]:
        kinds = _require_unet(layout, self.name)
        shells = (self.exterior, self.interior, self.core)
        inputs, outputs = kinds["input_blocks"], kinds["output_blocks"]
        ratios = {block: shells[3 * i // len(inputs)] for i, block in enumerate(inputs)}
        # From the outside in, as the input blocks go, so that skip connections join blocks of one shell.
        ratios |= {block: shells[3 * i // len(outputs)] for i, block in enumerate(reversed(outputs))}
        ratios |= dict.fromkeys(kinds["middle_block"], self.core)

        def ratio(place: Place) -> float | None:
            return ratios.get(place.block) if place.part == "unet" and place.block else None

        return ratio
