"""Draw extract.png and merge.png, the pictures of the README, and print their numbers: ``python make_pictures.py``.

Needs matplotlib and scikit-learn, and about three minutes. Decompositions are those of the tools, on the changes that
fine-tunes of the digits made to a base.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from daremerge_core import Span
from daremerge_core.demo.digits import Digits, Weights, accuracy, fine_tune, load_digits, pretrain
from daremerge_core.engine import one_thread_per_op
from daremerge_core.rng import Stream
from daremerge_lora.factors import kernels
from daremerge_lora.factors.modules import EXACT, Decomposition
from daremerge_lora.merging import kernels as merging

HERE = Path(__file__).parent
SEED = 0
TASKS = ("rotated", "mirrored")
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
SIZES = ((320, 320), (640, 640), (1280, 1280), (5120, 640), (10240, 1280))
"""Layers of SD 1.5 and SDXL: attention at three widths, and two feed-forward layers."""
RANDOMISED = Decomposition("randomised")
LORA_RANK = 16
METHODS = (("sum", 1.0), ("ties", 0.5), ("dare", 0.5), ("dare", 0.1), ("dare-ties", 0.5))
COLOURS = ("tab:blue", "tab:green", "tab:orange", "tab:red", "tab:purple")
LINE = "0.35"

Deltas = Mapping[str, Tensor]
"""Weight's name → its change; biases and norms are none of a LoRA's business."""


@dataclass(frozen=True)
class Experiment:
    """A base, what fine-tunes changed of its weights, and the digits that none has seen."""

    digits: Digits
    base: Weights
    deltas: Mapping[str, Deltas]

    @classmethod
    def run(cls) -> Experiment:
        digits = load_digits(SEED)
        base = pretrain(digits, seed=SEED)
        deltas = {}
        for task in TASKS:
            tuned = fine_tune(base, digits, task, seed=SEED)
            deltas[task] = {key: tuned[key] - base[key] for key in base if base[key].dim() == 2}
        return cls(digits, base, deltas)

    def accuracy(self, deltas: Deltas, task: str) -> float:
        moved = {key: tensor + deltas[key] if key in deltas else tensor for key, tensor in self.base.items()}
        return accuracy(moved, self.digits.test, task)


def cut(deltas: Deltas, rank: int, how: Decomposition = EXACT) -> dict[str, Tensor]:
    """The changes as factors of a rank make them."""
    found = {}
    for key, delta in deltas.items():
        up, down = kernels.split(how.svd(delta, min(rank, *delta.shape), key))
        found[key] = (up @ down).float()
    return found


def error(one: Deltas, other: Deltas) -> float:
    """‖one − other‖ / ‖one‖ over all layers."""
    lost = sum(float((one[key] - other[key]).double().square().sum()) for key in one)
    return (lost / sum(float(delta.double().square().sum()) for delta in one.values())) ** 0.5


# --- extract.png --------------------------------------------------------------------------------------------


def draw_extract(experiment: Experiment) -> Figure:
    figure = Figure(figsize=(13, 4.3), layout="constrained")
    spectrum, ranks, times = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    draw_spectrum(spectrum, experiment.deltas["rotated"])
    draw_ranks(ranks, experiment)
    draw_times(times)
    return figure


def draw_spectrum(axes: Axes, deltas: Deltas) -> None:
    """Singular values of each layer's change, and where shares of the energy are reached."""
    for (key, delta), colour in zip(deltas.items(), COLOURS, strict=False):
        values = kernels.singular_values(delta)
        axes.plot(range(1, len(values) + 1), values / values[0], color=colour, label=f"{key}  {tuple(delta.shape)}")
        ranks = {energy: kernels.rank_for_energy(values, energy) for energy in (0.9, 0.99)}
        print(f"{key}: {len(values)} values, ranks by energy {ranks}")
        for energy, marker in ((0.9, "o"), (0.99, "s")):
            axes.plot(ranks[energy], float(values[ranks[energy] - 1] / values[0]), marker, color=colour, markersize=7)
    axes.plot([], [], "o", color=LINE, label="90 % of the energy")
    axes.plot([], [], "s", color=LINE, label="99 %")
    axes.set(title="Singular values of what a fine-tune changed", xlabel="i", ylabel="sᵢ / s₁")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 1.5)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")


def draw_ranks(axes: Axes, experiment: Experiment) -> None:
    """What a LoRA of each rank keeps: of the change's norm, and of the skill."""
    deltas = experiment.deltas["rotated"]
    errors, skills = [], []
    for rank in RANKS:
        found = cut(deltas, rank)
        errors.append(100 * error(deltas, found))
        skills.append(experiment.accuracy(found, "rotated"))
        worse = error(deltas, cut(deltas, rank, RANDOMISED)) / error(deltas, found)
        print(f"rank {rank}: error {errors[-1]:.1f} %, accuracy {skills[-1]:.1f} %, randomised error × {worse:.4f}")
    axes.plot(RANKS, skills, "o-", color="tab:blue", label="test accuracy")
    axes.plot(RANKS, errors, "s--", color="tab:red", label="‖ΔW − BA‖ / ‖ΔW‖")
    for label, added in (("all of ΔW", deltas), ("base", {})):
        level = experiment.accuracy(added, "rotated")
        print(f"{label}: {level:.1f} %")
        axes.axhline(level, color=LINE, linestyle=":", zorder=1)
        axes.annotate(f"{label} {level:.0f} %", (3, level), xytext=(0, 3), textcoords="offset points", color=LINE)
    axes.set(title="A LoRA extracted at each rank", xlabel="rank", ylabel="%", ylim=(0, 108))
    axes.set_xscale("log", base=2)
    axes.set_xticks(RANKS, [str(rank) for rank in RANKS])
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")


