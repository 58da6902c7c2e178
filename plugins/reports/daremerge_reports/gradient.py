"""The ratios of a layer gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from daremerge_core import GradientRef, Report, Reporter

from .order import Block, by_block, by_part
from .words import how_many

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from daremerge_core import Gradient, Layout, Survey

__all__ = ["GradientReport"]

Ratios = Mapping[str, "float | None"]

KINDS = {"attention": ("attn", "fused"), "feed-forward": ("ff",), "normalisation": ("norm",)}
"""Marks of the picture → first words of the roles they stand for; all other roles are ``other``."""
OTHER = "other"


class GradientReport(Reporter):
    """The ratios of a layer gradient over the depth of the model: 1 keeps A, 0 takes B.

    A layer without a ratio stays as it is in A, whatever the merge's own ratio is.
    """

    name: ClassVar[str] = "gradient"

    gradient: GradientRef = Field(description="The gradient.")
    show: Literal["size", "details"] = Field("size", description="A row for each block, or for each tensor.")

    def report(self, survey: Survey) -> Report:
        gradient: Gradient = self.gradient
        ratios = {key: gradient.ratio(key) for key in gradient.keys()}
        layout = survey.layout(gradient)
        blocks = by_block(layout, ratios)
        of_blocks = {block: [ratios[key] for key in keys] for block, keys in blocks.items()}
        return Report(
            title=f"Gradient: {_range(list(ratios.values()))}",
            text=_text(ratios, of_blocks),
            rows=_details(layout, blocks, ratios) if self.show == "details" else _sizes(of_blocks),
            data={
                "architecture": layout.arch,
                "blocks": [
                    {"part": block.part, "block": block.name, "tensors": len(found), **_spread(found)}
                    for block, found in of_blocks.items()
                ],
                "ratios": ratios,
            },
            figures={
                "Ratio of each layer, block by block: 1 keeps A, 0 takes B": partial(_draw, layout, blocks, ratios)
            }
            if ratios
            else {},
        )


def _known(ratios: Sequence[float | None]) -> list[float]:
    return [ratio for ratio in ratios if ratio is not None]


def _range(ratios: Sequence[float | None]) -> str:
    known = _known(ratios)
    if not known:
        return "no ratios, A as it is"
    low, high = min(known), max(known)
    return f"ratio {low:.4g}" if low == high else f"ratios {low:.4g} to {high:.4g}"


def _text(ratios: Ratios, of_blocks: Mapping[Block, Sequence[float | None]]) -> str:
    known = _known(list(ratios.values()))
    if not known:
        return "No layer has a ratio: a merge with this gradient leaves A as it is."
    counts = Counter(known)
    lines = [f"{len(known):,} of {how_many(len(ratios))} have a ratio, {len(counts):,} different ones in all."]
    if 1 < len(counts) < len(known):
        common = (f"{ratio:.4g} ({how_many(count)})" for ratio, count in counts.most_common(3))
        lines.append(f"Most often: {', '.join(common)}.")
    if without := len(ratios) - len(known):
        lines.append(f"{how_many(without)} without one stay as they are in A.")
    if outside := [ratio for ratio in known if not 0 <= ratio <= 1]:
        lines.append(f"{len(outside):,} ratios outside 0 to 1 extrapolate: {min(outside):.4g} to {max(outside):.4g}.")
    uneven = [block for block, found in of_blocks.items() if len(set(found)) > 1]
    lines.append(
        f"In {len(uneven)} of {len(of_blocks)} blocks the layers differ." if uneven else "All layers of a block agree."
    )
    return "\n".join(lines)


def _mean(ratios: Sequence[float]) -> float:
    return sum(ratios) / len(ratios)


def _spread(ratios: Sequence[float | None]) -> dict[str, Any]:
    known = _known(ratios)
    return {
        "lowest": min(known, default=None),
        "mean": _mean(known) if known else None,
        "highest": max(known, default=None),
        "without": len(ratios) - len(known),
    }


def _sizes(of_blocks: Mapping[Block, Sequence[float | None]]) -> list[dict[str, Any]]:
    return [
        {"part": block.part, "block": block.name, "tensors": len(found), **_spread(found)}
        for block, found in of_blocks.items()
    ]


def _details(layout: Layout, blocks: Mapping[Block, Sequence[str]], ratios: Ratios) -> list[dict[str, Any]]:
    return [
        {"tensor": key, "part": block.part, "role": layout.place(key).role, "ratio": ratios[key]}
        for block, keys in blocks.items()
        for key in keys
    ]


def _kind(role: str) -> str:
    return next((kind for kind, words in KINDS.items() if role.split(".")[0] in words), OTHER)


def _towers(depths: Sequence[float | None]) -> list[list[int]]:
    """Runs of blocks that a forward pass visits one after the other: their depth grows."""
    runs: list[list[int]] = []
    before: float | None = None
    for at, depth in enumerate(depths):
        if depth is None or before is None or depth <= before:
            runs.append([])
        runs[-1].append(at)
        before = depth
    return runs


def _draw(layout: Layout, blocks: Mapping[Block, Sequence[str]], ratios: Ratios) -> Figure:
    """A line through the means of the blocks, the spread of each, and a mark for each kind of layer in it."""
    from .charts import MARKS, panels

    known = _known(list(ratios.values()))
    low, high = min(known, default=0.0), max(known, default=1.0)
    low, high = min(low, 0.0), max(high, 1.0)
    none = low - 0.17 * (high - low)
    parts = by_part(blocks)
    kinds = [*KINDS, OTHER]

    def draw(axes: Axes, part: str, names: Sequence[str]) -> None:
        axes.axhspan(none - 0.09 * (high - low), none + 0.09 * (high - low), color="0.5", alpha=0.12, linewidth=0)
        means: list[float] = []
        for at, name in enumerate(names):
            keys = parts[part][name]
            found = _known([ratios[key] for key in keys])
            means.append(_mean(found) if found else float("nan"))
            if found:
                axes.fill_between([at - 0.4, at + 0.4], min(found), max(found), color="C0", alpha=0.25, linewidth=0)
            by_kind: dict[str, list[float | None]] = {}
            for key in keys:
                by_kind.setdefault(_kind(layout.place(key).role), []).append(ratios[key])
            for index, kind in enumerate(kinds):
                values = by_kind.get(kind, [])
                x = at + (index - 1.5) * 0.16
                if of_kind := sorted(set(_known(values))):
                    axes.plot([x] * len(of_kind), of_kind, MARKS[index], color=f"C{index + 1}", markersize=4.5)
                if None in values:
                    axes.plot(x, none, MARKS[index], color="0.5", fillstyle="none", markersize=4.5)
        for run in _towers([layout.place(parts[part][name][0]).depth for name in names]):
            axes.plot(run, [means[at] for at in run], color="C0", linewidth=1, zorder=1)
        axes.set_ylim(none - 0.12 * (high - low), high + 0.06 * (high - low))
        ticks = sorted({0.0, 0.5, 1.0, low, high})
        axes.set_yticks([none, *ticks], ["none", *(f"{tick:g}" for tick in ticks)])
        axes.set_ylabel("ratio")
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    figure = panels({part: list(found) for part, found in parts.items()}, draw)
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=MARKS[index], color=f"C{index + 1}", label=kind)
        for index, kind in enumerate(kinds)
    ]
    handles += [
        Line2D([], [], color="C0", linewidth=1, label="mean of a block"),
        Line2D([], [], linestyle="", marker="o", color="0.5", fillstyle="none", label="none: A as it is"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, handletextpad=0.3)
    return figure
