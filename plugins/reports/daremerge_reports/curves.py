"""Pictures of comparisons: curves over the depth of a model, and square matrices.

Colours that are not data come from ``rcParams``. Matrices are in viridis, which colour-blind readers tell apart and
which stays in order when printed in grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .blocks import Atlas, Group, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves", "matrices"]

COLOURS = "viridis"
WIDTH = 10.5
"""Inches of a figure at most; a page shows that at about its own size."""


def curves(
    atlas: Atlas,
    series: Mapping[str, Mapping[Group, float | None]],
    *,
    label: str,
    log: bool = False,
    band: Mapping[Group, tuple[float, float]] | None = None,
    within: tuple[float, float] | None = None,
) -> Figure:
    """Numbers of blocks over depth, 0 at the first block of a forward pass and 1 at the last.

    A single series has a curve for each network, in one panel; several have a panel for each network. A network that
    has no numbers is not drawn.

    Args:
        series: by name, then by block.
        band: the range that each block's number of the first series stands for.
        within: what the axis shows at least.
    """
    from matplotlib.figure import Figure

    lines = [line for line in atlas.lines() if any(_points(line, numbers, log=log) for numbers in series.values())]
    panels = len(lines) if len(series) > 1 and lines else 1
    figure = Figure(figsize=(8.0, 4.0) if panels == 1 else (WIDTH, 2.9 * math.ceil(panels / 2)))
    rows = math.ceil(panels / 2)
    grid = figure.subplots(rows, 1 if panels == 1 else 2, squeeze=False, sharey=True).ravel()
    for at, line in enumerate(lines):
        axes = grid[at if panels > 1 else 0]
        for nth, (name, numbers) in enumerate(series.items()):
            colour = f"C{(nth if len(series) > 1 else at) % COLOURS_IN_CYCLE}"
            _draw_curve(axes, line, numbers, colour, name or line.label, log=log)
            if band is not None and nth == 0:
                _draw_band(axes, line.depths, [band.get(block) for block in line.blocks], colour)
        if panels > 1:
            axes.set_title(line.label, loc="left")
    for axes in grid[:panels]:
        axes.set(xlabel="depth", ylabel=label, xlim=(-0.02, 1.02))
        if log and axes.lines:
            axes.set_yscale("log")
        if within is not None:
            axes.update_datalim([(0, end) for end in within])
            axes.autoscale_view()
        axes.grid(visible=True, alpha=0.5)
    for axes in grid[panels:]:
        axes.set_visible(False)
    if grid[0].lines:
        grid[0].legend(frameon=False, fontsize="small")
    return figure


COLOURS_IN_CYCLE = 7
"""Of the style's own."""


def _draw_curve(
    axes: Axes, line: Line, numbers: Mapping[Group, float | None], colour: str, words: str, *, log: bool
) -> None:
    if points := _points(line, numbers, log=log):
        depths, heights = zip(*points, strict=True)
        axes.plot(depths, heights, marker="o", markersize=3, color=colour, label=words)


def _points(line: Line, numbers: Mapping[Group, float | None], *, log: bool) -> list[tuple[float, float]]:
    """Depth and number of the blocks that have one, and one that the scale has a place for."""
    return [
        (depth, value)
        for depth, block in zip(line.depths, line.blocks, strict=True)
        if (value := numbers.get(block)) is not None and math.isfinite(value) and (value > 0 or not log)
    ]


def _draw_band(axes: Axes, depths: Sequence[float], ranges: Iterable[tuple[float, float] | None], colour: str) -> None:
    found = [(depth, *ends) for depth, ends in zip(depths, ranges, strict=True) if ends is not None]
    if found:
        at, low, high = zip(*found, strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)


Cells = Sequence[Sequence[float | None]]


def matrices(names: Sequence[str], found: Mapping[str, tuple[Cells, tuple[float, float]]]) -> Figure:
    """Square matrices side by side, each with its numbers in it.

    Args:
        names: of the rows and of the columns.
        found: by title: the numbers, and the ends of their scale; None is left empty. A scale from −1 to 1 is of two
            colours that meet in the middle.
    """
    from matplotlib.figure import Figure

    labels = [_folded(name) for name in names]
    side = 0.75 * len(names) + 0.4
    figure = Figure(figsize=((side + 1.2) * len(found) + 0.8, side + 1.2))
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (title, (cells, (low, high))) in zip(panels, found.items(), strict=True):
        shown = [[math.nan if value is None else value for value in row] for row in cells]
        colours = TWO_COLOURS if low < 0 else COLOURS
        image = axes.imshow(shown, vmin=low, vmax=high, cmap=colours, interpolation="nearest")
        for row, values in enumerate(cells):
            for column, value in enumerate(values):
                if value is not None:
                    ink = _ink(image.cmap(image.norm(value)))
                    axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize="small")
        axes.set_xticks(range(len(names)), labels, rotation=90 if max(map(len, labels)) > 8 else 0)
        axes.set_yticks(range(len(names)), labels)
        axes.set_title(title, loc="left")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


TWO_COLOURS = "RdBu"
LONGEST_LABEL = 24


def _folded(name: str) -> str:
    """A name that fits beside a matrix: what is too long is left out of its middle."""
    half = LONGEST_LABEL // 2
    return name if len(name) <= LONGEST_LABEL else f"{name[: half - 1]}…{name[-half:]}"


def _ink(colour: tuple[float, ...]) -> str:
    """Black or white, whichever is read more easily on a colour."""
    red, green, blue, *_ = colour
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
