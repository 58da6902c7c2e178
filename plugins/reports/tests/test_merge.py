"""``report.merge``: what a merge did, against plain arithmetic; where it comes from; what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import Tensor

from daremerge_core import DaremergeError, Report, __version__, discover, open_model
from daremerge_core.api import make_report, merge_recipe, plan_recipe, report_on
from daremerge_core.engine import Settings
from daremerge_core.errors import PlanError
from daremerge_core.plan import read_plan
from daremerge_core.rendering import to_json
from daremerge_core.rendering.text import to_text
from daremerge_core.testing import ComponentTests, tiny_tensors
from daremerge_core.testing.fixtures import save
from daremerge_reports.merge import MergeReport, Subject

Cli = Callable[..., Result]
MODELS = {"x": "base.safetensors", "a": "a.safetensors", "b": "b.safetensors"}
Q = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


class TestComponent(ComponentTests):
    component = MergeReport

    def port_values(self) -> dict[str, Any]:
        return {"recipe": "recipe.yaml"}


def recipe(output: str = "merged", **steps: dict[str, Any]) -> dict[str, Any]:
    return {"models": MODELS, "steps": steps, "output": output}


def planned(folder: Path, data: dict[str, Any], settings: Settings | None = None) -> Report:
    with plan_recipe(data, folders=[folder]) as plan:
        return make_report(report_on(plan, "merge"), settings=settings)


def finished(folder: Path, data: dict[str, Any]) -> Report:
    merge_recipe(data, folder / "out.safetensors", folder=folder, overwrite=True)
    with read_plan(folder / "out.safetensors", discover()) as plan:
        return make_report(report_on(plan, "merge"))


def flat(path: Path, keys: list[str] | None = None) -> Tensor:
    model = open_model(path)
    found = [model.read(key).double().reshape(-1) for key in keys or model.keys() if model.meta(key).dtype != "I64"]
    return torch.cat(found)


HALF = {"op": "merge.halfway", "a": "a", "b": "b", "ratio": 0.25}
TASKS = {"op": "merge.fixture-tasks", "base": "x", "models": ["a", "b"], "keep": 0.5, "seed": 3}


class TestNumbers:
    def test_a_finished_merge_is_plain_arithmetic(self, models: SimpleNamespace) -> None:
        whole = finished(models.folder, recipe(merged=HALF)).data["whole"]
        a, b, out = (flat(path) for path in (models.a, models.b, models.folder / "out.safetensors"))
        assert whole["before"] == pytest.approx(float((b - a).norm()), rel=1e-6)
        assert whole["after"] == pytest.approx(float((out - a).norm()), rel=1e-6)
        assert whole["after/before"] == pytest.approx(0.75, rel=1e-2)
        assert whole["relative change"] == pytest.approx(float((out - a).norm() / a.norm()), rel=1e-6)
        assert whole["changed"] == pytest.approx(float((out != a).double().mean()))
        assert whole["kept"] == pytest.approx(float((out != a)[b != a].double().mean()))

    def test_a_base_gives_each_input_a_delta(self, models: SimpleNamespace) -> None:
        data = finished(models.folder, recipe(merged=TASKS)).data
        x, a, b = (flat(path) for path in (models.base, models.a, models.b))
        norms = [float((one - x).norm()) for one in (a, b)]
        assert list(data["delta norms"].values()) == pytest.approx(norms, rel=1e-6)
        assert list(data["delta norms"]) == ["a", "b"]
        assert data["whole"]["before"] == pytest.approx((sum(n * n for n in norms) / 2) ** 0.5)

    def test_blocks_add_up_to_the_whole(self, models: SimpleNamespace) -> None:
        data = planned(models.folder, recipe(merged=HALF)).data
        for table in ("parts", "blocks", "roles", "tensors"):
            for name in ("before", "after"):
                squares = [row[name] ** 2 for row in data[table] if row[name] is not None]
                assert sum(squares) ** 0.5 == pytest.approx(data["whole"][name]), (table, name)
            assert sum(row["merged"] + row["copied"] for row in data[table]) == len(data["tensors"])

    def test_a_plan_says_what_the_file_says(self, models: SimpleNamespace) -> None:
        before = planned(models.folder, recipe(merged=TASKS)).data
        after = finished(models.folder, recipe(merged=TASKS)).data
        for name in ("whole", "blocks", "tensors", "copied", "steps"):
            assert before[name] == after[name]

    def test_rounding_to_another_dtype_is_no_change(self, tmp_path: Path) -> None:
        for seed, name in enumerate(("base", "a", "b")):
            save(tmp_path / f"{name}.safetensors", tiny_tensors(seed))
        data = recipe(merged={**HALF, "include": Q}) | {"output": {"step": "merged", "dtype": "fp16"}}
        whole = planned(tmp_path, data).data
        assert whole["merged"] == 1
        none = recipe(merged={"op": "merge.halfway", "a": "a", "b": "a", "ratio": 0.5})
        none["output"] = {"step": "merged", "dtype": "fp16"}
        assert planned(tmp_path, none).data["whole"]["changed"] == 0

    def test_ratios_are_a_gradients(self, models: SimpleNamespace) -> None:
        ratios = {"op": "gradient.table", "model": "a", "parts": {"unet": 0.2, "clip": 0.9}}
        found = planned(models.folder, recipe(ratios=ratios, merged={**HALF, "gradient": "ratios"}))
        parts = {row["part"]: row for row in found.data["parts"]}
        assert (parts["unet"]["ratio from"], parts["unet"]["ratio to"]) == (0.2, 0.2)
        assert parts["clip"]["ratio from"] == 0.9
        assert parts["vae"]["ratio from"] is None
        assert (parts["vae"]["merged"], parts["vae"]["copied"]) == (0, 1)
        assert found.data["reasons"]["first_stage_model.decoder.conv_in.weight"] == "not in the gradient"
        assert {row["part"]: row.get("ratio") for row in found.rows if row["part"] == "vae"} == {"vae": None}

    def test_a_mask_limits_what_can_be_kept(self, models: SimpleNamespace) -> None:
        mask = {"op": "mask.positive", "model": "a"}
        found = planned(models.folder, recipe(chosen=mask, merged={**HALF, "mask": "chosen"})).data
        a, b = flat(models.a), flat(models.b)
        assert found["whole"]["mask"] == pytest.approx(float((a > 0).double().mean()))
        assert found["whole"]["changed"] <= found["whole"]["mask"]
        assert found["whole"]["kept"] > 0.9, "of what the mask selects"
        assert float((b != a).double().mean()) > 0.9

    def test_an_edit_has_no_inputs_to_take_changes_from(self, models: SimpleNamespace) -> None:
        found = planned(models.folder, recipe(merged={"op": "edit.negate", "model": "a"}))
        assert found.data["whole"]["relative change"] == pytest.approx(2)
        assert "before" not in found.data["whole"]
        assert "kept" not in found.rows[0]


class TestKeepShare:
    """A drop rate of p keeps 1 − p of the changes; n inputs that all move an element leave it alone with pⁿ."""

    @pytest.fixture
    def wide(self, tmp_path: Path) -> Path:
        for seed, name in enumerate(("base", "a", "b")):
            generator = torch.Generator().manual_seed(seed)
            save(tmp_path / f"{name}.safetensors", {"w": torch.randn(40_000, generator=generator)})
        return tmp_path

    @pytest.mark.parametrize("p", [0.0, 0.5, 0.9])
    @pytest.mark.parametrize("base", [None, "x"])
    def test_dare(self, wide: Path, p: float, base: str | None) -> None:
        pytest.importorskip("daremerge_merge_dare")
        step = {"op": "merge.dare", "a": "a", "b": "b", "base": base, "drop_rate": p, "ratio": 0.0}
        found = planned(wide, recipe(merged={key: value for key, value in step.items() if value is not None}))
        whole = found.data["whole"]
        assert whole["expected"] == pytest.approx(1 - p)
        assert whole["kept"] == pytest.approx(1 - p, abs=0.01)
        assert "lead one to expect" in found.text

    def test_iterations(self, wide: Path) -> None:
        pytest.importorskip("daremerge_merge_dare")
        step = {"op": "merge.dare", "a": "a", "b": "b", "drop_rate": 0.8, "iterations": 2}
        whole = planned(wide, recipe(merged=step)).data["whole"]
        assert whole["expected"] == pytest.approx(0.36)
        assert whole["kept"] == pytest.approx(0.36, abs=0.01)

    def test_several_inputs(self, wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Subject, "keep", lambda subject: subject.step.keep)  # the fixture's word for it
        whole = planned(wide, recipe(merged=TASKS)).data["whole"]
        assert whole["expected"] == pytest.approx(0.75)
        assert whole["kept"] == pytest.approx(0.75, abs=0.01)


class TestProvenance:
    def test_a_finished_file_knows_its_inputs(self, models: SimpleNamespace) -> None:
        found = finished(models.folder, recipe(merged=HALF))
        assert found.title == "Merged: out"
        assert {one["name"]: one["identity"][:7] for one in found.data["inputs"]} == {"a": "blake3:", "b": "blake3:"}
        assert "daremerge-fixture 1.0" in found.text
        assert found.data["finished"] is True

    def test_a_plan_does_not_yet(self, models: SimpleNamespace) -> None:
        found = planned(models.folder, recipe(merged=HALF))
        assert [one["identity"] for one in found.data["inputs"]] == [None, None]
        assert "identities are known once the merge is run" in found.text

    def test_a_chain_lists_its_steps_and_warnings(self, models: SimpleNamespace) -> None:
        steps = {
            "negated": {"op": "edit.negate", "model": "b"},
            "chosen": {"op": "mask.positive", "model": "a"},
            "ratios": {"op": "gradient.flat", "model": "a", "value": 0.25},
            "idle": {"op": "merge.halfway", "a": "a", "b": "negated", "ratio": 1.0},
            "merged": {"op": "merge.halfway", "a": "idle", "b": "negated", "mask": "chosen", "gradient": "ratios"},
        }
        found = planned(models.folder, recipe(**steps))
        did = {one["name"]: one["did"] for one in found.data["steps"]}
        assert did["negated"] == "10 tensors edited, 1 copied (I64 tensors pass through)"
        assert did["chosen"] == "a mask of 10 tensors"
        assert did["ratios"] == "a ratio for 6 tensors, 0.25 to 0.25"
        assert "Warning: step 'idle' changes nothing" in found.text
        assert list(found.data["delta norms"]) == ["negated"]

    def test_a_step_that_changes_nothing(self, models: SimpleNamespace) -> None:
        found = planned(models.folder, recipe(merged={**HALF, "ratio": 1.0}))
        assert found.text.startswith("Nothing was changed")
        assert found.data["whole"]["kept"] is None

    def test_a_model_as_it_is(self, models: SimpleNamespace) -> None:
        found = planned(models.folder, {"models": MODELS, "output": {"step": "a", "dtype": "bf16"}})
        assert not found.rows
        assert "a (a.safetensors)" in found.text


class TestRefusals:
    @pytest.mark.parametrize(
        ("step", "kind"),
        [
            ({"op": "mask.positive", "model": "a"}, "mask"),
            ({"op": "gradient.flat", "model": "a"}, "gradient"),
            ({"op": "report.diff", "model": "a", "reference": "b"}, "report"),
        ],
    )
    def test_what_is_no_model(self, models: SimpleNamespace, step: dict[str, Any], kind: str) -> None:
        with pytest.raises(DaremergeError, match=f"gives a {kind}, not a model"):
            planned(models.folder, recipe(output="it", it=step))

    def test_a_file_whose_inputs_were_replaced(self, models: SimpleNamespace) -> None:
        merge_recipe(recipe(merged=HALF), models.folder / "out.safetensors", folder=models.folder)
        for path in (models.a, models.b):
            save(path, {Q: torch.ones(3)})
        with (
            read_plan(models.folder / "out.safetensors", discover()) as plan,
            pytest.raises(PlanError, match="do not fit together"),
        ):
            make_report(report_on(plan, "merge"))


class TestCommands:
    def test_a_report_beside_the_merge(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli("merge", "halfway", models.a, models.b, "-o", "out.safetensors", "--report", "r.json", "-q")
        assert done.exit_code == 0, done.output
        found = json.loads((models.folder / "r.json").read_text())
        assert found["title"] == "Merged: out"
        again = cli("report", "merge", "out.safetensors", "-o", "again.json", "-q")
        assert again.exit_code == 0, again.output
        assert json.loads((models.folder / "again.json").read_text()) == found

    def test_a_recipe_file(self, cli: Cli, models: SimpleNamespace) -> None:
        (models.folder / "recipe.json").write_text(json.dumps(recipe(merged=HALF)))
        done = cli("report", "merge", "recipe.json", "--by", "part")
        assert done.exit_code == 0, done.output
        assert "Planned: merged" in done.output
        assert not list(models.folder.glob("out*")), "nothing is written"

    def test_a_file_that_no_recipe_made(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli("report", "merge", models.a)
        assert done.exit_code == 2
        assert "holds no recipe" in done.output


def test_the_same_bytes_for_any_threads_memory_and_kernels(
    models: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = recipe(chosen={"op": "mask.positive", "model": "a"}, merged={**TASKS, "mask": "chosen"})
    rendered = set()
    for settings, fast in ((Settings(threads=1), "1"), (Settings(threads=3, memory=1), "1"), (Settings(), "0")):
        monkeypatch.setenv("DAREMERGE_FAST", fast)
        found = planned(models.folder, data, settings)
        rendered.add((to_json(found), to_text(found)))
    assert len(rendered) == 1


GOLDEN = """\
Planned: merged
===============

