"""``report.lora``: tags, sizes by block, details; norms against the changes themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from daremerge_core import MemoryModel
from daremerge_core.testing import ReporterTests, report_of
from daremerge_core.testing.layouts import HeaderModel, load
from daremerge_lora.deltas import read_change
from daremerge_lora.formats import open_lora, tensor_name
from daremerge_lora.report import LoraReport
from daremerge_lora.targets import module_names

TAGS = json.dumps({"3_art": {"solo": 5, "1girl": 9}, "1_reg": {"solo": 6, "hat": 1}})


def lora(rank: int = 2, metadata: dict[str, str] | None = None) -> MemoryModel:
    """A LoRA of SD 1.5's attention, in kohya's names."""
    model = HeaderModel(load("sd15"))
    generator = torch.Generator().manual_seed(rank)
    tensors: dict[str, Any] = {}
    for name, target in module_names(model, "kohya"):
        if "attn1_to_q" not in name and "self_attn_k" not in name:
            continue
        out, width = model.meta(target.key).shape
        tensors[tensor_name("kohya", name, "down")] = torch.randn(rank, width, generator=generator).half()
        tensors[tensor_name("kohya", name, "up")] = torch.randn(out, rank, generator=generator).half()
        tensors[tensor_name("kohya", name, "alpha")] = torch.tensor(float(rank) / 2)
    return MemoryModel(tensors, {"ss_tag_frequency": TAGS} if metadata is None else metadata)


class TestLoraReport(ReporterTests):
    component = LoraReport
    cases = ({"show": "details"}, {"show": "tags", "limit": 2})

    def port_values(self) -> dict[str, Any]:
        return {"lora_file": lora()}


def report(model: MemoryModel, **options: Any) -> Any:
    return report_of(LoraReport(lora=model, **options))


def test_norms_are_those_of_the_changes() -> None:
    model = lora()
    file = open_lora(model)
    for row in report(model, show="details").rows:
        change = read_change(file, file.modules[row["module"]]).dense().double()
        assert row["norm"] == pytest.approx(float(change.norm()), rel=1e-5)


def test_blocks_add_up_to_their_modules() -> None:
    details = report(lora(), show="details").rows
    blocks = report(lora()).rows
    assert sum(row["modules"] for row in blocks) == len(details)
    assert sum(row["parameters"] for row in blocks) == sum(row["parameters"] for row in details)
    assert sum(row["norm"] ** 2 for row in blocks) == pytest.approx(sum(row["norm"] ** 2 for row in details))
    assert [row["block"] for row in blocks][:2] == ["clip_l.layers.0", "clip_l.layers.1"]
    assert "input_blocks.1" in [row["block"] for row in blocks]


def test_tags_are_limited_and_counted_over_all_datasets() -> None:
    found = report(lora(), show="tags", limit=2)
    assert found.rows == [{"tag": "solo", "count": 11}, {"tag": "1girl", "count": 9}]
    assert "Tags: solo, 1girl and 1 more." in found.text
    assert [one["tag"] for one in found.data["tags"]] == ["solo", "1girl", "hat"]


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 3}', '{"a": {"tag": -1}}', ""])
def test_tags_that_cannot_be_read_are_none_and_a_reason(text: str) -> None:
    found = report(lora(metadata={"ss_tag_frequency": text} if text else {}), show="tags")
    assert found.rows == []
    assert "Tags: none, since " in found.text
    assert found.data["tags_reason"]


def test_a_file_that_is_no_lora_says_so() -> None:
    found = report(MemoryModel({"w": torch.zeros(2, 2)}, {}))
    assert "There is nothing in it." in found.text
    assert "1 tensors belong to no module" in found.text
    assert found.figures == {}
