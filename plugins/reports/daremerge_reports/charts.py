"""How the pictures of these reports are made: panels over the blocks of each part, and maps of blocks × roles.

Colours come from matplotlib's ``rcParams``, which the page sets; what a colour has to mean is mixed from those.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import groupby
from typing import TYPE_CHECKING, Any

from daremerge_core.rendering.pictures import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

__all__ = ["BROKEN", "MARKS", "PART_COLOURS", "diverging", "heat_maps", "name_blocks", "panels", "sequential"]

WIDTH = 10.0
"""Inches of every picture: text of 9 points stays readable where a page shows it at half its size."""
ACROSS = 8.6
"""Inches of it that blocks share."""
MARKS = ("o", "s", "^", "D")
PART_COLOURS = {"unet": "C0", "clip": "C1", "vae": "C2", "lm": "C3", "other": "C5"}
DECADES = 4
"""A scale of powers of ten ends so many below its top: what is smaller still has the lowest colour."""
ZERO = "#808080"
"""Grey, where a scale of powers of ten has no place."""
BROKEN = "#ffb000"
"""What is NaN or infinite: told from blue, red and grey by everybody."""

NUMBER, LETTER = 0.17, 0.085
"""Inches that a number, and each letter of a name, takes below an axis."""
LONGEST = 32
"""Letters of a name; what is longer is left out of its middle."""

_NUMBERED = re.compile(r"(.+)\.([0-9]+)")


def panels(
    parts: Mapping[str, Sequence[str]], draw: Callable[[Axes, str, Sequence[str]], None], *, height: float = 1.9
) -> Figure:
    """One panel for each part, its blocks along the x axis at 0, 1, 2 …

    Args:
        parts: part → names of its blocks.
        draw: draws one part's panel: its axes, the part, the blocks.
        height: inches of a panel, names of blocks apart.
    """
    from matplotlib.figure import Figure

    rooms = [room_below(blocks) for blocks in parts.values()]
    figure = Figure(figsize=(WIDTH, sum(rooms) + (height + 0.3) * len(parts) + 0.3))
    for axes, (part, blocks) in zip(_rows(figure, [height] * len(parts)), parts.items(), strict=True):
        draw(axes, part, blocks)
        axes.set_xlim(-0.6, len(blocks) - 0.4)
        axes.set_title(part, loc="left", fontweight="bold")
        name_blocks(axes, blocks)
    return figure


def heat_maps(
    parts: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    label: str,
    *,
    colours: Colormap | None = None,
    limits: tuple[float, float] | None = None,
    log: bool = False,
) -> Figure:
    """For each part a map of blocks × roles.

    Args:
        parts: part → block → role → value; where there is no tensor there is no value, and the paper shows, as it does
            for None and for what is not finite.
        label: of the colour bar.
        limits: values of the first and the last colour; by default the least and the greatest there are.
        log: a scale of powers of ten, :data:`DECADES` of them at most, on which zero is grey.
    """
    import numpy
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    roles = {
        part: _in_order_of_roles({role for row in blocks.values() for role in row}) for part, blocks in parts.items()
    }
    values = [value for blocks in parts.values() for row in blocks.values() for value in row.values()]
    scale = _scale([value for value in values if value is not None and math.isfinite(value)], limits, log=log)
    heights = [0.2 * len(found) + 0.1 for found in roles.values()]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.95 * len(parts)))
    colours = (colours or sequential()).with_extremes(under=ZERO)
    rows = _rows(figure, heights)
    for axes, (part, blocks) in zip(rows, parts.items(), strict=True):
        names = roles[part]
        grid = numpy.full((len(names), len(blocks)), numpy.nan)
        for column, row in enumerate(blocks.values()):
            for role, value in row.items():
                grid[names.index(role), column] = _shown(value, scale, log=log)
        axes.imshow(grid, cmap=colours, norm=scale, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(part, loc="left", fontweight="bold")
        name_blocks(axes, list(blocks))
    if rows:
        figure.colorbar(ScalarMappable(scale, colours), ax=rows, label=label, fraction=0.03, pad=0.01, aspect=40)
    return figure


def _scale(values: Sequence[float], limits: tuple[float, float] | None, *, log: bool) -> Normalize:
    from matplotlib.colors import LogNorm, Normalize

    if not log:
        low, high = limits or (min(values, default=0.0), max(values, default=1.0))
        return Normalize(low, high if high > low else low + 1.0)
    positive = [value for value in values if value > 0]
    top = max(positive, default=1.0)
    low = max(min(positive, default=0.1), top / 10**DECADES)
    return LogNorm(low if low < top else top / 10, top)


def _shown(value: float | None, scale: Normalize, *, log: bool) -> float:
    """A cell's number; NaN leaves it empty, and on a scale of powers of ten zero alone is below it."""
    if value is None or not math.isfinite(value):
        return math.nan
    if not log:
        return value
    low, high = scale.vmin or 0.0, scale.vmax or 1.0
    return low / 10 if value <= 0 else min(max(value, low), high)