merge.halfway changed 25 % of the elements of 2 tensors, by a relative norm ‖result − a‖ / ‖a‖ of
0.3922.

Norms before and after:
  ‖b − a‖ = 4
  ‖result − a‖ = 2: 0.5 times the norm before

Steps, the last first:
  merged: merge.halfway: 2 tensors merged, 1 copied (I64 tensors pass through)

Inputs; their identities are known once the merge is run:
  a (a.safetensors)
  b (b.safetensors)
Planned with daremerge-core {version}, daremerge-fixture 1.0.

part   block     merged  copied  ratio  before  after  after/before  relative change  changed  kept
-----  --------  ------  ------  -----  ------  -----  ------------  ---------------  -------  ----
other  blocks.0       1       0    0.5       4      2           0.5              0.4      0.5     1
other  blocks.1       1       0    0.5       0      0                              0        0
other  -              0       1
"""


def test_the_text(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", small([3.0, 4.0]))
    save(tmp_path / "b.safetensors", small([3.0, 8.0]))
    found = planned(tmp_path, recipe(merged={**HALF, "ratio": 0.5}))
    assert to_text(found) == GOLDEN.format(version=__version__)


def small(first: list[float]) -> dict[str, Tensor]:
    weights = {"blocks.0.to_q.weight": torch.tensor(first), "blocks.1.to_q.weight": torch.tensor([1.0, 0.0])}
    return {**weights, "n": torch.arange(2)}


@pytest.mark.parametrize("step", [HALF, {"op": "edit.negate", "model": "a"}, {**HALF, "ratio": 1.0}])
def test_pictures_are_drawn(models: SimpleNamespace, step: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    from daremerge_core.rendering.pictures import draw

    for figure in planned(models.folder, recipe(merged=step)).figures.values():
        assert draw(figure, "dark")
