"""The contract of every reporter that looks at one value, and that they work on values that are computed."""

from __future__ import annotations

from typing import Any

import pytest

from daremerge_core import Reporter
from daremerge_core.testing import ReporterTests, report_of, tiny_model
from daremerge_reports.gradient import GradientReport
from daremerge_reports.health import HealthReport
from daremerge_reports.mask import MaskReport
from daremerge_reports.model import ModelReport

Q = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


class TestMaskReport(ReporterTests):
    component = MaskReport
    cases = ({}, {"show": "details"})


class TestGradientReport(ReporterTests):
    component = GradientReport
    cases = ({}, {"show": "details"})


class TestModelReport(ReporterTests):
    component = ModelReport
    cases = (
        {},
        {"layer": Q},
        {"layer": "logit_scale", "scaling": "log", "pool": "mean"},
        {"layer": "empty", "scaling": "mean"},
    )


class TestHealthReport(ReporterTests):
    component = HealthReport


@pytest.mark.parametrize("reporter", [ModelReport(model=tiny_model(1)), HealthReport(model=tiny_model(1))])
def test_the_fast_kernels_and_the_plain_ones_agree(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    def data() -> Any:
        return report_of(reporter).data

    monkeypatch.setenv("DAREMERGE_FAST", "0")
    plain = data()
    monkeypatch.delenv("DAREMERGE_FAST")
    assert data() == plain
