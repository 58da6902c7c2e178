"""What the digits experiment merges: a row for each method, as steps of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

__all__ = ["ALONE", "TOGETHER", "Row", "alone", "together"]

SCALES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.7, 2.0)
"""λ to choose from on the validation split."""


@dataclass(frozen=True)
class Row:
    """A line of the table: options of one step, and what of it is tuned on the validation split."""

    name: str
    title: str
    step: Mapping[str, Any]
    tuned: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Other steps that the step names."""

    def candidates(self) -> list[dict[str, Any]]:
        """The step with each combination of the tuned options; the step itself where there is nothing to tune."""
        return [{**self.step, **dict(zip(self.tuned, values, strict=True))} for values in product(*self.tuned.values())]


ALONE: Sequence[Row] = (
    Row("dare", "DARE p=.9", {"op": "merge.dare-linear", "density": 0.1}),
    Row("drop-only", "drop only p=.9", {"op": "merge.dare-linear", "density": 0.1, "rescale": False}),
    Row("largest", "keep largest 10 %", {"op": "merge.tasks", "density": 0.1}),
    Row("della-alone", "DELLA d=.1 ε=.1", {"op": "merge.della-linear", "density": 0.1, "epsilon": 0.1}),
    Row("dare-99", "DARE p=.99", {"op": "merge.dare-linear", "density": 0.01}),
)
"""One fine-tune over its base, on its own task."""

_TUNED = {"lambda": SCALES}
_EQUAL = {"lambda": (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)}
"""Of methods that make all directions as long as the mean: where most are short, that is short."""

TOGETHER: Sequence[Row] = (
    Row("average", "average", {"op": "merge.linear"}),
    Row("karcher", "Karcher mean", {"op": "merge.karcher"}),
    Row("model-stock", "Model Stock", {"op": "merge.model-stock"}),
    Row("sce", "SCE, tuned", {"op": "merge.sce"}, {"density": (0.1, 0.5, 1.0)}),
    Row("ties", "TIES k=.2 λ=1", {"op": "merge.ties"}),
    Row("ties-tuned", "TIES, tuned", {"op": "merge.ties"}, {"density": (0.1, 0.2, 0.5, 1.0), **_TUNED}),
    Row("dare-ties", "DARE-TIES p=.9 λ=1", {"op": "merge.dare-ties"}),
    Row("dare-ties-drop", "DARE-TIES p=.9, no rescale", {"op": "merge.dare-ties", "rescale": False}),
    Row(
        "one-mask",
        "DARE-TIES p=.9, one mask for all",
        {
            "op": "merge.tasks",
            "density": 1.0,
            "elect": "mass",
            "normalize": "weights",
            "lambda": 10.0,
            "mask": "tenth",
        },
        beside={"tenth": {"op": "mask.random", "model": "base", "probability": 0.1}},
    ),
    Row("dare-linear", "DARE p=.9 λ=1", {"op": "merge.dare-linear"}),
    Row("dare-tuned", "DARE p=.9, tuned", {"op": "merge.dare-linear"}, _TUNED),
    Row("della", "DELLA d=.1 ε=.1 λ=1", {"op": "merge.della", "density": 0.1, "epsilon": 0.1}),
    Row("della-linear", "DELLA, added, λ=1", {"op": "merge.della-linear", "density": 0.1, "epsilon": 0.1}),
    Row("breadcrumbs", "Breadcrumbs, tuned", {"op": "merge.breadcrumbs"}, {"density": (0.5, 0.9), **_TUNED}),
    Row("sum", "task arithmetic λ=1", {"op": "merge.task-arithmetic"}),
    Row("sum-tuned", "task arithmetic, tuned", {"op": "merge.task-arithmetic"}, _TUNED),
    Row("sum-svc", "task arithmetic, SVC", {"op": "merge.task-arithmetic", "refine": "svc"}),
    Row("sum-lines", "task arithmetic, LiNeS", {"op": "merge.task-arithmetic", "refine": "lines"}),
    Row("consensus", "Consensus, tuned", {"op": "merge.consensus"}, {"strength": (0.2, 0.3, 0.4, 0.5, 0.6), **_TUNED}),
    Row("iso-c", "Iso-C, tuned", {"op": "merge.iso-c"}, _EQUAL),
    Row("iso-cts", "Iso-CTS, tuned", {"op": "merge.iso-cts"}, _EQUAL),
    Row("tsv-m", "TSV-M λ=1", {"op": "merge.tsv-m"}),
    Row("tsv-m-tuned", "TSV-M, tuned", {"op": "merge.tsv-m"}, _TUNED),
    Row("wudi-adam", "WUDI, Adam", {"op": "merge.wudi", "solver": "adam"}, {"rate": (1e-5, 1e-4)}),
    Row("wudi", "WUDI, closed form", {"op": "merge.wudi"}),
)
"""All fine-tunes in one, on every task."""


def alone(step: Mapping[str, Any], task: str) -> dict[str, Any]:
    """A recipe that puts one fine-tune's change back on its base."""
    return _recipe({**step, "models": [task], "base": "base"})


def together(
    step: Mapping[str, Any], tasks: Sequence[str], beside: Mapping[str, Mapping[str, Any]] = {}
) -> dict[str, Any]:
    """A recipe that merges all fine-tunes."""
    needs_base = step["op"] not in ("merge.linear", "merge.karcher")
    return _recipe({**step, "models": list(tasks), **({"base": "base"} if needs_base else {})}, beside)


def _recipe(step: Mapping[str, Any], beside: Mapping[str, Mapping[str, Any]] = {}) -> dict[str, Any]:
    return {"steps": {**beside, "merged": dict(step)}, "output": "merged"}
