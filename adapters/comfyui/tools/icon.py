"""Draws the pack's icon: two matrices, a random tenth of one kept in the other. Run it to write ``icon.png``."""

from __future__ import annotations

import random
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

SIZE, CELLS = 400, 6
PAPER, A, B = "#161b22", "#4477aa", "#ee6677"


def main() -> None:
    figure = Figure(figsize=(SIZE / 100, SIZE / 100), dpi=100, facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.6, CELLS + 0.6), ylim=(-0.6, CELLS + 0.6))
    axes.axis("off")
    kept = set(random.Random(4).sample(range(CELLS * CELLS), 9))
    for cell in range(CELLS * CELLS):
        x, y = cell % CELLS, cell // CELLS
        colour, alpha = (B, 1.0) if cell in kept else (A, 0.35 + 0.5 * x / CELLS)
        box = FancyBboxPatch(
            (x + 0.14, y + 0.14), 0.72, 0.72, boxstyle="round,pad=0,rounding_size=0.18", color=colour, alpha=alpha, lw=0
        )
        axes.add_patch(box)
    figure.savefig(Path(__file__).resolve().parents[1] / "icon.png", metadata={"Software": ""})


if __name__ == "__main__":
    main()
