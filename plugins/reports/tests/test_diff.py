"""``report.diff``: against plain arithmetic, its laws, and what it says of models that do not match."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core import DaremergeError, MemoryModel, Report
from daremerge_core.api import make_report, plan_recipe
from daremerge_core.engine import Pool, Quiet, Settings
from daremerge_core.rendering import to_json
from daremerge_core.rendering.text import to_text
from daremerge_core.survey import Survey
from daremerge_core.testing import ComponentTests, tiny_model, tiny_tensors
from daremerge_core.testing.fixtures import save
from daremerge_reports.diff import Diff

Q = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


class TestComponent(ComponentTests):
    component = Diff
    cases = ({}, {"by": "tensor"})


def survey() -> Survey:
    return Survey(Pool(1, 1 << 30, threading.Event()), Quiet())


def report(x: Mapping[str, Tensor], a: Mapping[str, Tensor], **options: Any) -> Report:
    return Diff(model=MemoryModel(x), reference=MemoryModel(a), **options).report(survey())


def floats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if tensor.is_floating_point()}


def expected(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float | None]:
    """The numbers of a group of tensors, the plain way."""
    x = torch.cat([one.double().reshape(-1) for one, _ in pairs])
    a = torch.cat([one.double().reshape(-1) for _, one in pairs])
    lengths = float(x.norm() * a.norm())
    return {
        "elements": x.numel(),
        "relative norm": float((x - a).norm() / a.norm()) if x.numel() else 0.0,
        "cosine": float(x @ a) / lengths if lengths else None,
        "max": float((x - a).abs().max()) if x.numel() else 0.0,
        "changed": float((x != a).double().mean()) if x.numel() else 0.0,
    }


def matches(row: Mapping[str, Any], wanted: Mapping[str, float | None]) -> bool:
    return all(
        row[name] == (value if value is None else pytest.approx(value, rel=1e-6)) for name, value in wanted.items()
    )


class TestNumbers:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
    def test_every_table_is_plain_arithmetic(self, dtype: torch.dtype) -> None:
        x, a = tiny_tensors(1, dtype), tiny_tensors(0, dtype)
        x[Q][:6] = a[Q][:6]
        data = report(x, a).data
        assert len(data["tensors"]) == len(floats(x))
        for row in data["tensors"]:
            assert matches(row, expected([(x[row["tensor"]], a[row["tensor"]])])), row
        place = {row["tensor"]: row for row in data["tensors"]}
        for table, names in (("parts", ("part",)), ("blocks", ("part", "block")), ("roles", ("part", "role"))):
            assert sum(row["tensors"] for row in data[table]) == len(place)
            for row in data[table]:
                mine = [key for key, one in place.items() if all(one[name] == row[name] for name in names)]
                assert row["tensors"] == len(mine)
                assert matches(row, expected([(x[key], a[key]) for key in mine])), row
        assert matches(data["whole"], expected([(x[key], a[key]) for key in place]))

    def test_a_tensor_of_several_blocks(self) -> None:
        size = (1 << 18) * 2 + 4097
        x, a = torch.randn(size, generator=torch.manual_seed(0)), torch.randn(size, generator=torch.manual_seed(1))
        row = report({"w": x}, {"w": a}).data["tensors"][0]
        assert matches(row, expected([(x, a)]))

    def test_a_model_against_itself(self) -> None:
        found = report(tiny_tensors(1), tiny_tensors(1))
        assert found.text.startswith("No difference: every tensor is equal")
        whole = found.data["whole"]
        assert (whole["relative norm"], whole["max"], whole["changed"]) == (0, 0, 0)
        assert whole["cosine"] == pytest.approx(1)

    @given(scale=st.sampled_from([0.0, 0.5, 2.0, -1.0, 4.0]), power=st.integers(-4, 4))
    def test_scaling(self, scale: float, power: int) -> None:
        """X = sA: the relative norm is |s − 1|, the cosine the sign of s, whatever unit both are in."""
        a = {key: tensor * 2.0**power for key, tensor in floats(tiny_tensors(3)).items()}
        whole = report({key: tensor * scale for key, tensor in a.items()}, a).data["whole"]
        assert whole["relative norm"] == pytest.approx(abs(scale - 1))
        assert whole["cosine"] == (pytest.approx(math.copysign(1, scale)) if scale else None)

    def test_the_cosine_and_what_changed_are_symmetric(self) -> None:
        one, other = report(tiny_tensors(1), tiny_tensors(2)).data, report(tiny_tensors(2), tiny_tensors(1)).data
        for name in ("cosine", "max", "changed"):
            assert one["whole"][name] == other["whole"][name]

    def test_against_nothing(self) -> None:
        zeros = {"w": torch.zeros(5)}
        assert report({"w": torch.ones(5)}, zeros).data["whole"]["relative norm"] == math.inf
        assert report(zeros, zeros).data["whole"]["relative norm"] == 0
        json.loads(to_json(report({"w": torch.ones(5)}, zeros)))

    def test_what_is_not_finite_is_left_out_and_counted(self) -> None:
        x = {"w": torch.tensor([1.0, math.nan, math.inf, 4.0, math.nan])}
        a = {"w": torch.tensor([1.0, math.nan, 3.0, 2.0, 5.0])}
        found = report(x, a)
        whole = found.data["whole"]
        assert whole["not finite"] == 3
        assert whole["changed"] == pytest.approx(3 / 5), "NaN equals NaN; inf and NaN are not 3 and 5"
        assert whole["relative norm"] == pytest.approx(2 / math.sqrt(5))
        assert whole["max"] == 2
        assert "3 elements, left out of norms" in found.text


class TestUnlikeModels:
    def test_tensors_of_one_model_only_are_listed(self) -> None:
        x, a = tiny_tensors(1), tiny_tensors(0)
        del a[Q]
        x["extra"] = torch.ones(3)
        a["other"] = torch.ones(3)
        found = report(x, a)
        assert found.data["only in model"] == [Q, "extra"]
        assert found.data["only in reference"] == ["other"]
        assert "Only in model: 2 tensors" in found.text
        assert "Only in reference: 1 tensors: other" in found.text

    def test_shapes_and_dtypes_that_differ_are_listed(self) -> None:
        x, a = tiny_tensors(1), tiny_tensors(1, torch.float16)
        a[Q] = torch.ones(2, 2)
        found = report(x, a)
        assert found.data["other shape or kind"] == [f"{Q} (F32 [12, 10], F32 [2, 2])"]
        assert found.data["other dtype"] == [{"model": "F32", "reference": "F16", "tensors": 9}]
        assert "Rounding counts as change there" in found.text

    def test_whole_numbers_are_compared_as_they_are_stored(self) -> None:
        """2⁵³ + 1 is no float64."""
        x, a = {"w": torch.ones(2), "n": torch.tensor([2**53 + 1])}, {"w": torch.ones(2), "n": torch.tensor([2**53])}
        found = report(x, a)
        assert found.data["not float and not equal"] == ["n"]
        assert not found.text.startswith("No difference")
        assert report(x, x).text.startswith("No difference")

    def test_models_that_share_nothing_are_refused(self) -> None:
        with pytest.raises(DaremergeError, match="share no float tensor"):
            report({"a": torch.ones(2)}, {"b": torch.ones(2)})
        with pytest.raises(DaremergeError, match="share no float tensor"):
            report({"a": torch.ones(2)}, {"a": torch.ones(3)})


class TestTheSameBytes:
    def recipe(self, folder: Path) -> dict[str, Any]:
        for seed, name in enumerate("xab"):
            save(folder / f"{name}.safetensors", tiny_tensors(seed, torch.float16))
        return {
            "models": {name: f"{name}.safetensors" for name in "xab"},
            "steps": {
                "mean": {"op": "merge.halfway", "a": "a", "b": "b"},
                "look": {"op": "report.diff", "model": "mean", "reference": "x"},
            },
            "output": "look",
        }

    def test_for_any_threads_and_memory(self, tmp_path: Path) -> None:
        recipe = self.recipe(tmp_path)
        rendered = set()
        for settings in (Settings(threads=1), Settings(threads=4), Settings(threads=3, memory=1)):
            with plan_recipe(recipe, folders=[tmp_path]) as plan:
                found = make_report(plan, settings=settings)
            rendered.add((to_json(found), to_text(found)))
        assert len(rendered) == 1

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_with_and_without_compiled_kernels(self, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
        pytest.importorskip("numba")
        generator = torch.Generator().manual_seed(0)
        x, a = ({"w": torch.randn(300_001, generator=generator).to(dtype)} for _ in range(2))
        x["w"][7] = math.nan
        fast = to_json(report(x, a))
        monkeypatch.setenv("DAREMERGE_FAST", "0")
        assert to_json(report(x, a)) == fast

    def test_a_step_is_compared_as_the_file_it_would_be(self, tmp_path: Path) -> None:
        with plan_recipe(self.recipe(tmp_path), folders=[tmp_path]) as plan:
            found = make_report(plan)
        a, b = tiny_tensors(1, torch.float16), tiny_tensors(2, torch.float16)
        mean = {key: ((a[key].float() + b[key].float()) / 2).half() for key in floats(a)}
        assert found.title == "mean against x"
        same = report(mean, floats(tiny_tensors(0, torch.float16))).data
        assert found.data["whole"] == same["whole"]


GOLDEN = """\
model against reference
=======================

