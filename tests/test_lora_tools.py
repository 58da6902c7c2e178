"""What LoRA tools need of the core: files read aside, a number with each of them, headers that follow from data."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner, Result
from daremerge_fixture.plugin import Longest, LongRows, Shift

from daremerge_core import MemoryModel, open_model, view
from daremerge_core.api import merge_recipe, plan_recipe
from daremerge_core.cli.step import Components, _weighed
from daremerge_core.components import ports
from daremerge_core.engine import Settings, settle
from daremerge_core.errors import OutputError, PlanError
from daremerge_core.testing import tiny_model
from daremerge_core.testing.fixtures import save

Cli = Callable[..., Result]


class TestAside:
    def test_a_file_read_aside_need_not_have_the_models_tensors(self) -> None:
        model = tiny_model(1)
        other = MemoryModel({"quite.another": torch.full((2, 3), 0.5)})
        shifted = view(Shift(model=model, loras=[other]))
        key = model.keys()[0]
        assert torch.equal(shifted.read(key), model.read(key) + 3.0)

    def test_it_is_hashed_and_named_like_every_input(self, models: SimpleNamespace) -> None:
        recipe = {
            "models": {"a": str(models.a), "l": str(models.b)},
            "steps": {"s": {"op": "lora.shift", "model": "a", "loras": ["l"]}},
            "output": "s",
        }
        summary = merge_recipe(recipe, models.folder / "o.safetensors")
        assert set(summary.identities) == {"a", "l"}
        made = json.loads(open_model(models.folder / "o.safetensors").metadata["daremerge"])
        assert set(made["inputs"]) == {"a", "l"}

    def test_its_architecture_is_not_asked(self, models: SimpleNamespace) -> None:
        save(models.folder / "l.safetensors", {"w": torch.zeros(2)})
        recipe = {
            "models": {"a": str(models.a), "l": str(models.folder / "l.safetensors")},
            "steps": {"s": {"op": "lora.shift", "model": "a", "loras": ["l"]}},
            "output": "s",
        }
        with plan_recipe(recipe) as plan:
            assert not plan.warnings


class TestWeights:
    def test_the_port_knows_its_numbers(self) -> None:
        assert ports(Shift)["loras"].weights == "strengths"
        assert ports(Shift)["loras"].aside

    @pytest.mark.parametrize(
        ("given", "strengths"),
        [
            (["b.safetensors:0.5"], [0.5]),
            (["b.safetensors", "base.safetensors:-2"], [1.0, -2.0]),
            (["b.safetensors"], None),
        ],
    )
    def test_a_file_may_carry_a_number(
        self, cli: Cli, models: SimpleNamespace, given: list[str], strengths: list[float] | None
    ) -> None:
        words = ["shift", "a.safetensors", *given, "-o", "o.safetensors"]
        done = CliRunner().invoke(Components("lora"), words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        made = json.loads(open_model(models.folder / "o.safetensors").metadata["daremerge"])
        assert made["recipe"]["steps"]["made"]["strengths"] == strengths

    def test_a_colon_of_the_names_own_is_kept(self, cli: Cli, models: SimpleNamespace) -> None:
        (models.folder / "odd:1").touch()
        assert _weighed(["odd:1", "C:\\l.safetensors", "x:y"], "loras", "strengths") == {
            "loras": ["odd:1", "C:\\l.safetensors", "x:y"]
        }


class TestSettling:
    def test_headers_are_right_unasked(self) -> None:
        made = view(Longest(model=tiny_model(1), norm=2.5))
        for key in made.keys():
            assert tuple(made.read(key).shape) == made.meta(key).shape

    def test_the_engine_settles_before_the_file_is_begun(self, models: SimpleNamespace) -> None:
        recipe = {
            "models": {"a": str(models.a)},
            "steps": {"l": {"op": "lora.longest", "model": "a", "norm": 2.5}},
            "output": {"step": "l", "dtype": "fp32"},
        }
        with plan_recipe(recipe) as plan:
            (made,) = plan.unsettled()
            assert isinstance(made, LongRows)
            settle(plan, Settings(threads=3))
            assert sorted(made.settled) == sorted(made.keys())
            assert not plan.unsettled()
        for threads in (1, 4):
            merge_recipe(recipe, models.folder / f"{threads}.safetensors", settings=Settings(threads=threads))
        one, four = (models.folder / f"{threads}.safetensors" for threads in (1, 4))
        assert one.read_bytes() == four.read_bytes()
        written = open_model(one)
        expected = view(Longest(model=open_model(models.a), norm=2.5))
        for key in written.keys():
            assert torch.equal(written.read(key), expected.read(key).float())

    def test_what_does_not_fit_names_the_step(self) -> None:
        with pytest.raises(PlanError, match="step 'short': there is no matrix here"):
            view(Longest(model=MemoryModel({"b": torch.zeros(3)})), label="short")

    def test_an_output_in_the_way_is_seen_first(self, models: SimpleNamespace) -> None:
        recipe = {
            "models": {"a": str(models.a)},
            "steps": {"l": {"op": "lora.longest", "model": "a"}},
            "output": "l",
        }
        with pytest.raises(OutputError, match="already exists"):
            merge_recipe(recipe, models.b)
