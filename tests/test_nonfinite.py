"""Numbers that are none: counted, told from overflow, and kept, refused or written as zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from daremerge_core.api import plan_recipe, run_plan
from daremerge_core.engine import Summary
from daremerge_core.errors import DaremergeError
from daremerge_core.recipe import parse_recipe, read_provenance
from daremerge_core.stores import open_model, write_model

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name, first in (("a", [1.0, NAN, -INF, 4.0]), ("b", [3.0, 2.0, 1.0, 8.0])):
        tensors = {"x": torch.tensor(first), "y": torch.full((3,), 70_000.0), "z": torch.tensor([400.0, 500.0])}
        write_model(tmp_path / f"{name}.safetensors", {**tensors, "count": torch.tensor([7])})
    return tmp_path


def run(models: Path, step: dict[str, object], fast: bool, monkeypatch: pytest.MonkeyPatch, **output: str) -> Summary:
    monkeypatch.setenv("DAREMERGE_FAST", "1" if fast else "0")
    recipe = parse_recipe(
        {
            "models": {"a": "a.safetensors", "b": "b.safetensors"},
            "steps": {"merged": {"a": "a", "b": "b", **step}},
            "output": {"step": "merged", **output},
        }
    )
    out = models / "out.safetensors"
    with plan_recipe(recipe, folders=[models], output=out) as plan:
        return run_plan(plan, out, overwrite=True)


LERP = {"op": "merge.lerp", "ratio": 0.5}
BOTH = pytest.mark.parametrize("fast", [True, False], ids=["loops", "torch"])


@BOTH
def test_by_default_they_are_written_and_counted(models: Path, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = run(models, LERP, fast, monkeypatch)
    assert summary.nonfinite == {"x": 2}
    assert summary.overflowed == {}
    with open_model(models / "out.safetensors") as model:
        x = model.read("x")
        assert torch.equal(x.isfinite(), torch.tensor([True, False, False, True]))


@BOTH
@pytest.mark.parametrize(("dtype", "x", "y", "z"), [("fp16", 2, 3, 0), ("bf16", 2, 0, 0), ("fp8_e4m3", 2, 3, 1)])
def test_what_is_too_large_for_its_dtype_is_told_apart(
    models: Path, fast: bool, monkeypatch: pytest.MonkeyPatch, dtype: str, x: int, y: int, z: int
) -> None:
    summary = run(models, LERP, fast, monkeypatch, dtype=dtype)
    assert summary.nonfinite["x"] == x
    if dtype != "fp8_e4m3":  # it has no infinity: some versions of torch write NaN, others the largest number
        assert summary.nonfinite == {key: count for key, count in (("x", x), ("y", y)) if count}
    assert summary.overflowed == {key: count for key, count in (("y", y), ("z", z)) if count}


@BOTH
@pytest.mark.parametrize("dtype", ["keep", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "fp64"])
def test_zeros_in_their_place(models: Path, fast: bool, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    summary = run(models, LERP, fast, monkeypatch, dtype=dtype, on_nonfinite="zero")
    assert summary.nonfinite["x"] == 2
    with open_model(models / "out.safetensors") as model:
        assert model.read("x").float().tolist() == [2.0, 0.0, 0.0, 6.0]
        assert model.read("count").tolist() == [7]
    assert read_provenance(models / "out.safetensors")["recipe"]["output"]["on_nonfinite"] == "zero"


@BOTH
@pytest.mark.parametrize(("dtype", "match"), [("keep", "'x'.*NaN"), ("fp16", "NaN|too large")])
def test_an_error_writes_nothing(
    models: Path, fast: bool, monkeypatch: pytest.MonkeyPatch, dtype: str, match: str
) -> None:
    with pytest.raises(DaremergeError, match=match):
        run(models, LERP, fast, monkeypatch, dtype=dtype, on_nonfinite="error")
    assert not (models / "out.safetensors").exists()
    assert len(list(models.iterdir())) == 2


def test_a_file_that_is_only_cast(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = parse_recipe({"models": {"a": "a.safetensors"}, "output": {"step": "a", "dtype": "fp8_e4m3"}})
    with plan_recipe(recipe, folders=[models], output=models / "out.safetensors") as plan:
        summary = run_plan(plan, models / "out.safetensors")
    assert summary.nonfinite["x"] == 2
    assert summary.overflowed == {"y": 3, "z": 1}


def test_a_recipe_says_it_for_models_alone(models: Path) -> None:
    data = {
        "models": {"a": "a.safetensors"},
        "steps": {"m": {"op": "mask.random", "model": "a"}},
        "output": {"step": "m", "on_nonfinite": "zero"},
    }
    with pytest.raises(DaremergeError, match="on_nonfinite is for models"), plan_recipe(parse_recipe(data)):
        pass
