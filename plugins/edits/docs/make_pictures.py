"""Draw edits.png, the picture of the README, and print its numbers: ``python make_pictures.py``.

Needs matplotlib and scikit-learn, and about a minute. Every edit is the component itself, over models in memory:
networks that were trained on handwritten digits.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from daremerge_core import MemoryModel, ModelEdit, view
from daremerge_core.demo.digits import Digits, Split, Weights, accuracy, fine_tune, load_digits, pretrain
from daremerge_core.engine import one_thread_per_op
from daremerge_core.views import ModelView
from daremerge_edits.clamp import Clamp
from daremerge_edits.noise import Noise
from daremerge_edits.normalize import Normalize
from daremerge_edits.rescale import Rescale

HERE = Path(__file__).parent
BEFORE, AFTER, OTHER, LINE = "tab:orange", "tab:blue", "tab:green", "0.35"
LAYERS, WIDTH, HEADS = 4, 32, 4
SEEDS = range(8)
"""Of the noise. A point is the mean over them, a band is ± 1 standard deviation."""
SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""1 − ratio: how much of the noise is added."""


def edited(edit: ModelEdit) -> Weights:
    value = view(edit)
    assert isinstance(value, ModelView)
    return {key: value.read(key) for key in value.keys()}


# --- normalize ---------------------------------------------------------------------------------------


class Reader(nn.Module):
    """A transformer that reads the rows of an image: torch's own layers, which fuse queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, 0.0, batch_first=True)
        self.embed = nn.Linear(8, WIDTH)
        self.position = nn.Parameter(torch.zeros(8, WIDTH))
        self.encoder = nn.TransformerEncoder(layer, LAYERS)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(images) + self.position).mean(1))


def read(split: Split, weights: Weights) -> Tensor:
    reader = Reader().train()  # without dropout nothing depends on the mode, but fused kernels, which differ
    reader.load_state_dict(weights)
    with torch.no_grad():
        return reader(split.images)


def train(digits: Digits, *, seed: int, weight_decay: float) -> Weights:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=weight_decay)
    with one_thread_per_op():
        for _ in range(25):
            for batch in torch.randperm(len(digits.train.labels), generator=generator).split(32):
                optimizer.zero_grad()
                cross_entropy(reader(digits.train.images[batch]), digits.train.labels[batch]).backward()
                optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in reader.state_dict().items()}


def draw_normalize(axes: Axes, digits: Digits) -> None:
    """Norms of queries and keys of every layer, before and after."""
    a, b = (train(digits, seed=seed, weight_decay=decay) for seed, decay in ((0, 0.0), (1, 0.5)))
    done = edited(Normalize(model=MemoryModel(a), like=MemoryModel(b)))
    layers = range(LAYERS)
    for shift, third, letter in ((-0.2, 0, "Q"), (0.2, 1, "K")):
        norms = [
            [float(w[f"encoder.layers.{i}.self_attn.in_proj_weight"].chunk(3)[third].norm()) for i in layers]
            for w in (a, done, b)
        ]
        places = [i + shift for i in layers]
        axes.bar(places, norms[0], 0.14, color=BEFORE, label="before" if third == 0 else None)
        axes.bar([x + 0.15 for x in places], norms[1], 0.14, color=AFTER, label="after" if third == 0 else None)
        if letter == "Q":
            lefts, rights = ([x + side for x in places] for side in (-0.1, 0.25))
            axes.hlines(norms[2], lefts, rights, color="black", linestyle="--", linewidth=1.5, label="B's Q")
        print(letter, *([round(n, 2) for n in some] for some in norms))
    before, after = (read(digits.test, w) for w in (a, done))
    right = [float((out.argmax(1) == digits.test.labels).double().mean()) * 100 for out in (before, after)]
    print(f"accuracy {right}, largest logit {before.abs().max():.1f}, moved by {(after - before).abs().max():.1e}")
    axes.set(title="normalize: the norms move, the output stays", ylabel="norm", xlabel="Q and K of layer")
    axes.set_xticks(
        [i + side for i in layers for side in (-0.125, 0.275)], [f"{letter}{i}" for i in layers for letter in "QK"]
    )
    axes.set_ylim(0, 1.35 * axes.dataLim.ymax)
    axes.legend(loc="upper right", ncols=3)
    axes.annotate(
        f"accuracy {right[0]:.1f} % before, {right[1]:.1f} % after",
        (0.02, 0.84), xycoords="axes fraction", va="top", color=LINE,
    )  # fmt: skip


# --- noise, clamp, rescale ---------------------------------------------------------------------------


def draw_noise(axes: Axes, base: Weights, digits: Digits) -> None:
    """Accuracy over the share of the noise that is added."""
    model = MemoryModel(base)
    kinds = {
        "uniform": {"operation": "uniform"},
        "gaussian, std 0.1": {"std": 0.1},
        "gaussian, std 0.01": {},
    }
    for (label, options), colour in zip(kinds.items(), (BEFORE, AFTER, OTHER), strict=True):
        means, spreads = [], []
        for share in SHARES:
            noise = (Noise(model=model, include="*.weight", ratio=1 - share, seed=s, **options) for s in SEEDS)
            found = [upright(edited(one), digits.test) for one in noise]
            means.append(fmean(found))
            spreads.append(stdev(found))
        axes.plot(SHARES, means, "o-", color=colour, label=label, markersize=5)
        low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        axes.fill_between(SHARES, low, high, color=colour, alpha=0.2, linewidth=0)
        print(label, [f"{m:.1f} ± {s:.1f}" for m, s in zip(means, spreads, strict=True)])
    axes.set(title="noise: how much a network takes", xlabel="ratio (spaced by 1 − ratio)", ylabel="accuracy in %")
    axes.set_xscale("log")
    axes.set_xticks([0.005, 0.02, 0.1, 0.5, 1], [".995", ".98", ".9", ".5", "0"])
    axes.minorticks_off()
    axes.set_ylim(0, 105)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")


def upright(weights: Weights, split: Split) -> float:
    """Accuracy on images as they are: the demo's mirrored task, of mirrored images."""
    return accuracy(weights, Split(split.images.flip(2), split.labels), "mirrored")


