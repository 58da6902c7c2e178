"""A report's figures, drawn for light or dark pages.

Reporters draw with matplotlib and take every colour that is not data from ``rcParams``; here these are set. Only the
non-interactive backend is used, so no window system is needed and nothing global changes.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OutputError
from ..printable import printable
from ..values import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from . import Theme

__all__ = ["PALETTE", "draw", "need_matplotlib", "plain", "text_to_png", "to_png"]

DPI = 144
LETTERS_PER_INCH = 13
"""Of the words above a picture."""

LINES = 80
"""Of a text that is drawn: more of them could not be read in one picture."""

PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Paul Tol's bright scheme: told apart by colour-blind readers, on white and on black."""

_INK: Mapping[str, tuple[str, str, str]] = {
    "light": ("#ffffff", "#1f2328", "#d0d7de"),
    "dark": ("#0d1117", "#e6edf3", "#3d444d"),
}
"""Paper, ink and lines."""


def need_matplotlib(path: Path) -> None:
    """Raise :class:`~daremerge_core.errors.OutputError` when pictures cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise OutputError(
            f"{path}: pictures need matplotlib, which is not installed",
            hint="pip install matplotlib, or write the report as .txt or .json.",
        )


def style(theme: Theme) -> Any:
    """matplotlib's ``rcParams`` for a theme."""
    from cycler import cycler

    paper, ink, line = _INK[theme]
    return {
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "savefig.facecolor": paper,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": line,
        "xtick.color": ink,
        "ytick.color": ink,
        "grid.color": line,
        "legend.edgecolor": line,
        "legend.facecolor": paper,
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.labelsize": 10,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
        "font.size": 10,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.08,
        "figure.constrained_layout.w_pad": 0.08,
    }


def draw(figure: Callable[[], Figure], theme: Theme, *, heading: str = "") -> bytes:
    """One figure as PNG, the same bytes each time.

    Args:
        heading: words above it, where no page is there to say them.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with rc_context(style(theme)):
        drawn = figure()
        FigureCanvasAgg(drawn)
        if heading:
            _head(drawn, heading)
        held = io.BytesIO()
        drawn.savefig(held, format="png", dpi=DPI, metadata={"Software": ""})
    return held.getvalue()


def plain(text: str) -> str:
    """Text to put in a figure as it is: matplotlib takes what stands between two dollar signs for mathematics."""
    return text.replace("$", r"\$")


def _head(figure: Figure, heading: str) -> None:
    """Words at the top left, with room made for them."""
    width, height = figure.get_size_inches()
    lines = [line for text in heading.splitlines() for line in textwrap.wrap(text, int(width * LETTERS_PER_INCH))]
    figure.set_size_inches(width, height + 0.19 * len(lines))
    figure.suptitle(plain("\n".join(lines)), x=0.08 / width, ha="left", fontsize=10)


def text_to_png(text: str, theme: Theme) -> bytes:
    """Text as a picture, in letters of one width, for where only pictures are shown; its first :data:`LINES` lines."""
    from matplotlib.figure import Figure

    lines = text.splitlines()
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"… and {len(lines) - LINES + 1} more lines"]
    width = 0.4 + 0.088 * max(map(len, lines), default=0)
    height = 0.4 + 0.172 * max(len(lines), 1)

    def figure() -> Figure:
        page = Figure(figsize=(width, height))
        page.set_layout_engine("none")
        page.text(0.2 / width, 1 - 0.2 / height, plain("\n".join(lines)), family="DejaVu Sans Mono", va="top")
        return page

    return draw(figure, theme)


def to_png(report: Report, theme: Theme) -> bytes:
    """The title and all figures of a report with their captions, one below the other."""
    import numpy
    from matplotlib import image

    captions = [printable(caption) for caption in report.figures]
    captions[0] = f"{printable(report.title)}\n{captions[0]}"
    drawn = [
        draw(figure, theme, heading=caption) for caption, figure in zip(captions, report.figures.values(), strict=True)
    ]
    if len(drawn) == 1:
        return drawn[0]
    pictures = [image.imread(io.BytesIO(one))[..., :3] for one in drawn]
    width = max(picture.shape[1] for picture in pictures)
    paper = pictures[0][0, 0]

    def widened(picture: Any) -> Any:
        sheet = numpy.broadcast_to(paper, (picture.shape[0], width, 3)).copy()
        sheet[:, : picture.shape[1]] = picture
        return sheet

    held = io.BytesIO()
    stacked = numpy.concatenate([widened(picture) for picture in pictures])
    image.imsave(held, stacked, format="png", metadata={"Software": ""})
    return held.getvalue()
