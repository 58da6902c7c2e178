"""What a person reads: the text of each report on tiny values, word for word; and a report as a step of a recipe.

After a change of words: ``python plugins/reports/tests/test_looking_text.py`` writes the golden files anew.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from daremerge_core import MemoryModel, Reporter
from daremerge_core.api import make_report, plan_recipe
from daremerge_core.catalog import Catalog
from daremerge_core.rendering import to_json, write_report
from daremerge_core.rendering.text import to_text
from daremerge_core.stores import write_mask
from daremerge_core.testing import report_of, tiny_model, tiny_tensors
from daremerge_core.testing.conformance import TinyGradient, tiny_mask
from daremerge_reports import plugin
from daremerge_reports.gradient import GradientReport
from daremerge_reports.health import HealthReport
from daremerge_reports.mask import MaskReport
from daremerge_reports.model import ModelReport

GOLDEN = Path(__file__).parent / "golden"


def ill_model() -> MemoryModel:
    """The tiny checkpoint with something wrong in it."""
    tensors = tiny_tensors(1, torch.float16)
    names = list(tensors)
    tensors[names[0]][2, 3] = math.nan
    tensors[names[1]][4:6] = 0.0
    tensors[names[6]] = tensors[names[6]].float() * 1e6
    return MemoryModel(tensors)


REPORTS: dict[str, Reporter] = {
    "mask": MaskReport(mask=tiny_mask(1)),
    "mask-details": MaskReport(mask=tiny_mask(1), show="details"),
    "gradient": GradientReport(gradient=TinyGradient(1)),
    "gradient-details": GradientReport(gradient=TinyGradient(1), show="details"),
    "model": ModelReport(model=tiny_model(1)),
    "layer": ModelReport(model=tiny_model(1), layer="attn1.to_q"),
    "health": HealthReport(model=ill_model()),
}


@pytest.mark.parametrize("name", REPORTS)
def test_the_text_is_as_it_was(name: str) -> None:
    assert to_text(report_of(REPORTS[name])) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


@pytest.fixture
def catalog() -> Catalog:
    found = Catalog()
    found.register(plugin, name="reports")
    return found


@pytest.mark.parametrize("name", ["model", "health"])
def test_a_report_is_a_step_of_a_recipe(models: SimpleNamespace, catalog: Catalog, name: str) -> None:
    recipe = {
        "models": {"m": "a.safetensors"},
        "steps": {"look": {"op": f"report.{name}", "model": "m"}},
        "output": "look",
    }
    with plan_recipe(recipe, catalog=catalog, folders=[models.folder]) as plan:
        report = make_report(plan, catalog=catalog)
        path = write_report(report, models.folder / "look.json")
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(to_json(report))


def test_a_mask_file_is_reported_as_the_mask(tmp_path: Path, catalog: Catalog) -> None:
    write_mask(tmp_path / "mask.safetensors", tiny_mask(1))
    recipe = {"steps": {"look": {"op": "report.mask", "mask": "mask.safetensors"}}, "output": "look"}
    with plan_recipe(recipe, catalog=catalog, folders=[tmp_path]) as plan:
        report = make_report(plan, catalog=catalog)
    assert report.data["tensors"] == report_of(REPORTS["mask"]).data["tensors"]


if __name__ == "__main__":
    for name, reporter in REPORTS.items():
        (GOLDEN / f"{name}.txt").write_text(to_text(report_of(reporter)), encoding="utf-8")
