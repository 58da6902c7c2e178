"""Draw gradients.png, the picture of the README: ``python make_pictures.py``.

Needs matplotlib. Every colour is the ratio that the family itself gives the tensors of Stable Diffusion 1.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from daremerge_core import GradientFamily, MemoryModel, view
from daremerge_core.testing.layouts import load
from daremerge_gradients.attention import AttentionGradient
from daremerge_gradients.depth import DepthGradient
from daremerge_gradients.edit import EditGradient
from daremerge_gradients.mbw import MbwGradient
from daremerge_gradients.operations import Mean
from daremerge_gradients.tables import PartsGradient, PatternGradient
from daremerge_gradients.unet import BlockGradient, ShellGradient

HERE = Path(__file__).parent
UNET = r"model\.diffusion_model\."
COLUMNS = {
    "time": UNET + r"time_embed\.",
    **{f"IN{i:02}": UNET + rf"input_blocks\.{i}\." for i in range(12)},
    "M00": UNET + r"middle_block\.",
    **{f"OUT{i:02}": UNET + rf"output_blocks\.{i}\." for i in range(12)},
    "out": UNET + r"out\.",
    "text": r"cond_stage_model\.",
    "VAE": r"first_stage_model\.",
}
ROLES = {"norm": r".*s\.\d\.norm\d\.", "attn": r".*\.attn[12]\.", "ff": r".*\.ff\.", "the rest": r"(?!.*transformer_b)"}
GAPS = {"IN00": 0.4, "M00": 0.4, "OUT00": 0.4, "out": 0.4, "text": 1.0}
"""Free space in front of a column, in columns."""
COLOURS = colormaps["RdYlBu"]
ALONE, LINE = "0.85", "0.55"


class Row(NamedTuple):
    label: str
    gradient: Any
    tensors: str = ""
    """Of each block only the tensors that this pattern matches, behind the block's name."""
    space: float = 0.35
    """Free space above the row, in rows."""


def rows(model: MemoryModel) -> Iterator[Row]:
    """What is shown, from the top."""

    def made(family: type[GradientFamily], **options: Any) -> Any:
        return view(family(model=model, **options))

    block = made(BlockGradient, input=1.0, middle=0.5, output=0.0)
    shell = made(ShellGradient, exterior=1.0, interior=0.5, core=0.0)
    yield Row("parts: unet 0.5, clip 0, vae 1", made(PartsGradient, unet=0.5, clip=0.0, vae=1.0), space=0)
    yield Row("block: input 1, middle 0.5, output 0", block)
    yield Row("shell: exterior 1, interior 0.5, core 0", shell)
    yield Row("mean of these two", view(Mean(gradients=[block, shell])))
    yield Row("edit of it: set output_blocks.1 to 1", edited(view(Mean(gradients=[block, shell]))))
    yield Row(
        "mbw: IN{01-03} 0, time_embed 0, rest 0.6",
        made(MbwGradient, blocks={"IN{01-03}": 0.0, "time_embed": 0.0}, rest=0.6),
        space=0.8,
    )
    for index, preset in enumerate(("GRAD_V", "WRAP12", "RING08_SOFT", "SMOOTHSTEP", "COSINE", "SMOOTHSTEP/3")):
        yield Row(f"mbw: preset {preset}", made(MbwGradient, preset=preset), space=0 if index else 0.35)
    curve = {"points": {"0": 1.0, "0.5": 0.0, "1": 0.6}, "parts": ["unet"]}
    for index, how in enumerate(("linear", "cosine", "step")):
        yield Row(
            f"depth: 0→1, 0.5→0, 1→0.6, {how}",
            made(DepthGradient, interpolation=how, **curve),
            space=0 if index else 0.8,
        )
    attention = made(AttentionGradient, norm=1.0, attn=0.0, ff=0.5)
    for index, (role, pattern) in enumerate(ROLES.items()):
        yield Row(
            f"attention: norm 1, attn 0, ff 0.5:  {role}" if not index else role,
            attention,
            pattern,
            0 if index else 0.8,
        )
    layers = {"*.attn2.*": 0.0, "input_blocks.1": 0.5}
    pattern = made(PatternGradient, layers=layers, rest=1.0)
    for index, (role, tensors) in enumerate({"attn2": r".*\.attn2\.", "the rest": r"(?!.*attn2)"}.items()):
        yield Row(
            "pattern: *.attn2.* 0, input_blocks.1 0.5, rest 1:  attn2" if not index else role,
            pattern,
            tensors,
            0 if index else 0.35,
        )


def edited(gradient: Any) -> Any:
    return view(EditGradient(gradient=gradient, include="output_blocks.1", value=1.0))


def draw(shown: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    axes = figure.add_subplot()
    lefts = columns()
    top = 0.0
    for row in shown:
        top += row.space
        for column, pattern in COLUMNS.items():
            draw_cell(axes, row, pattern, lefts[column], top)
        axes.text(-0.5, top + 0.5, row.label, ha="right", va="center")
        top += 1
    axes.set(xlim=(-0.05, max(lefts.values()) + 1.05), ylim=(top + 0.05, -0.05))
    axes.add_patch(Rectangle((-12.8, -1.7), 1, 1, facecolor=ALONE, edgecolor=LINE, linewidth=0.5, clip_on=False))
    axes.text(-11.5, -1.2, "left alone: no ratio", va="center")
    axes.set_yticks([])
    axes.set_xticks([left + 0.5 for left in lefts.values()], list(lefts), rotation=90)
    axes.tick_params(bottom=False, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(ScalarMappable(cmap=COLOURS), ax=axes, aspect=40, pad=0.01, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0: B", "0.5", "1: A"])
    return figure


def columns() -> dict[str, float]:
    """The left edge of each column."""
    lefts: dict[str, float] = {}
    right = 0.0
    for column in COLUMNS:
        lefts[column] = right + GAPS.get(column, 0.0)
        right = lefts[column] + 1
    return lefts


def draw_cell(axes: Axes, row: Row, pattern: str, left: float, top: float) -> None:
    """A block's ratio as a colour, grey where it has none; nothing where it has no such tensors."""
    ratios = {row.gradient.ratio(key) for key in row.gradient.keys() if re.match(pattern + row.tensors, key)}
    if not ratios:
        return
    if None in ratios and len(ratios) > 1:
        raise ValueError(f"{row.label}: one cell cannot show {ratios}")
    known = [ratio for ratio in ratios if ratio is not None]
    colour = COLOURS(sum(known) / len(known)) if known else ALONE
    axes.add_patch(Rectangle((left, top), 1, 1, facecolor=colour, edgecolor=LINE, linewidth=0.5))


if __name__ == "__main__":
    zero = torch.zeros(())
    sd15 = MemoryModel({key: zero.expand(meta.shape) for key, meta in load("sd15").items()}, {})
    with rc_context({"font.size": 11}):
        picture = draw(list(rows(sd15)))
        picture.savefig(HERE / "gradients.png", dpi=100, metadata={"Software": None})
