"""Draw the pictures of the README: ``python make_pictures.py``. Needs matplotlib and scikit-learn, and half a minute.

Every merge is the method itself, over models in memory: the networks of ``daremerge demo``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from torch import Tensor

from daremerge_core import MemoryModel
from daremerge_core.api import compute_plan, plan_recipe
from daremerge_core.demo.digits import TASKS, Weights, fine_tune, load_digits, pretrain

HERE = Path(__file__).parent
LAYER = "4.weight"
CORNER = 16, 24

SPARSIFIED: Mapping[str, dict[str, Any]] = {
    "the changes of one model": {"op": "merge.tasks"},
    "magnitude, density .2": {"op": "merge.tasks", "density": 0.2},
    "dare, density .2": {"op": "merge.tasks", "sparsify": "dare", "density": 0.2},
    "della, density .2, ε .3": {"op": "merge.tasks", "sparsify": {"op": "della", "epsilon": 0.3}, "density": 0.2},
    "breadcrumbs, density .2, γ .1": {
        "op": "merge.tasks",
        "sparsify": {"op": "breadcrumbs", "gamma": 0.1},
        "density": 0.2,
    },
    "three models by TIES": {"op": "merge.ties"},
}
SPECTRA: Mapping[str, dict[str, Any]] = {
    "task arithmetic": {"op": "merge.task-arithmetic"},
    "with svc": {"op": "merge.task-arithmetic", "refine": "svc"},
    "TSV-M": {"op": "merge.tsv-m"},
    "Iso-C, Iso-CTS": {"op": "merge.iso-c"},
    "WUDI": {"op": "merge.wudi"},
}


def change(models: Mapping[str, Weights], step: Mapping[str, Any], *tasks: str) -> Tensor:
    """What a merge of these fine-tunes changes of the base's layer."""
    recipe = {
        "models": {name: f"{name}.safetensors" for name in models},
        "steps": {"merged": {**step, "models": list(tasks), "base": "base"}},
        "output": "merged",
    }
    live = {name: MemoryModel(dict(weights)) for name, weights in models.items()}
    with plan_recipe(recipe, live=live) as plan:
        return compute_plan(plan)[LAYER] - models["base"][LAYER]


def sparsifiers(models: Mapping[str, Weights]) -> Figure:
    """A corner of a layer's task vector as each sparsifier leaves it."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    for index, (title, step) in enumerate(SPARSIFIED.items(), start=1):
        axes = figure.add_subplot(2, 3, index)
        tasks = list(TASKS) if "three" in title else ["rotated"]
        found = change(models, step, *tasks)
        rows, columns = CORNER
        axes.imshow(found[:rows, :columns], cmap="RdBu", norm=AsinhNorm(0.004, vmin=-0.06, vmax=0.06))
        share = float((found.abs() > 1e-7).double().mean())
        axes.set_title(f"{title}\n{share:.0%} kept, size {float(found.norm()):.2f}", fontsize=9)
        axes.set(xticks=[], yticks=[])
    return figure


def spectra(models: Mapping[str, Weights]) -> Figure:
    """Singular values of the merged change of a layer."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for title, step in SPECTRA.items():
        values = torch.linalg.svdvals(change(models, step, *TASKS).double())
        axes.plot(range(1, len(values) + 1), values, label=title, lw=1.5)
    axes.set(xscale="log", xlabel="singular value, by size", ylabel=f"length, of layer {LAYER}")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    digits = load_digits(0)
    models = {"base": pretrain(digits, seed=0)}
    models |= {task: fine_tune(models["base"], digits, task, seed=0) for task in TASKS}
    sparsifiers(models).savefig(HERE / "sparsifiers.png", dpi=110)
    spectra(models).savefig(HERE / "spectra.png", dpi=110)


if __name__ == "__main__":
    main()
