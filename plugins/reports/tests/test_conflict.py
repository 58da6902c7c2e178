"""``report.conflict``: against plain arithmetic, and its laws."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core import DaremergeError, MemoryModel, Report
from daremerge_core.api import make_report, plan_recipe
from daremerge_core.engine import Pool, Quiet, Settings
from daremerge_core.rendering import to_json
from daremerge_core.rendering.text import to_text
from daremerge_core.survey import Survey
from daremerge_core.testing import ComponentTests, tiny_tensors
from daremerge_core.testing.fixtures import save
from daremerge_reports.conflict import Conflict

Models = Sequence[Mapping[str, Tensor]]


class TestComponent(ComponentTests):
    component = Conflict
    cases = ({}, {"by": "role"})


def report(base: Mapping[str, Tensor], models: Models, **options: Any) -> Report:
    survey = Survey(Pool(1, 1 << 30, threading.Event()), Quiet())
    return Conflict(base=MemoryModel(base), models=list(map(MemoryModel, models)), **options).report(survey)


def of(*deltas: Sequence[float]) -> dict[str, Any]:
    """What is said of the whole where the models' deltas are these, over a base of zeros."""
    zeros = {"w": torch.zeros(len(deltas[0]))}
    return report(zeros, [{"w": torch.tensor(delta, dtype=torch.float32)} for delta in deltas]).data


def oracle(base: Mapping[str, Tensor], models: Models, keys: Sequence[str]) -> dict[str, float]:
    """Element by element, in plain Python."""
    deltas = [
        torch.cat([(model[key].float() - base[key].float()).reshape(-1) for key in keys]).tolist() for model in models
    ]
    moved = shared = opposed = 0
    movement = weighted = net = 0.0
    for values in zip(*deltas, strict=True):
        count = sum(value != 0 for value in values)
        opposes = max(values) > 0 > min(values)
        moved, shared, opposed = moved + (count > 0), shared + (count > 1), opposed + opposes
        size = sum(map(abs, values))
        movement, weighted, net = movement + size, weighted + size * opposes, net + abs(sum(values))
    norms = [math.hypot(*delta) for delta in deltas]
    cosines = [
        sum(x * y for x, y in zip(deltas[i], deltas[j], strict=True)) / (norms[i] * norms[j])
        for i, j in combinations(range(len(deltas)), 2)
    ]
    return {
        "sign conflict": opposed / moved,
        "by magnitude": weighted / movement,
        "cancelled": 1 - net / movement,
        "overlap": shared / moved,
        "mean cosine": sum(cosines) / len(cosines),
        **{f"‖Δ‖ model {i}": norm for i, norm in enumerate(norms, start=1)},
    }


class TestNumbers:
    @pytest.mark.parametrize("count", [2, 3, 9])
    def test_the_whole_and_every_block_are_plain_arithmetic(self, count: int) -> None:
        base = tiny_tensors(0, torch.float16)
        models = [tiny_tensors(seed, torch.float16) for seed in range(1, count + 1)]
        for at, model in enumerate(models):  # so that not all move everything
            for key, tensor in model.items():
                tensor.view(-1)[at :: count + 1] = base[key].view(-1)[at :: count + 1]
        found = report(base, models).data
        keys = [row["tensor"] for row in found["tensors"]]
        assert len(keys) == 10
        for name, value in oracle(base, models, keys).items():
            assert found["whole"][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
        for block in found["blocks"]:
            mine = [r["tensor"] for r in found["tensors"] if (r["part"], r["block"]) == (block["part"], block["block"])]
            if any(base[key].numel() > 20 for key in mine):
                for name, value in oracle(base, models, mine).items():
                    assert block[name] == pytest.approx(value, rel=1e-5, abs=1e-6), (block["block"], name)
        assert sum(block["elements"] for block in found["blocks"]) == found["whole"]["elements"]

    @settings(max_examples=30)
    @given(delta=st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=20), count=st.integers(2, 5))
    def test_identical_deltas_do_not_conflict(self, delta: list[float], count: int) -> None:
        whole = of(*[delta] * count)["whole"]
        assert (whole["sign conflict"], whole["by magnitude"], whole["cancelled"]) == (0, 0, 0)
        if any(delta):
            assert whole["overlap"] == 1
            assert whole["mean cosine"] == pytest.approx(1)

    @settings(max_examples=30)
    @given(delta=st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=20).filter(any))
    def test_opposite_deltas_conflict_everywhere(self, delta: list[float]) -> None:
        found = of(delta, [-value for value in delta])
        whole = found["whole"]
        assert (whole["sign conflict"], whole["by magnitude"], whole["cancelled"]) == (1, 1, 1)
        assert whole["mean cosine"] == pytest.approx(-1)
        assert found["sign conflict of pairs"] == [[0, 1], [1, 0]]

    def test_deltas_that_do_not_meet(self) -> None:
        whole = of([1, 2, 0, 0], [0, 0, -3, 0])["whole"]
        assert (whole["sign conflict"], whole["overlap"], whole["mean cosine"]) == (0, 0, 0)

    def test_weights_count(self) -> None:
        whole = of([1, 3], [1, -3])["whole"]
        assert whole["sign conflict"] == 1 / 2
        assert whole["by magnitude"] == 6 / 8
        assert whole["cancelled"] == 6 / 8

    def test_cosines_are_symmetric_and_one_with_themselves(self) -> None:
        cosines = report(tiny_tensors(0), [tiny_tensors(seed) for seed in (1, 2, 3)]).data["cosines"]
        for i, j in combinations(range(3), 2):
            assert cosines[i][j] == cosines[j][i]
        assert [cosines[i][i] for i in range(3)] == pytest.approx([1, 1, 1])

    def test_a_model_that_is_the_base(self) -> None:
        base = tiny_tensors(0)
        found = report(base, [base, tiny_tensors(1)])
        assert found.data["cosines"][0] == [None, None]
        assert "model 1 does not differ from base at all" in found.text
        assert "nothing to conflict" in report(base, [base, base]).text

    def test_what_is_not_finite_is_left_out(self) -> None:
        found = of([1, math.nan, 2], [1, 1, math.inf])["whole"]
        assert found["not finite"] == 2
        assert found["overlap"] == 1
        assert found["‖Δ‖ model 1"] == 1


