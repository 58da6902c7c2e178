"""A report's figures, drawn for light or dark pages.

Reporters draw with matplotlib and take every colour that is not data from ``rcParams``; here these are set. Only the
non-interactive backend is used, so no window system is needed and nothing global changes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OutputError
from ..values import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from . import Theme

__all__ = ["PALETTE", "draw", "need_matplotlib", "to_png"]

DPI = 144

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
    }


def draw(figure: Callable[[], Figure], theme: Theme) -> bytes:
    """One figure as PNG, the same bytes each time."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with rc_context(style(theme)):
        drawn = figure()
        FigureCanvasAgg(drawn)
        held = io.BytesIO()
        drawn.savefig(held, format="png", dpi=DPI, metadata={"Software": ""})
    return held.getvalue()


def to_png(report: Report, theme: Theme) -> bytes:
    """All figures of a report, one below the other."""
    import numpy
    from matplotlib import image

    pictures = [image.imread(io.BytesIO(draw(figure, theme)))[..., :3] for figure in report.figures.values()]
    if len(pictures) == 1:
        return draw(next(iter(report.figures.values())), theme)
    width = max(picture.shape[1] for picture in pictures)
    paper = pictures[0][0, 0]

    def widened(picture: Any) -> Any:
        sheet = numpy.broadcast_to(paper, (picture.shape[0], width, 3)).copy()
        left = (width - picture.shape[1]) // 2
        sheet[:, left : left + picture.shape[1]] = picture
        return sheet

    held = io.BytesIO()
    stacked = numpy.concatenate([widened(picture) for picture in pictures])
    image.imsave(held, stacked, format="png", metadata={"Software": ""})
    return held.getvalue()
