"""The mask report against counting, and what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daremerge_core import Masker, MemoryModel, Report, view
from daremerge_core.stores import BitMask
from daremerge_core.testing import report_of, tiny_model
from daremerge_core.testing.conformance import ConstantMask, tiny_mask
from daremerge_core.testing.tiny import SHAPES
from daremerge_reports.mask import MaskReport


def look(mask: Any, **options: Any) -> Report:
    return report_of(MaskReport(mask=mask, **options))


class Positive(Masker):
    """What is greater than zero."""

    name = "positive"

    def mask(self, site: Any) -> Any:
        return site.model > 0


@given(st.integers(0, 1000))
def test_shares_are_those_of_counting(seed: int) -> None:
    mask = tiny_mask(seed)
    report = look(mask)
    tensors = {key: mask.read(key) for key in mask.keys()}
    assert report.data["selected"] == sum(int(tensor.sum()) for tensor in tensors.values())
    assert report.data["elements"] == sum(tensor.numel() for tensor in tensors.values())
    for key, found in report.data["tensors"].items():
        share = float(tensors[key].double().mean()) if tensors[key].numel() else None
        assert found["share"] == (None if share is None else pytest.approx(share))
    *blocks, whole = report.rows
    for column in ("tensors", "elements", "selected"):
        assert sum(row[column] for row in blocks) == whole[column]


def test_a_block_is_its_tensors() -> None:
    (row,) = [row for row in look(tiny_mask(3)).rows if row["block"] == "input_blocks.1"]
    tensors = [tiny_mask(3).read(key) for key in SHAPES if ".input_blocks.1." in key]
    selected, elements = sum(int(one.sum()) for one in tensors), sum(one.numel() for one in tensors)
    assert row == {
        "part": "unet",
        "block": "input_blocks.1",
        "tensors": len(tensors),
        "elements": elements,
        "selected": selected,
        "share %": 100 * selected / elements,
    }


def test_details_are_tensors_in_forward_order() -> None:
    rows = look(tiny_mask(), show="details").rows
    assert {row["tensor"] for row in rows} == set(SHAPES)
    blocks = [row["tensor"].split(".")[3] for row in rows if ".input_blocks." in row["tensor"]]
    assert blocks == ["1", "1", "1", "10"]


def test_a_computed_mask_is_computed() -> None:
    model = tiny_model(2)
    report = look(view(Positive(model=model)))
    assert report.data["selected"] == sum(int((model.read(key) > 0).sum()) for key in SHAPES)


@pytest.mark.parametrize(("selected", "words"), [(True, "100.00 % selected"), (False, "0.00 % selected")])
def test_all_and_nothing(selected: bool, words: str) -> None:
    assert words in look(ConstantMask(selected)).title


def test_rounding_never_says_all_or_nothing_wrongly() -> None:
    few = torch.zeros(1 << 20, dtype=torch.bool)
    few[7] = True
    assert "less than 0.01 %" in look(BitMask(MemoryModel({"w": few}))).title
    assert "more than 99.99 %" in look(BitMask(MemoryModel({"w": ~few}))).title


def test_a_mask_of_nothing_says_so() -> None:
    report = look(BitMask(MemoryModel({})))
    assert "selects nothing" in report.text
    assert not report.rows
    assert not report.figures