def _in_order_of_roles(found: Set[str]) -> list[str]:
    from daremerge_core.layout import ROLES

    return [role for role in ROLES if role in found]


def _rows(figure: Figure, heights: Sequence[float]) -> list[Axes]:
    if not heights:
        return []
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=list(heights))
    return list(grid[:, 0])


def name_blocks(axes: Axes, blocks: Sequence[str]) -> None:
    """Name the blocks along the x axis: a run of numbered ones by its numbers over their common name."""
    ticks, runs = _names(blocks)
    axes.set_xticks(list(ticks), list(ticks.values()))
    for label in axes.get_xticklabels():
        label.set_fontsize(8)
        if not label.get_text().isdigit():
            label.set_rotation(90)
    for left, right, name in runs:
        _bracket(axes, left, right, name)


def room_below(blocks: Sequence[str]) -> float:
    """Inches that the names of the blocks take."""
    return max([0.55, *(0.2 + 0.075 * len(name) for name in _names(blocks)[0].values() if not name.isdigit())])


def _names(blocks: Sequence[str]) -> tuple[dict[int, str], list[tuple[float, float, str]]]:
    """What to write under the blocks: position → number or name; and runs of numbers: left, right, common name."""
    room = ACROSS / max(len(blocks), 1)
    step = max(1, math.ceil(NUMBER / room))
    ticks: dict[int, str] = {}
    runs: list[tuple[float, float, str]] = []
    for family, run in groupby(enumerate(blocks), key=lambda item: _family(item[1])):
        members = list(run)
        if len(members) >= 3 and len(members) * room >= LETTER * len(family):
            shown = members[::step] if step == 1 else members[:-1:step]  # else it meets the next run's first
            ticks |= {at: name.rpartition(".")[2] for at, name in shown}
            runs.append((members[0][0] - 0.4, members[-1][0] + 0.4, _folded(family)))
        else:
            ticks |= {at: _folded(name) for at, name in members}
    return ticks, runs


def _folded(name: str) -> str:
    half = LONGEST // 2
    return plain(name if len(name) <= LONGEST else f"{name[: half - 1]}…{name[-half:]}")


def _bracket(axes: Axes, left: float, right: float, name: str) -> None:
    """A line below the numbers of a run of blocks, and their common name below it."""
    from matplotlib import rcParams
    from matplotlib.lines import Line2D
    from matplotlib.transforms import offset_copy

    def below(points: float) -> Transform:
        figure: Any = axes.get_figure()
        return offset_copy(axes.get_xaxis_transform(), fig=figure, y=-points, units="points")

    colour = rcParams["axes.edgecolor"]
    axes.add_artist(Line2D([left, right], [0, 0], transform=below(17), clip_on=False, color=colour, linewidth=1))
    axes.text((left + right) / 2, 0, name, transform=below(20), ha="center", va="top", fontsize=8)


def _family(block: str) -> str:
    """``input_blocks`` of ``input_blocks.3``; a name without a number is a family of its own."""
    found = _NUMBERED.fullmatch(block)
    return found[1] if found else block


# --- colours -----------------------------------------------------------------------------------------------


def sequential() -> Colormap:
    """From near the paper to the strongest contrast with it; what is missing is the paper itself."""
    from matplotlib import rcParams
    from matplotlib.colors import LinearSegmentedColormap

    paper, ink = rcParams["axes.facecolor"], rcParams["text.color"]
    stops = [_mixed(paper, "C0", 0.15), _mixed(paper, "C0", 0.9), _mixed("C0", ink, 0.6)]
    return LinearSegmentedColormap.from_list("sequential", stops)


def diverging() -> Colormap:
    """Blue below, nearly the paper at the middle, red above; what is missing is the paper itself."""
    from matplotlib import rcParams
    from matplotlib.colors import LinearSegmentedColormap

    paper, ink = rcParams["axes.facecolor"], rcParams["text.color"]
    middle = _mixed(paper, ink, 0.08)
    below, above = ([_mixed(colour, ink, 0.35), _mixed(paper, colour, 0.85)] for colour in ("#2166ac", "#b2182b"))
    return LinearSegmentedColormap.from_list("diverging", [*below, middle, *reversed(above)])


def _mixed(one: str, other: str, share: float) -> tuple[float, float, float]:
    """A colour between two: 0 is the first, 1 the second."""
    from matplotlib.colors import to_rgb

    first, second = to_rgb(one), to_rgb(other)
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue
