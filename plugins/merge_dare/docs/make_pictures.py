"""Draw dare.png, the picture of the README, and print its numbers: ``python make_pictures.py``.

Needs matplotlib and scikit-learn, and about a minute. Every merge is the method itself, ``merge.dare``, over
models in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import torch
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure

from daremerge_core import MemoryModel, view
from daremerge_core.demo.digits import Split, Weights, accuracy, fine_tune, load_digits, pretrain
from daremerge_core.views import ModelView
from daremerge_merge_dare.components import Dare

HERE = Path(__file__).parent
TASK = "rotated"
TRAININGS = range(3)
"""Seeds of the split, the base and the fine-tune."""
MASKS = range(8)
"""Seeds of DARE. Every point of a curve is the mean over all trainings and masks; a band is ± 1 standard deviation."""
DROP_RATES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
ITERATIONS = (1, 2, 4, 8, 16)
CORNER = ("4.weight", 8, 16)
"""The tensor whose delta is shown, and how many of its rows and columns."""
GOOD, BAD, LINE = "tab:blue", "tab:red", "0.35"


@dataclass(frozen=True)
class Training:
    """A base, its fine-tune on :data:`TASK`, and the digits that neither has seen."""

    base: Weights
    tuned: Weights
    test: Split

    @classmethod
    def run(cls, seed: int) -> Training:
        digits = load_digits(seed)
        base = pretrain(digits, seed=seed)
        return cls(base, fine_tune(base, digits, TASK, seed=seed), digits.test)

    def accuracy(self, weights: Weights) -> float:
        return accuracy(weights, self.test, TASK)

    def merged(self, **options: float) -> Weights:
        """The base with the fine-tune's changes merged in at ratio 0; ``options`` are DARE's."""
        return _merge(self.base, self, **options)

    def delta(self, **options: float) -> Weights:
        """What DARE makes of the fine-tune's changes: they are merged into zeros."""
        return _merge({key: torch.zeros_like(tensor) for key, tensor in self.base.items()}, self, **options)


def _merge(a: Weights, training: Training, **options: float) -> Weights:
    ports = {"a": MemoryModel(a), "b": MemoryModel(training.tuned), "base": MemoryModel(training.base)}
    merged = view(Dare.model_validate({**ports, "ratio": 0, **options}))
    assert isinstance(merged, ModelView)
    return {key: merged.read(key) for key in merged.keys()}


def draw(trainings: Sequence[Training]) -> Figure:
    figure = Figure(figsize=(13, 4.3), layout="constrained")
    rates, corner, iterations = figure.subplots(1, 3, width_ratios=(1, 1.15, 1))
    draw_rates(rates, trainings)
    draw_corner(corner, trainings[0])
    draw_iterations(iterations, trainings)
    return figure


def draw_rates(axes: Axes, trainings: Sequence[Training]) -> None:
    """Accuracy over the drop rate, with and without rescaling."""
    kept = [1 - p for p in DROP_RATES]
    for label, colour, rescale in (("rescaled", GOOD, True), ("not rescaled", BAD, False)):
        options = [{"drop_rate": p, "rescale": rescale} for p in DROP_RATES]
        _curve(axes, kept, trainings, options, label, colour)
    _level(axes, "fine-tuned", fmean(one.accuracy(one.tuned) for one in trainings))
    _level(axes, "base", fmean(one.accuracy(one.base) for one in trainings), below=True)
    axes.set(title="Accuracy over the drop rate", xlabel="drop rate p (spaced by 1 − p)", ylabel="test accuracy in %")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xticks(kept, [f"{p:g}".replace("0.", ".") for p in DROP_RATES])
    axes.minorticks_off()
    axes.set_ylim(0, 110)
    axes.grid(alpha=0.3)
    axes.legend(loc="center", bbox_to_anchor=(0.5, 0.6))