class TestUnlikeModels:
    def test_what_not_all_have_is_left_out_and_listed(self) -> None:
        base, one, other = tiny_tensors(0), tiny_tensors(1), tiny_tensors(2)
        gone, reshaped = list(base)[:2]
        del one[gone]
        other[reshaped] = torch.ones(3)
        other["extra"] = torch.ones(3)
        found = report(base, [one, other])
        assert set(found.data["left out"]) == {gone, reshaped, "extra"}
        assert "Not in all of the models" in found.text

    def test_models_that_share_nothing_are_refused(self) -> None:
        with pytest.raises(DaremergeError, match="share no float tensor"):
            report({"a": torch.ones(2)}, [{"b": torch.ones(2)}] * 2)


def test_the_same_bytes_for_any_threads_memory_and_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in "xabc":
        big = {"blocks.0.w": torch.randn(300_001, generator=generator)}
        save(tmp_path / f"{name}.safetensors", {**tiny_tensors(ord(name), torch.float32), **big})
    step = {"op": "report.conflict", "base": "x", "models": ["a", "b", "c"]}
    recipe = {"models": {n: f"{n}.safetensors" for n in "xabc"}, "steps": {"look": step}, "output": "look"}
    rendered = set()
    for how, fast in ((Settings(threads=1), "1"), (Settings(threads=3, memory=1), "1"), (Settings(), "0")):
        monkeypatch.setenv("DAREMERGE_FAST", fast)
        with plan_recipe(recipe, folders=[tmp_path]) as plan:
            found = make_report(plan, settings=how)
        rendered.add((to_json(found), to_text(found)))
    assert len(rendered) == 1


def test_the_command(cli: Callable[..., Result], models: Any) -> None:
    result = cli("report", "conflict", models.base, models.a, models.b, "--by", "part")
    assert result.exit_code == 0, result.output
    assert "Conflict of a, b over base" in result.output
    assert "a and b: signs conflict in" in result.output
    assert cli("report", "conflict", models.base, models.a).exit_code == 2


GOLDEN = """\
Conflict of model 1, model 2 over base
======================================

62.5 % of the elements are moved by a model, and 60 % of these by two or more. Signs conflict in 20
% of the moved elements, which hold 18.18 % of the movement. Adding the deltas cancels 18.18 % of
the movement: that much is lost to a plain sum or mean, and is what electing signs (TIES) or keeping
fewer changes of each model (DARE) can act on.

For comparison: deltas that have nothing to do with each other have cosines near 0, and where both
models move, their signs conflict in 50 % of the elements.

Norm of each delta, ‖θ − base‖:
  model 1: 3.162
  model 2: 2.646

Pairs, the most conflicting first:
  model 1 and model 2: signs conflict in 33.33 % of what both move, cosine 0.4781

Blocks with the most sign conflict, by magnitude:
  other blocks.1: 33.33 % of the movement, 50 % of the moved elements

2 float tensors with 8 elements are compared (generic).

part   tensors  elements  sign conflict  by magnitude  cancelled  overlap  mean cosine  ‖Δ‖ model 1  ‖Δ‖ model 2
-----  -------  --------  -------------  ------------  ---------  -------  -----------  -----------  -----------
other        2         8            0.2        0.1818     0.1818      0.6       0.4781        3.162        2.646
"""


def test_the_text() -> None:
    base = {f"blocks.{at}.to_q.weight": torch.zeros(4) for at in range(2)}
    one = dict.fromkeys(base, torch.tensor([1.0, 0.0, 2.0, 0.0]))
    other = dict(zip(base, (torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([-1.0, 0.0, 2.0, 0.0])), strict=True))
    assert to_text(report(base, [one, other], by="part")) == GOLDEN


def test_pictures_are_drawn() -> None:
    pytest.importorskip("matplotlib")
    from daremerge_core.rendering.pictures import draw

    for figure in report(tiny_tensors(0), [tiny_tensors(seed) for seed in range(1, 10)]).figures.values():
        assert draw(figure, "dark")