def draw_clamp(axes: Axes, a: Weights, b: Weights) -> None:
    """Weights of a noisy merge over the parents' difference, before and after."""
    key = "4.weight"
    merge = edited(Noise(model=MemoryModel({key: (a[key] + b[key]) / 2}), include=None, std=0.006, ratio=0.0))
    done = edited(Clamp(model=MemoryModel(merge), a=MemoryModel(a), b=MemoryModel(b)))
    some = slice(0, 50_000, 250)
    way, before, after = (one[key].flatten()[some] - a[key].flatten()[some] for one in (b, merge, done))
    end = float(way.abs().max())
    axes.fill_between([-end, 0, end], [-end, 0, 0], [0, 0, end], color="0.88", linewidth=0, label="between the parents")
    moved = before != after
    print(f"clamp: {float((merge[key] != done[key]).double().mean()):.3f} of the weights moved")
    for x, low, high in zip(way[moved].tolist(), before[moved].tolist(), after[moved].tolist(), strict=True):
        axes.plot([x, x], [low, high], color=BEFORE, linewidth=0.8, alpha=0.5, zorder=1)
    axes.scatter(way[moved], before[moved], 9, color=BEFORE, label="before", zorder=2)
    axes.scatter(way, after, 9, color=AFTER, label="after", zorder=3)
    axes.set(title="clamp: no weight beyond both parents", xlabel="parent b − parent a", ylabel="merge − parent a")
    axes.set(xlim=(-end, end), ylim=(-end, end))
    axes.legend(loc="upper left")


def draw_rescale(axes: Axes, base: Weights, tuned: Weights, like: Weights) -> None:
    """Norms of every weight's change: as it was, and rescaled over each tensor and over the model."""
    ports = {"model": MemoryModel(tuned), "base": MemoryModel(base), "like": MemoryModel(like)}
    tensor, whole = (edited(Rescale(**ports, over=over)) for over in ("tensor", "model"))
    keys = [key for key in base if base[key].ndim == 2]
    sets = {
        "before": (tuned, BEFORE, "o-"),
        "over: model": (whole, AFTER, "o-"),
        "over: tensor": (tensor, OTHER, "o"),
        "like": (like, "black", "--"),
    }
    for label, (weights, colour, style) in sets.items():
        norms = [float((weights[key] - base[key]).norm()) for key in keys]
        total = float(torch.cat([(weights[key] - base[key]).flatten() for key in base]).norm())
        axes.plot(range(len(keys)), norms, style, color=colour, label=f"{label} ({total:.1f} in all)", markersize=7)
        print(f"rescale, {label}: {[round(n, 2) for n in norms]}, in all {total:.3f}")
    axes.set(title="rescale: a change at another's norm", ylabel="norm of the change", xlabel="weight")
    axes.set_xticks(range(len(keys)), keys)
    axes.set_ylim(0, 1.6 * axes.dataLim.ymax)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", ncols=2)


if __name__ == "__main__":
    with rc_context(
        {"font.size": 12, "axes.titlesize": "medium", "legend.fontsize": "small"}
    ):  # to be read at half size
        digits = load_digits(0)
        base = pretrain(digits, seed=0)
        rotated = fine_tune(base, digits, "rotated", seed=0)
        negative = fine_tune(base, digits, "negative", seed=0, epochs=3)
        figure = Figure(figsize=(11, 8), layout="constrained")
        (top_left, top_right), (bottom_left, bottom_right) = figure.subplots(2, 2)
        draw_normalize(top_left, digits)
        draw_noise(top_right, base, digits)
        draw_clamp(bottom_left, rotated, negative)
        draw_rescale(bottom_right, base, rotated, negative)
        figure.savefig(HERE / "edits.png", dpi=100, metadata={"Software": None})