The whole differs by a relative norm of 0.5, the cosine 1, the largest change is 2, and 100 % of the
elements are not equal.

Relative norm by part:
  other: 0.5, 100 % changed

Most changed tensors, by relative norm:
  0.5  blocks.0.to_q.weight
  0.5  blocks.1.to_q.weight

2 float tensors with 4 elements are compared (generic).

part   block     tensors  elements  relative norm  cosine  max  changed
-----  --------  -------  --------  -------------  ------  ---  -------
other  blocks.0        1         2            0.5       1    1        1
other  blocks.1        1         2            0.5       1    2        1
"""


def test_the_text() -> None:
    a = {f"blocks.{at}.to_q.weight": torch.tensor([1.0, -2.0]) * (at + 1) for at in range(2)}
    assert to_text(report({key: tensor * 1.5 for key, tensor in a.items()}, a)) == GOLDEN


def test_pictures_are_drawn_and_are_the_same_each_time() -> None:
    pytest.importorskip("matplotlib")
    from daremerge_core.rendering.pictures import draw

    for figure in Diff(model=tiny_model(1), reference=tiny_model(0)).report(survey()).figures.values():
        assert draw(figure, "light") == draw(figure, "light")


def test_a_picture_of_no_difference_can_be_drawn() -> None:
    pytest.importorskip("matplotlib")
    from daremerge_core.rendering.pictures import draw

    for figure in Diff(model=tiny_model(1), reference=tiny_model(1)).report(survey()).figures.values():
        assert draw(figure, "dark")
