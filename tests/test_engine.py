"""The engine: the same bytes however it is run, and nothing left behind when it is stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from daremerge_core import discover, engine, open_model
from daremerge_core.api import create_sink, merge_recipe, plan_recipe
from daremerge_core.engine import Settings, execute
from daremerge_core.errors import ComponentError, DaremergeError, Interrupted, OutputError, PlanError
from daremerge_core.testing import tiny_tensors
from daremerge_core.testing.fixtures import save

DARE = {"op": "merge.dare", "a": "a", "b": "b", "base": "base", "drop_rate": 0.5, "ratio": 0.25}


def recipe(step: dict[str, Any], **output: Any) -> dict[str, Any]:
    models = {name: f"{name}.safetensors" for name in ("a", "b", "base")}
    return {"models": models, "steps": {"merged": step}, "output": {"step": "merged", **output}}


def run(models: SimpleNamespace, step: dict[str, Any], name: str = "out.safetensors", **settings: Any) -> bytes:
    path = models.folder / name
    merge_recipe(recipe(step), path, folder=models.folder, overwrite=True, settings=Settings(**settings))
    return path.read_bytes()


STEPS = [
    DARE,
    {**DARE, "ties": "sum", "iterations": 3},
    {**DARE, "ties": "count", "blend": "slerp", "rescale": False},
    {"op": "merge.halfway", "a": "a", "b": "b"},
    {"op": "merge.to-norm", "a": "a", "b": "b", "over": "model"},
    {"op": "merge.power-lerp", "a": "a", "b": "b"},
    {"op": "merge.fixture-tasks", "models": ["a", "b", "a"], "base": "base"},
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step['op']}-{step.get('ties', '')}")
def test_the_same_bytes_for_any_threads_memory_and_spans(
    models: SimpleNamespace, step: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(models, step, threads=1)
    assert run(models, step, threads=2) == expected
    assert run(models, step, threads=4, memory=1 << 16) == expected
    monkeypatch.setattr("daremerge_core.engine.SPAN", 16)
    monkeypatch.setattr("daremerge_core.engine.LOOP_SPAN", 16)
    monkeypatch.setattr("daremerge_core.engine.TASK", 48)
    spans = []
    whole = engine._write
    monkeypatch.setattr(engine, "_write", lambda *args: spans.extend(args[2].spans) or whole(*args))
    assert run(models, step, threads=3) == expected
    if step["op"] != "merge.power-lerp":  # which is given whole tensors
        assert max(span.numel for span in spans) == 16, "the tensors must really have been cut"


def test_a_subset_merged_alone_equals_the_same_tensors_of_the_whole(models: SimpleNamespace) -> None:
    run(models, DARE, "whole.safetensors")
    run(models, {**DARE, "include": "*attn1*"}, "part.safetensors")
    whole, part = (open_model(models.folder / f"{name}.safetensors") for name in ("whole", "part"))
    for key in whole.keys():
        if "attn1" in key:
            assert torch.equal(whole.read(key), part.read(key))


def test_metadata_of_a_passes_and_provenance_is_added(models: SimpleNamespace) -> None:
    run(models, {**DARE, "blend": "cosine"})
    metadata = open_model(models.folder / "out.safetensors").metadata
    assert metadata["format"] == "pt"
    assert metadata["modelspec.title"] == "model a"
    assert "modelspec.hash_sha256" not in metadata, "A's hash is untrue of the merge"
    provenance = json.loads(metadata["daremerge"])
    assert provenance["recipe"]["steps"]["merged"]["seed"] == 0
    assert set(provenance["inputs"]) == {"a", "b", "base"}
    assert provenance["inputs"]["a"]["identity"].startswith("blake3:")
    assert set(provenance["made_with"]) == {"daremerge-core", "daremerge-merge-dare", "daremerge-merge-basic"}
    text = metadata["daremerge"]
    for word in (str(models.folder), "threads", "seconds", "out.safetensors"):
        assert word not in text, "nothing that may vary without changing the result"


def test_the_output_loads_with_safetensors(models: SimpleNamespace) -> None:
    from safetensors.torch import load_file

    run(models, {"op": "merge.halfway", "a": "a", "b": "b", "ratio": 0.0})
    merged, b = load_file(models.folder / "out.safetensors"), load_file(models.b)
    assert set(merged) == set(b)
    for key, tensor in b.items():
        assert torch.equal(merged[key], tensor)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp8_e4m3"])
def test_the_output_dtype_applies_to_floats_alone(models: SimpleNamespace, dtype: str) -> None:
    path = models.folder / "out.safetensors"
    merge_recipe(recipe(DARE, dtype=dtype), path, folder=models.folder)
    model = open_model(path)
    found = {model.meta(key).dtype for key in model.keys()}
    assert found == {{"fp32": "F32", "bf16": "BF16", "fp8_e4m3": "F8_E4M3"}[dtype], "I64"}


def test_a_sharded_output_holds_the_same_tensors(models: SimpleNamespace) -> None:
    run(models, DARE, "one.safetensors")
    merge_recipe(recipe(DARE, shard_size="600"), models.folder / "many", folder=models.folder)
    one, many = open_model(models.folder / "one.safetensors"), open_model(models.folder / "many")
    assert len(list((models.folder / "many").glob("*.safetensors"))) > 1
    assert set(one.keys()) == set(many.keys())
    for key in one.keys():
        assert torch.equal(one.read(key), many.read(key))


def test_nonfinite_weights_are_merged_and_counted(models: SimpleNamespace) -> None:
    tensors = tiny_tensors(5, torch.float16)
    key = next(iter(tensors))
    tensors[key][0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    save(models.b, tensors)
    path = models.folder / "out.safetensors"
    step = {"op": "merge.halfway", "a": "a", "b": "b"}
    summary = merge_recipe(recipe(step), path, folder=models.folder)
    assert summary.nonfinite == {key: 3}


class TestNothingIsLeftBehind:
    def litter(self, folder: Path) -> list[str]:
        return sorted(
            path.name
            for path in folder.iterdir()
            if path.name not in ("a.safetensors", "b.safetensors", "base.safetensors")
        )

    def test_when_a_plugin_raises(self, models: SimpleNamespace) -> None:
        with pytest.raises(ComponentError, match="the plugin's own trouble"):
            run(models, {"op": "merge.wrong", "a": "a", "b": "b", "how": "raise"})
        assert self.litter(models.folder) == []

    def test_when_cancelled(self, models: SimpleNamespace) -> None:
        cancel = threading.Event()
        cancel.set()
        path = models.folder / "out.safetensors"
        with pytest.raises(Interrupted):
            merge_recipe(recipe(DARE), path, folder=models.folder, cancel=cancel)
        assert self.litter(models.folder) == []

    def test_when_inputs_have_changed(self, models: SimpleNamespace) -> None:
        path = models.folder / "out.safetensors"
        with plan_recipe(recipe(DARE), folders=[models.folder], output=path) as plan:
            sink = create_sink(plan, path)
            with pytest.raises(PlanError, match="inputs have changed"):
                execute(plan, sink, expected={"a": "blake3:" + "0" * 64})
        assert self.litter(models.folder) == []


def test_the_output_may_not_be_an_input_nor_a_link_to_one(models: SimpleNamespace) -> None:
    link = models.folder / "link.safetensors"
    link.symlink_to(models.b)
    for target in (models.a, link):
        before = models.b.read_bytes()
        with pytest.raises(OutputError, match="is the input"):
            merge_recipe(recipe(DARE), target, folder=models.folder, overwrite=True)
        assert models.b.read_bytes() == before


def test_an_existing_output_is_refused(models: SimpleNamespace) -> None:
    path = models.folder / "out.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="--overwrite"):
        merge_recipe(recipe(DARE), path, folder=models.folder)
    assert path.read_bytes() == b"precious"


def test_a_budget_too_small_for_a_whole_tensor_is_refused_before_work(models: SimpleNamespace) -> None:
    with pytest.raises(PlanError, match="--memory"):
        run(models, {"op": "merge.power-lerp", "a": "a", "b": "b"}, memory=1 << 10)
    assert not (models.folder / "out.safetensors").exists()


def test_torch_threads_are_put_back(models: SimpleNamespace) -> None:
    before = torch.get_num_threads()
    run(models, DARE)
    assert torch.get_num_threads() == before


def test_two_steps_share_one_mask(models: SimpleNamespace) -> None:
    data = recipe({"op": "merge.halfway", "a": "inner", "b": "b", "mask": "moved"})
    data["steps"] |= {
        "moved": {"op": "mask.moved", "model": "a", "base": "base"},
        "inner": {"op": "edit.negate", "model": "a", "mask": "moved"},
    }
    path = models.folder / "out.safetensors"
    summary = merge_recipe(data, path, folder=models.folder)
    assert summary.merged > 0
    out, a, b, base = (open_model(models.folder / f"{name}.safetensors") for name in ("out", "a", "b", "base"))
    for key in out.keys():
        x, y, z = a.read(key), b.read(key), base.read(key)
        if x.is_floating_point():
            negated = torch.where(x != z, -x, x)
            half = (negated.float() + 0.5 * (y.float() - negated.float())).half()
            assert torch.equal(out.read(key), torch.where(x != z, half, negated))


def test_unknown_files_are_named_with_near_ones(models: SimpleNamespace) -> None:
    data = recipe(DARE)
    data["models"]["b"] = "bb.safetensors"
    with pytest.raises(DaremergeError) as caught:
        merge_recipe(data, models.folder / "out.safetensors", folder=models.folder)
    assert "b: no such model file" in str(caught.value)
    assert "Did you mean b.safetensors" in str(caught.value)


def test_devices_that_are_not_there_are_refused(models: SimpleNamespace) -> None:
    with pytest.raises(PlanError, match="--device"):
        run(models, DARE, device="cuda:99")
    assert not (models.folder / "out.safetensors").exists()


def test_inputs_are_hashed_for_as_long_as_what_computes_is_loaded(
    models: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, whole, load = threading.Event(), engine._Identities._hash, engine._load
    monkeypatch.setattr(engine, "HASHED_AT_ONCE", 1)  # so that there are many jobs

    def hash_one(self: Any, *args: Any) -> None:
        whole(self, *args)
        if not self._left:
            hashed.set()

    def load_last(*args: Any) -> None:
        assert hashed.wait(60), "the other worker must hash all there is meanwhile"
        load(*args)

    monkeypatch.setattr(engine._Identities, "_hash", hash_one)
    monkeypatch.setattr(engine, "_load", load_last)
    found = run(models, DARE, "beside.safetensors", threads=2)
    monkeypatch.undo()
    assert run(models, DARE, threads=1) == found, "and where one worker does all, it loads first"


def test_discover_is_read_once() -> None:
    assert discover() is discover()


ONE_PRODUCT = """
import os, threading, torch
from daremerge_core.engine import Pool, one_thread_per_op

matrix = torch.ones(1200, 1200, dtype=torch.float64)
native = []

def multiply():
    native.append(len(os.listdir("/proc/self/task")))
    matrix @ matrix
    native.append(len(os.listdir("/proc/self/task")))

with one_thread_per_op():
    Pool(1, 1 << 30, threading.Event()).run([(0, multiply)])
print(native[1] - native[0])
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts native threads in /proc")
def test_a_workers_first_product_of_matrices_takes_one_thread() -> None:
    """Else it would take as many as are free, and how many that was would show in the result."""
    done = subprocess.run([sys.executable, "-c", ONE_PRODUCT], capture_output=True, text=True, check=False)
    assert done.stdout == "0\n", done.stdout + done.stderr
