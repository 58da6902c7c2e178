"""Plans over live values: no file is opened, and the result may stay in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from daremerge_core import MergeMethod, Site, merge_recipe, open_model
from daremerge_core.api import compute_plan, plan_recipe
from daremerge_core.errors import DeviceMemoryError, ModelFileError
from daremerge_core.stores import write_model
from daremerge_core.stores.memory_sink import MemorySink
from daremerge_core.testing import tiny_model
from daremerge_core.views import view

STEPS = {"merged": {"op": "merge.lerp", "a": "a", "b": "b", "ratio": 0.25, "include": "*.weight"}}


def test_the_same_tensors_as_the_file_has(tmp_path: Path) -> None:
    models = {"a": tiny_model(1), "b": tiny_model(2)}
    for name, model in models.items():
        write_model(tmp_path / f"{name}.safetensors", {key: model.read(key) for key in model.keys()})
    files = {name: f"{name}.safetensors" for name in models}
    merge_recipe({"models": files, "steps": STEPS, "output": "merged"}, tmp_path / "out.safetensors", folder=tmp_path)

    computed = compute_plan(plan_recipe({"steps": STEPS, "output": "merged"}, live=models))
    with open_model(tmp_path / "out.safetensors") as written:
        assert set(computed) == set(written.keys())
        for key, tensor in computed.items():
            assert torch.equal(tensor, written.read(key)), key


def test_changed_only_leaves_out_what_is_copied() -> None:
    models = {"a": tiny_model(1), "b": tiny_model(2)}
    plan = plan_recipe({"steps": STEPS, "output": "merged"}, live=models, changed_only=True)
    computed = compute_plan(plan)
    assert set(computed) == {key for key in models["a"].keys() if key.endswith(".weight")}
    assert plan.counts()[1]["not selected"] > 0  # what is left out is still told


def test_a_name_that_is_not_live_is_sought_as_a_file() -> None:
    with pytest.raises(ModelFileError, match="no such model file"):
        plan_recipe({"models": {"b": "b.safetensors"}, "steps": STEPS, "output": "merged"}, live={"a": tiny_model(1)})


def test_an_aborted_sink_holds_nothing() -> None:
    model = tiny_model(1)
    with MemorySink([model.meta(key) for key in model.keys()]) as sink:
        assert sink.tensors
    assert not sink.tensors


class Greedy(MergeMethod):
    """Wants more than the device has."""

    name = "greedy"

    def merge(self, site: Site) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_a_full_device_is_an_error_of_its_own() -> None:
    merged = view(Greedy(a=tiny_model(1), b=tiny_model(2)), label="merged")
    with pytest.raises(DeviceMemoryError, match="'merged': cpu ran out of memory at tensor"):
        merged.read(merged.keys()[0])
