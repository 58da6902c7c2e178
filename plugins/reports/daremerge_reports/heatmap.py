"""Pictures over the blocks of a model: a heat map of blocks × roles, and curves over depth.

Colours that are not data come from ``rcParams``. Data is in viridis, which colour-blind readers tell apart and which
stays in order when printed in grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, NamedTuple

from .blocks import Atlas, Group, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["COLOURS", "curves", "heat_map", "matrices"]

COLOURS = "viridis"
ZERO = "#808080"
"""Grey, where a scale of powers of ten has no place."""
WIDTH = 10.5
"""Inches of a figure at most; a page shows that at about its own size."""
CELL = 0.26
"""Inches of a cell, where there is room."""
NAMED = 48
"""Blocks in a row that are all named; of more, every second or third is."""
DECADES = 4
"""A scale of powers of ten ends so many below its top: what is smaller still has the lowest colour."""

_LABELS, _BAR = 1.0, 1.2
"""Inches beside the cells."""


def heat_map(
    atlas: Atlas, values: Mapping[Group, float | None], *, label: str, limits: tuple[float, float] | None = None
) -> Figure:
    """Cells of blocks (across, in forward order) and roles (down), a field of them for each part.

    Args:
        values: by cell (see :meth:`Atlas.cells`); None, and what is not finite, is left empty. A part without any
            number is not drawn.
        label: what the colours mean.
        limits: ends of an even scale; without them it is one of powers of ten, and zero is grey.
    """
    from matplotlib.figure import Figure

    fields = _fields(atlas, {group.part for group, value in values.items() if value is not None})
    norm = _norm([value for value in values.values() if value is not None and math.isfinite(value)], limits)
    widest = max(len(field.blocks) for field in fields)
    cell = min(CELL, (WIDTH - _LABELS - _BAR) / widest)
    heights = [len(field.roles) * CELL + 1.25 for field in fields]
    figure = Figure(figsize=(max(cell * widest + _LABELS + _BAR, 4.5), sum(heights)))
    panels = figure.subplots(len(fields), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, field in zip(panels, fields, strict=True):
        image = field.draw(axes, values, norm, widest)
    bar = figure.colorbar(image, ax=list(panels), label=label, aspect=40, fraction=0.04, pad=0.01)
    bar.outline.set_visible(False)
    return figure


class _Field(NamedTuple):
    part: str
    blocks: list[str]
    roles: list[str]

    def draw(self, axes: Axes, values: Mapping[Group, float | None], norm: Normalize, columns: int) -> AxesImage:
        from matplotlib import colormaps

        rows = [[values.get(Group(self.part, block, role)) for block in self.blocks] for role in self.roles]
        cells = [[_shown(value, norm) for value in row] for row in rows]
        colours = colormaps[COLOURS].with_extremes(under=ZERO)
        image = axes.imshow(cells, norm=norm, cmap=colours, aspect="auto", interpolation="nearest")
        step = math.ceil(len(self.blocks) / NAMED)
        axes.set_xticks(range(0, len(self.blocks), step), self.blocks[::step], rotation=90, fontsize="x-small")
        axes.set_yticks(range(len(self.roles)), self.roles)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_title(self.part, loc="left")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return image


def _fields(atlas: Atlas, drawn: Set[str]) -> list[_Field]:
    """A field for each part that is drawn; for all of them where none is."""
    blocks, roles = list(atlas.groups("block")), list(atlas.groups("role"))
    return [
        _Field(
            part,
            [group.block for group in blocks if group.part == part],
            [group.role for group in roles if group.part == part],
        )
        for part in dict.fromkeys(group.part for group in blocks)
        if part in drawn or not drawn
    ]


def _norm(values: Sequence[float], limits: tuple[float, float] | None) -> Normalize:
    """The scale of colours."""
    from matplotlib.colors import LogNorm, Normalize

    if limits is not None:
        return Normalize(*limits)
    positive = [value for value in values if value > 0]
    if not positive:
        return LogNorm(0.1, 1)
    top = max(positive)
    low = max(min(positive), top / 10**DECADES)
    return LogNorm(low if low < top else top / 10, top)


def _shown(value: float | None, norm: Normalize) -> float:
    """A cell's number; NaN leaves it empty, and below the scale is zero alone."""
    if value is None or not math.isfinite(value):
        return math.nan
    low, high = norm.vmin or 0.0, norm.vmax or 1.0
    return min(max(value, low), high) if value != 0 or low <= 0 else low / 10


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
            colour = f"C{(nth if panels > 1 else at) % COLOURS_IN_CYCLE}"
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
