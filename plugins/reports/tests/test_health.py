"""The health report: what it finds, what it must not find, and what it calls missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from daremerge_core import MemoryModel, Report, TensorMeta
from daremerge_core.layout import detect
from daremerge_core.testing import report_of
from daremerge_core.testing.layouts import NAMES, load
from daremerge_reports.coverage import coverage
from daremerge_reports.findings import Finding
from daremerge_reports.health import HealthReport


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02


def network() -> dict[str, Tensor]:
    """Eight blocks of an unknown architecture, all well."""
    return {
        f"blocks.{i}.{layer}.{leaf}": numbers(*((32, 24) if leaf == "weight" else (32,)), seed=2 * i + (leaf == "bias"))
        for i in range(8)
        for layer in ("attn.to_q", "mlp.fc")
        for leaf in ("weight", "bias")
    }


def look(tensors: dict[str, Tensor], **options: Any) -> Report:
    return report_of(HealthReport(model=MemoryModel(tensors), **options))


def found(report: Report) -> dict[tuple[str, str | None], dict[str, Any]]:
    return {(one["what"], one["tensor"]): one for one in report.data["findings"]}


W = "blocks.3.mlp.fc.weight"


def changed(change: Callable[[Tensor], Tensor], key: str = W) -> Report:
    tensors = network()
    return look(tensors | {key: change(tensors[key])})


def put(value: float, *places: int) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[list(places)] = value
        return tensor

    return change


def test_a_sound_model_is_healthy() -> None:
    report = look(network())
    assert report.data["verdict"].startswith("healthy")
    assert {key for key, _ in found(report)} == {"unknown architecture"}
    assert "Nothing wrong was found" in report.text


@pytest.mark.parametrize(
    ("change", "what", "severity", "count"),
    [
        (put(math.nan, 1, 2), "NaN", "error", 2),
        (put(-math.inf, 5), "infinite", "error", 1),
        (torch.zeros_like, "all zeros", "warning", None),
        (lambda w: torch.full_like(w, 0.5), "constant", "warning", None),
        (put(0.0, *range(24, 72)), "dead rows", "warning", 2),
        (put(1e5, 3), "overflows fp16", "warning", 1),
        (lambda w: w * 200, "out of scale", "warning", None),
        (lambda w: w * 1e-8, "vanishes in fp16", "note", None),
    ],
)
def test_a_fault_is_found(change: Any, what: str, severity: str, count: int | None) -> None:
    findings = found(changed(change))
    assert findings[what, W]["severity"] == severity
    assert count is None or findings[what, W]["count"] == count


def test_an_extreme_value_is_found_in_a_large_tensor() -> None:
    tensor = numbers(200, 200)
    tensor[7, 7] = 3.9
    assert ("extreme value", "w.0.a") in found(look({"w.0.a": tensor}))


def test_what_is_no_fault_is_not_found() -> None:
    tensors = network()
    tensors["blocks.3.mlp.fc.bias"] = torch.zeros(32)
    tensors["blocks.4.mlp.fc.weight"] = put(0.0, 0, 30, 90)(tensors["blocks.4.mlp.fc.weight"])
    report = look({key: value.half() for key, value in tensors.items()})
    assert report.data["verdict"].startswith("healthy")
    assert found(report)["all zeros", "blocks.3.mlp.fc.bias"]["severity"] == "note"


def test_fp16_is_not_warned_of_fp16() -> None:
    tensors = {key: value.half() for key, value in network().items()}
    tensors[W] = torch.full((32, 24), 6e4).half() * torch.randn(32, 24).sign()
    assert not {what for what, _ in found(look(tensors))} & {"overflows fp16", "vanishes in fp16"}


def test_mixed_dtypes_and_averages_are_noted() -> None:
    tensors = network()
    tensors[W] = tensors[W].half()
    tensors["model_ema.blocks0mlpfcweight"] = numbers(32, 24)
    findings = found(look(tensors))
    assert findings["mixed dtypes", None]["severity"] == "note"
    assert findings["EMA copies", None]["count"] == 1


def test_the_table_is_limited_and_the_data_is_not() -> None:
    report = look({key: value.fill_(math.nan) for key, value in network().items()}, limit=5)
    assert len(report.rows) == 5
    assert report.data["counts"]["error"] == 32
    assert "The table shows 5 of" in report.text


def test_an_empty_file_is_an_error() -> None:
    assert look({}).data["counts"]["error"] == 1


# --- what is missing ------------------------------------------------------------------------------------


def missing(metas: dict[str, TensorMeta]) -> list[Finding]:
    return coverage(detect(metas), metas)


def without(name: str, *parts: str) -> dict[str, TensorMeta]:
    return {key: meta for key, meta in load(name).items() if not any(part in key for part in parts)}


@pytest.mark.parametrize("name", NAMES)
def test_published_checkpoints_lack_nothing(name: str) -> None:
    assert missing(load(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_nor_do_they_by_the_rule_for_unknown_architectures(name: str) -> None:
    renamed = {f"unknown.{key}": meta for key, meta in load(name).items()}
    assert {one.what for one in missing(renamed)} == {"unknown architecture"}


@pytest.mark.parametrize("part", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
def test_a_part_may_be_left_out(part: str) -> None:
    left = without("sd15", part)
    if part == "model.diffusion_model.":
        assert detect(left).arch == "generic"
        assert not [one for one in missing(left) if one.severity != "note"]
    else:
        assert missing(left) == []


def test_a_text_encoder_may_be_left_out() -> None:
    assert missing(without("sd3", "t5xxl")) == []


def test_flux_without_guidance_is_schnell() -> None:
    assert missing(without("flux-dev", "guidance_in")) == []


def test_a_tensor_missing_in_a_block_is_an_error() -> None:
    key = "model.diffusion_model.input_blocks.4.1.proj_out.bias"
    (finding,) = missing(without("sdxl", key))
    assert (finding.severity, finding.what, finding.key) == ("error", "missing", key)


def test_a_missing_block_is_one_warning() -> None:
    (finding,) = missing(without("sdxl", "output_blocks.3."))
    assert (finding.severity, finding.what, finding.count) == ("warning", "missing block", 58)


def test_other_shapes_and_more_tensors_are_noted() -> None:
    metas = load("sd15")
    key = "model.diffusion_model.input_blocks.0.0.weight"
    metas[key] = TensorMeta(key, "F16", (320, 9, 3, 3))
    metas["model.diffusion_model.extra.weight"] = TensorMeta("model.diffusion_model.extra.weight", "F16", (4,))
    assert {(one.severity, one.what) for one in missing(metas)} == {("note", "another shape"), ("note", "more tensors")}


def test_of_an_unknown_architecture_a_gap_and_an_odd_module_are_found() -> None:
    metas = {key: TensorMeta(key, "F32", tuple(value.shape)) for key, value in network().items()}
    gap = {key: meta for key, meta in metas.items() if not key.startswith("blocks.5.")}
    assert [one.detail for one in missing(gap) if one.what == "missing block"] == [
        "blocks.{5}: of the numbers 0 to 7 these are not there"
    ]
    odd = {key: meta for key, meta in metas.items() if key != "blocks.2.mlp.fc.bias"}
    assert [one.key for one in missing(odd) if one.what == "missing"] == ["blocks.2.mlp.fc.bias"]