def draw_times(axes: Axes) -> None:
    """Seconds that a layer takes on one core of this machine at rank 32."""
    found: dict[str, list[float]] = {"exact": [], "randomised": []}
    with one_thread_per_op():
        for out, width in SIZES:
            noise = Stream.derive(SEED, "picture", f"{out}").normal(Span(0, out * width)).reshape(out, width)
            for name, how in (("exact", EXACT), ("randomised", RANDOMISED)):
                found[name].append(_seconds(lambda how=how, noise=noise: how.svd(noise, 32, "picture")))
    print("seconds", found)
    places = range(len(SIZES))
    for name, colour in (("exact", "tab:blue"), ("randomised", "tab:orange")):
        axes.plot(places, found[name], "o-", color=colour, label=name)
    for place, (slow, fast) in enumerate(zip(found["exact"], found["randomised"], strict=True)):
        axes.annotate(f"{slow / fast:.0f} ×", (place, fast), xytext=(0, -16), textcoords="offset points", ha="center")
    axes.set_xticks(places, [f"{out}\n×{width}" for out, width in SIZES])
    axes.set(title="Time for a layer at rank 32, one core", ylabel="seconds")
    axes.set_yscale("log")
    axes.set_ylim(min(found["randomised"]) / 3, max(found["exact"]) * 3)
    axes.margins(x=0.1)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")


def _seconds(job: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times)


# --- merge.png ----------------------------------------------------------------------------------------------


def draw_merge(experiment: Experiment) -> Figure:
    figure = Figure(figsize=(11, 4.3), layout="constrained")
    lost, kept = figure.subplots(1, 2)
    loras = [cut(experiment.deltas[task], LORA_RANK) for task in TASKS]
    for task, lora in zip(TASKS, loras, strict=True):
        print(f"{task}: a LoRA of rank {LORA_RANK} reaches {experiment.accuracy(lora, task):.1f} %")
    for (method, density), colour in zip(METHODS, COLOURS, strict=True):
        whole = {key: combined(method, density, key, [lora[key] for lora in loras]) for key in loras[0]}
        label = method if method == "sum" else f"{method}, density {density:g}"
        found = [cut(whole, rank) for rank in RANKS]
        errors = [100 * error(whole, one) for one in found]
        skills = [fmean(experiment.accuracy(one, task) for task in TASKS) for one in found]
        uncut = fmean(experiment.accuracy(whole, task) for task in TASKS)
        print(f"{label}: errors {[round(one, 1) for one in errors]}, accuracy {[round(one, 1) for one in skills]}")
        print(f"{label}: not cut {uncut:.1f} %")
        lost.plot(RANKS, errors, "o-", color=colour, label=label)
        kept.plot(RANKS, skills, "o-", color=colour, label=label)
    lost.set(
        title=f"Two LoRAs of rank {LORA_RANK} merged: lost by the cut", ylabel="‖ΔW − BA‖ / ‖ΔW‖ in %", ylim=(0, 100)
    )
    kept.set(title="Both skills after the merge", ylabel="mean test accuracy in %", ylim=(0, 100))
    for axes in (lost, kept):
        axes.set_xlabel("rank of the merge")
        axes.set_xscale("log", base=2)
        axes.set_xticks(RANKS, [str(rank) for rank in RANKS])
        axes.grid(alpha=0.3)
    kept.legend(loc="lower right")
    return figure


def combined(method: str, density: float, key: str, deltas: Sequence[Tensor]) -> Tensor:
    """What ``lora merge --method`` makes of one layer's changes."""
    if method == "ties":
        return merging.elected_mean([merging.trim(delta, density) for delta in deltas])
    if method == "sum":
        return torch.stack(list(deltas)).sum(0)
    thinned = []
    for index, delta in enumerate(deltas):
        keep = Stream.derive(SEED, "lora.merge", key, model=index).keep(Span(0, delta.numel()), density)
        thinned.append(merging.drop(delta, keep.reshape(delta.shape), density))
    return merging.elected_mean(thinned) if method == "dare-ties" else torch.stack(thinned).sum(0)


if __name__ == "__main__":
    experiment = Experiment.run()
    with rc_context({"font.size": 12, "axes.titlesize": "medium", "legend.fontsize": "small"}):
        for name, draw in (("extract", draw_extract), ("merge", draw_merge)):  # to be read at half size
            draw(experiment).savefig(HERE / f"{name}.png", dpi=100, metadata={"Software": None})
