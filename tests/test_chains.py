"""Steps that read steps: long chains, and steps that several others read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from daremerge_core.api import merge_recipe, plan_recipe
from daremerge_core.engine import Settings
from daremerge_core.errors import PlanError
from daremerge_core.plan import MOST_DEEP
from daremerge_core.stores import open_model, write_model
from daremerge_core.views import TensorView

LERP = {"op": "merge.lerp", "a": "{}", "b": "b", "ratio": 0.25}
ROWS = {"op": "merge.nuslerp", "a": "{}", "b": "b", "ratio": 0.25, "per": "row"}
COLUMNS = ROWS | {"per": "column"}
MEASURED = ROWS | {"per": "tensor"}
TIES = {"op": "merge.ties", "base": "{}", "models": ["a", "b"], "density": 0.5}
CHAINS = {"lerp": LERP, "rows": ROWS, "columns": COLUMNS, "measured": MEASURED, "ties": TIES}
MASKED = {f"masked {name}": step | {"mask": "chosen"} for name, step in CHAINS.items()}
NARROW = LERP | {"b": "narrow", "on_mismatch": "common-rows"}
CHOSEN = {"op": "mask.magnitude", "model": "a", "base": "b", "threshold": 0.5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        made = torch.Generator().manual_seed(seed)
        tensors = {f"layer.{number}.weight": torch.randn(30, 20, generator=made).half() for number in range(3)}
        write_model(tmp_path / f"{name}.safetensors", tensors)
    write_model(tmp_path / "narrow.safetensors", {name: tensor[:20].clone() for name, tensor in tensors.items()})
    return tmp_path


def recipe(steps: dict[str, Any], output: str, **fields: Any) -> dict[str, Any]:
    models = {name: f"{name}.safetensors" for name in ("a", "b", "narrow")}
    return {"models": models, "steps": steps, "output": {"step": output, **fields}}


def chain(step: dict[str, Any], length: int) -> dict[str, Any]:
    """Each step on the one before; the mask counts as none, being on no step."""
    steps: dict[str, Any] = {"chosen": CHOSEN} if "mask" in step else {}
    for number in range(length):
        below = f"s{number - 1}" if number else "a"
        steps[f"s{number}"] = {name: below if value == "{}" else value for name, value in step.items()}
    return recipe(steps, f"s{length - 1}")


@pytest.mark.parametrize("looped", [True, False], ids=["looped", "torch"])
@pytest.mark.parametrize("name", [*CHAINS, *MASKED, "narrow"])
def test_the_longest_chain(folder: Path, name: str, looped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that reads the one before twice would double the work; forty such steps would never end."""
    if not looped:
        monkeypatch.setattr("daremerge_core.loops.available", lambda: False)
    step = {**CHAINS, **MASKED, "narrow": NARROW}[name]
    length = MOST_DEEP - ("mask" in step)
    merge_recipe(chain(step, length), folder / "out.safetensors", folder=folder, settings=Settings(threads=2))
    with open_model(folder / "out.safetensors") as model:
        assert all(bool(model.read(key).isfinite().all()) for key in model.keys())


def test_a_longer_one_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(PlanError, match=f"step 's{MOST_DEEP}' is the end of a chain of {MOST_DEEP + 1} steps"):
        plan_recipe(chain(LERP, MOST_DEEP + 1), folders=[folder])


def doubling(length: int) -> dict[str, Any]:
    """Each step reads the one before twice."""
    steps: dict[str, Any] = {"s0": {"op": "merge.lerp", "a": "a", "b": "b", "ratio": 0.5}}
    for number in range(1, length):
        below = f"s{number - 1}"
        steps[f"s{number}"] = {"op": "merge.lerp", "a": below, "b": below, "ratio": 0.5}
    return recipe(steps, f"s{length - 1}")


@pytest.mark.parametrize("way", ["_compute_by_loop", "_compute"])
def test_what_several_steps_read_is_computed_once(folder: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each of these steps would double the work."""
    computed: Counter[tuple[Any, ...]] = Counter()
    plain = getattr(TensorView, way)

    def counted(self: TensorView, *args: Any) -> Any:
        key, span = args[1:3] if way == "_compute_by_loop" else args[:2]
        computed[self.label, key, span] += 1
        return plain(self, *args)

    monkeypatch.setattr(TensorView, way, counted)
    if way == "_compute":
        monkeypatch.setattr("daremerge_core.loops.available", lambda: False)
    merge_recipe(doubling(12), folder / "out.safetensors", folder=folder)
    assert {label for label, _, _ in computed} == {f"s{number}" for number in range(12)}
    assert set(computed.values()) == {1}


@pytest.mark.parametrize(
    "steps",
    [
        {"s": LERP | {"a": "a"}, "m": CHOSEN | {"model": "s"}, "out": LERP | {"a": "s", "mask": "m"}},
        {"s": COLUMNS | {"a": "a"}, "m": CHOSEN | {"base": "s"}, "out": TIES | {"base": "s", "mask": "m"}},
        {"m": CHOSEN, "s": LERP | {"a": "a", "mask": "m"}, "out": LERP | {"a": "b", "b": "s", "mask": "m"}},
    ],
    ids=["a mask of it", "whole tensors", "a mask twice"],
)
def test_sharing_changes_no_byte(folder: Path, steps: dict[str, Any]) -> None:
    """The same as with files in between."""
    merge_recipe(recipe(steps, "out"), folder / "out.safetensors", folder=folder)
    files: dict[str, str] = {}
    for name, step in steps.items():
        alone = {field: files.get(value, value) if isinstance(value, str) else value for field, value in step.items()}
        suffix = ".mask.safetensors" if step["op"].startswith("mask") else ".safetensors"
        files[name] = f"{name}-alone{suffix}"
        merge_recipe(recipe({name: alone}, name), folder / files[name], folder=folder)
    with open_model(folder / "out.safetensors") as one, open_model(folder / "out-alone.safetensors") as other:
        assert all(torch.equal(one.read(key), other.read(key)) for key in one.keys())


def test_what_is_kept_is_counted(folder: Path) -> None:
    with plan_recipe(doubling(3), folders=[folder]) as plan:
        views = [plan.views[name] for name in ("s0", "s1", "s2")]
        assert [view.shared for view in views] == [True, True, False]
        [key, *_] = plan.result.keys()
        told = views[2].working_bytes(key, 100)
    with plan_recipe(doubling(3), folders=[folder]) as plan:
        for name in ("s0", "s1"):
            plan.views[name].shared = False
        assert told - plan.views["s2"].working_bytes(key, 100) == 2 * 4 * 100
