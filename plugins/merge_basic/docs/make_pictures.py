"""Draw blends.png, the picture of the README: ``python make_pictures.py`` (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from daremerge_merge_basic import kernels

HERE = Path(__file__).parent
POSITIONS = 20
A, B = torch.tensor([1.0, 0.25]), torch.tensor([-0.3, 0.75])
"""Two tensors of two elements, for the paths: of different lengths, at a wide angle."""

Blend = Callable[[Tensor, Tensor, float], Tensor]


def draw() -> Figure:
    figure = Figure(figsize=(13, 4.3), layout="constrained")
    shares, positions, paths = figure.subplots(1, 3)
    draw_shares(shares)
    draw_positions(positions)
    draw_paths(paths)
    return figure


def draw_shares(axes: Axes) -> None:
    """B's share over t: where each blend stands between A (0) and B (1)."""
    t = [i / 100 for i in range(101)]
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    blends: dict[str, tuple[Blend, str]] = {
        "lerp, colorize": (kernels.lerp, "-"),
        "cosine": (kernels.cosine, "-"),
        "cubic": (kernels.cubic, "--"),
        "scaled-add": (kernels.scaled_add, "-"),
    }
    for label, (blend, style) in blends.items():
        axes.plot(t, [float(blend(zero, one, x)) for x in t], style, label=label)
    axes.set(title="B's share of every element", xlabel="t = 1 − ratio", ylabel="B's share")
    axes.grid(alpha=0.3)
    axes.legend()


def draw_positions(axes: Axes) -> None:
    """B's share over the last dimension."""
    position = torch.arange(POSITIONS)
    zero, one = torch.zeros(POSITIONS), torch.ones(POSITIONS)
    rows = [
        (f"{label}\nt = {t}", blend(zero, one, t, position, POSITIONS))
        for label, blend in (("slice", kernels.slice_), ("cyclic", kernels.cyclic), ("gradient", kernels.gradient))
        for t in (0.3, 0.5, 0.8)
    ]
    image = axes.imshow(torch.stack([row for _, row in rows]).numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set(title="B's share of each position", xlabel=f"position along a last dimension of {POSITIONS}")
    axes.set_xticks(range(0, POSITIONS, 5))
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=8)
    for line in range(POSITIONS - 1):
        axes.axvline(line + 0.5, color="white", linewidth=0.5)
    for line in range(len(rows) - 1):
        axes.axhline(line + 0.5, color="white", linewidth=3 if line % 3 == 2 else 0.5)
    colours = axes.figure.colorbar(image, ax=axes, ticks=[0, 0.5, 1])
    colours.ax.set_yticklabels(["A", "half", "B"])


def draw_paths(axes: Axes) -> None:
    """The way from A to B, for a tensor of two elements."""
    ab, aa, bb = (float(product.sum()) for product in kernels.products(A, B))
    blends: dict[str, tuple[Blend, str]] = {
        "lerp": (kernels.lerp, "-"),
        "slerp": (lambda a, b, t: kernels.slerp(a, b, t, ab, aa, bb), "-"),
        "bislerp": (kernels.bislerp, "--"),
        "hslerp": (kernels.hslerp, ":"),
    }
    for label, (blend, style) in blends.items():
        points = torch.stack([blend(A, B, i / 100) for i in range(101)])
        axes.plot(points[:, 0], points[:, 1], style, label=label)
        axes.plot(*points[50], "o", color=axes.lines[-1].get_color(), markersize=4)
    for name, point, offset in (("A", A, (5, -4)), ("B", B, (-13, -3))):
        tip = (float(point[0]), float(point[1]))
        axes.annotate("", xy=tip, xytext=(0, 0), arrowprops={"arrowstyle": "->", "color": "grey"})
        axes.annotate(name, xy=tip, xytext=offset, textcoords="offset points", fontweight="bold")
    axes.set(title="The way from A to B (dots: halfway)", xlabel="element 0 (first channel)", ylabel="element 1")
    axes.set_xlim(-0.5, 1.2)
    axes.set_ylim(-0.1, 1.0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


if __name__ == "__main__":
    draw().savefig(HERE / "blends.png", dpi=100, metadata={"Software": None})