def draw_corner(axes: Axes, training: Training) -> None:
    """A corner of one tensor's changes: before, after dropping, after rescaling."""
    name, rows, columns = CORNER
    stages = [
        ("before: τ", training.delta(drop_rate=0.0)[name]),
        ("9 of 10 dropped:\nm ⊙ τ", training.delta(drop_rate=0.9, rescale=False)[name]),
        ("the rest × 10:\nm ⊙ τ / (1 − p)", training.delta(drop_rate=0.9)[name]),
    ]
    for label, delta in stages:
        print(f"{label!r}: mean size {delta.abs().mean():.5f}, changed {(delta != 0).double().mean():.4f}")
    colours = colormaps["RdBu"].with_extremes(bad="0.88")
    norm = AsinhNorm(linear_width=0.01, vmin=-0.15, vmax=0.15)
    tops = [stage * (rows + 0.7) for stage in range(len(stages))]
    for top, (_, delta) in zip(tops, stages, strict=True):
        cells = delta[:rows, :columns]
        image = axes.imshow(
            cells.where(cells != 0, torch.nan).numpy(),
            norm=norm,
            cmap=colours,
            aspect="auto",
            extent=(0, columns, top + rows, top),
        )
        axes.hlines([top + row for row in range(1, rows)], 0, columns, color="white", linewidth=0.5)
        axes.vlines(range(1, columns), top, top + rows, color="white", linewidth=0.5)
    axes.set(title="A corner of the changes (grey: dropped)", ylim=(tops[-1] + rows, 0))
    labels = [f"{label}\nmean size {delta.abs().mean():.4f}" for label, delta in stages]
    axes.set_yticks([top + rows / 2 for top in tops], labels, linespacing=1.4)
    axes.set_xticks([])
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, ticks=[-0.1, -0.01, 0, 0.01, 0.1])
    bar.ax.set_yticklabels(["−0.1", "−0.01", "0", "0.01", "0.1"])
    bar.ax.minorticks_off()


def draw_iterations(axes: Axes, trainings: Sequence[Training], p: float = 0.99) -> None:
    """Accuracy over the number of averaged masks, and of one mask that changes as many elements as they do."""
    averaged = [{"drop_rate": p, "iterations": n} for n in ITERATIONS]
    single = [{"drop_rate": p**n} for n in ITERATIONS]
    _curve(axes, ITERATIONS, trainings, averaged, f"n masks of p = {p:g}, averaged", GOOD)
    _curve(axes, ITERATIONS, trainings, single, f"one mask of p = {p:g}ⁿ", "tab:orange", "--")
    _level(axes, "fine-tuned", fmean(one.accuracy(one.tuned) for one in trainings))
    axes.set(title=f"Accuracy over iterations, p = {p:g}", ylabel="test accuracy in %")
    axes.set_xlabel("n, and share of elements changed")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ITERATIONS, [f"{n}\n{100 * (1 - p**n):.0f} %" for n in ITERATIONS])
    axes.minorticks_off()
    axes.set_ylim(20, 104)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _curve(
    axes: Axes,
    positions: Sequence[float],
    trainings: Sequence[Training],
    options: Sequence[dict[str, float]],
    label: str,
    colour: str,
    style: str = "-",
) -> None:
    """Mean accuracy under each of ``options``, with its band; the numbers are printed."""
    found = [
        [one.accuracy(one.merged(seed=seed, **chosen)) for one in trainings for seed in MASKS] for chosen in options
    ]
    means, spreads = [fmean(some) for some in found], [stdev(some) for some in found]
    for chosen, mean, spread in zip(options, means, spreads, strict=True):
        print(f"{label}, {chosen}: {mean:.1f} ± {spread:.1f}")
    axes.plot(positions, means, "o" + style, color=colour, label=label, markersize=5)
    low, high = ([mean + sign * spread for mean, spread in zip(means, spreads, strict=True)] for sign in (-1, 1))
    axes.fill_between(positions, low, high, color=colour, alpha=0.2, linewidth=0)


def _level(axes: Axes, label: str, value: float, *, below: bool = False) -> None:
    """A horizontal line, labelled at its left end."""
    print(f"{label}: {value:.1f}")
    axes.axhline(value, color=LINE, linestyle=":", zorder=1)
    axes.annotate(
        f"{label} {value:.0f} %",
        (0, value),
        xycoords=("axes fraction", "data"),
        xytext=(6, -4 if below else 3),
        textcoords="offset points",
        va="top" if below else "bottom",
        color=LINE,
    )


if __name__ == "__main__":
    with rc_context(
        {"font.size": 12, "axes.titlesize": "medium", "legend.fontsize": "small"}
    ):  # to be read at half size
        picture = draw([Training.run(seed) for seed in TRAININGS])
        picture.savefig(HERE / "dare.png", dpi=100, metadata={"Software": None})
