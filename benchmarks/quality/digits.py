"""How good are the merges? Handwritten digits under three changes, a small network, every method; several seeds.

    python benchmarks/quality/digits.py --seeds 5 --out benchmarks/quality

writes ``digits.json``, ``digits.md`` (the table of the docs) and ``digits.png``. A base network learns the digits
upright, three fine-tunes learn them rotated, inverted and mirrored, and a merge is measured by its accuracy on test
images of all three tasks. What is tuned is tuned on a validation split. See :mod:`daremerge_core.demo.digits`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from methods import ALONE, TOGETHER, Row, alone, together

Accuracies = dict[str, float]
"""Row → mean accuracy in percent over the tasks."""

Settings = dict[str, dict[str, Any]]
"""Row → the options that were chosen on the validation split."""


def experiment(seed: int, rows: Sequence[str] | None = None) -> tuple[Accuracies, Settings]:
    """Train, merge and measure with one seed.

    Args:
        rows: measure these rows alone; all by default.
    """
    from daremerge_core.demo import digits

    data = digits.load_digits(seed)
    models = {"base": digits.pretrain(data, seed=seed)}
    models |= {task: digits.fine_tune(models["base"], data, task, seed=seed) for task in digits.TASKS}
    tasks = list(digits.TASKS)

    def measured(weights: Any, split: Any, of: Sequence[str] = tasks) -> float:
        return fmean(digits.accuracy(weights, split, task) for task in of)

    found = {
        "base": measured(models["base"], data.test),
        "fine-tuned": fmean(measured(models[task], data.test, [task]) for task in tasks),
    }
    for row in ALONE:
        if rows is None or row.name in rows:
            each = (measured(merge(alone(row.step, task), models), data.test, [task]) for task in tasks)
            found[row.name] = fmean(each)
    chosen: Settings = {}
    for row in TOGETHER:
        if rows is None or row.name in rows:
            step, weights = _best(row, tasks, models, lambda weights: measured(weights, data.validation))
            found[row.name] = measured(weights, data.test)
            chosen[row.name] = {key: step[key] for key in row.tuned}
    return found, chosen


def merge(recipe: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A recipe over models in memory → the merged weights."""
    from daremerge_core import MemoryModel
    from daremerge_core.api import compute_plan, plan_recipe

    named = {**recipe, "models": {name: f"{name}.safetensors" for name in models}}
    live = {name: MemoryModel(dict(weights)) for name, weights in models.items()}
    with plan_recipe(named, live=live) as plan:
        return compute_plan(plan)


def _best(
    row: Row, tasks: Sequence[str], models: Mapping[str, Any], judge: Callable[[Any], float]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a row's candidates the one that the judge likes best, and its weights."""
    made = [(step, merge(together(step, tasks, row.beside), models)) for step in row.candidates()]
    return made[0] if len(made) == 1 else max(made, key=lambda one: judge(one[1]))


# --- table and picture ---------------------------------------------------------------------------------


def table(results: Sequence[Accuracies]) -> str:
    """A markdown table of mean ± standard deviation over the seeds, each half in the order of its means."""
    titles = {row.name: row.title for row in (*ALONE, *TOGETHER)} | {"base": "base", "fine-tuned": "fine-tuned"}
    single = [("base", "fine-tuned", *(row.name for row in ALONE)), tuple(row.name for row in TOGETHER)]
    heads = ("one fine-tune, on its own task", "three fine-tunes in one, on all three")
    blocks = []
    for head, names in zip(heads, single, strict=True):
        order = sorted((name for name in names if name in results[0]), key=lambda name: -_mean(results, name))
        lines = [f"| {titles[name]} | {_shown(results, name)} |" for name in order]
        blocks.append("\n".join([f"| {head} | accuracy, % |", "|---|---|", *lines]))
    return "\n\n".join(blocks) + "\n"


def _mean(results: Sequence[Accuracies], name: str) -> float:
    return fmean(one[name] for one in results)


def _spread(results: Sequence[Accuracies], name: str) -> float:
    return stdev(one[name] for one in results) if len(results) > 1 else 0.0


def _shown(results: Sequence[Accuracies], name: str) -> str:
    return f"{_mean(results, name):.1f} ± {_spread(results, name):.1f}"


def draw(results: Sequence[Accuracies], path: Path) -> None:
    """Bars of the merges of three, a whisker of one standard deviation each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sorted((row for row in TOGETHER if row.name in results[0]), key=lambda row: _mean(results, row.name))
    figure = Figure(figsize=(8, 0.32 * len(rows) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    means = [_mean(results, row.name) for row in rows]
    spreads = [_spread(results, row.name) for row in rows]
    axes.barh([row.title for row in rows], means, xerr=spreads, color="#4c78a8", error_kw={"lw": 1, "capsize": 2})
    for name, label in (("fine-tuned", "each fine-tune on its own task"), ("base", "base")):
        axes.axvline(_mean(results, name), color="#888", lw=1, ls="--")
        box = {"fc": "white", "ec": "none", "pad": 1.5}
        axes.text(_mean(results, name), len(rows) - 0.2, label, ha="center", fontsize=8, color="#555", bbox=box)
    axes.set(xlim=(0, 110), ylim=(-0.6, len(rows) + 0.3), xlabel=f"accuracy over three tasks, %, {len(results)} seeds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs) as pool:
        done = list(pool.map(experiment, range(options.seeds)))
    results = [found for found, _ in done]
    options.out.mkdir(parents=True, exist_ok=True)
    report = {"seeds": options.seeds, "accuracy": results, "chosen": [chosen for _, chosen in done]}
    (options.out / "digits.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.out / "digits.md").write_text(table(results), encoding="utf-8")
    draw(results, options.out / "digits.png")
    print(table(results))


if __name__ == "__main__":
    main()
