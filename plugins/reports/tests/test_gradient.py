"""The gradient report: ranges of blocks, layers without a ratio, architectures known by names alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daremerge_core import GradientFamily, Report, view
from daremerge_core.layout import Place
from daremerge_core.stores import GradientFile, write_gradient
from daremerge_core.testing import report_of
from daremerge_core.testing.conformance import TinyGradient
from daremerge_core.testing.layouts import HeaderModel, load
from daremerge_reports.gradient import GradientReport


class ByDepth(GradientFamily):
    """The depth, and nothing beside the stack."""

    name = "by-depth"

    def ratio(self, place: Place) -> float | None:
        return None if place.role == "norm" else place.depth


def look(gradient: Any, **options: Any) -> Report:
    return report_of(GradientReport(gradient=gradient, **options))


def row_of(report: Report, block: str) -> Mapping[str, Any]:
    return next(row for row in report.rows if row["block"] == block)


def test_rows_hold_the_range_of_a_block() -> None:
    block = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0"
    ratios = {f"{block}.attn1.to_q.weight": 0.25, f"{block}.attn1.to_k.weight": 0.75}
    assert row_of(look(TinyGradient(ratios=ratios)), "input_blocks.1") == {
        "part": "unet",
        "block": "input_blocks.1",
        "tensors": 2,
        "lowest": 0.25,
        "mean": 0.5,
        "highest": 0.75,
        "without": 0,
    }


def test_what_has_no_ratio_is_told_apart_from_zero() -> None:
    report = look(view(ByDepth(model=HeaderModel(load("sd15")))))
    assert row_of(report, "time_embed")["lowest"] is None
    assert row_of(report, "time_embed")["without"] == 4
    assert row_of(report, "input_blocks.0")["lowest"] == 0.0
    assert "without one stay as they are in A" in report.text


def test_a_file_knows_its_blocks_by_their_names(tmp_path: Path) -> None:
    for name in ("sd15", "sdxl", "sd3", "flux-dev"):
        value: Any = view(ByDepth(model=HeaderModel(load(name))))
        ratios = {key: value.ratio(key) for key in value.keys()}
        path = write_gradient(tmp_path / f"{name}.json", ratios)
        assert look(GradientFile(path)).rows == look(value).rows


def test_details_give_every_ratio() -> None:
    gradient = TinyGradient(2)
    rows = look(gradient, show="details").rows
    assert {row["tensor"]: row["ratio"] for row in rows} == {key: gradient.ratio(key) for key in gradient.keys()}


def test_ratios_that_extrapolate_are_pointed_out() -> None:
    class Wide(TinyGradient):
        def ratio(self, key: str) -> float | None:
            return self._ratios[key]

    report = look(Wide(ratios={"a.0.b": -0.5, "a.1.b": 2.0, "a.2.b": 0.5}))
    assert "2 ratios outside 0 to 1 extrapolate: -0.5 to 2" in report.text
    for figure in report.figures.values():
        figure()
