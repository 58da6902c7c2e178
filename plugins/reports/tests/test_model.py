"""The model report: any shape and dtype, scalings, selectors, and what a picture says of itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from daremerge_core import MemoryModel, Report
from daremerge_core.errors import SelectorError
from daremerge_core.rendering.pictures import draw, to_png
from daremerge_core.testing import report_of, tiny_model
from daremerge_reports.layers import DRAWN, as_matrix
from daremerge_reports.model import ModelReport

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]
SHAPES = [(), (1,), (7,), (1280,), (0, 4), (4, 0), (5, 1), (1, 5), (12, 10), (4, 3, 2), (4, 6, 3, 3), (2, 1, 1, 1, 3)]


def look(tensors: dict[str, Tensor], **options: Any) -> Report:
    return report_of(ModelReport(model=MemoryModel(tensors), **options))


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_dtype_is_drawn(dtype: torch.dtype) -> None:
    values = (numbers(6, 8) * 2).to(dtype)
    report = look({"w": values}, layer="w")
    wide = values.double()
    (row,) = report.rows
    assert row["min"] == float(wide.min())
    assert row["max"] == float(wide.max())
    assert row["mean"] == pytest.approx(float(wide.mean()))
    assert row["zeros"] == int((wide == 0).sum())
    for figure in report.figures.values():
        figure()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_is_drawn(shape: tuple[int, ...]) -> None:
    report = look({"w": numbers(*shape)}, layer="w", scaling="std")
    assert to_png(report, "dark")


@pytest.mark.parametrize(
    ("scaling", "divisor"),
    [
        ("none", lambda w: 1.0),
        ("mean", Tensor.mean),
        ("max", Tensor.max),
        ("min", Tensor.min),
        ("std", lambda w: w.std(correction=0)),
    ],
)
def test_a_scaling_divides(scaling: str, divisor: Any) -> None:
    values = numbers(6, 8) + 0.3
    report = look({"w": values}, layer="w", scaling=scaling)
    shown = picture(report)
    torch.testing.assert_close(shown, (values / divisor(values)).double(), rtol=1e-5, atol=1e-6)


def test_the_logarithm_is_of_the_magnitude() -> None:
    values = torch.tensor([[10.0, -100.0], [0.0, 1.0]])
    shown = picture(look({"w": values}, layer="w", scaling="log"))
    assert shown[:1].tolist() == [[1.0, 2.0]]
    assert shown[1, 0].isnan()
    assert shown[1, 1] == 0.0


def picture(report: Report) -> Tensor:
    """What the first image of the first figure shows."""
    (figure, *_) = report.figures.values()
    image = figure().axes[0].images[0].get_array()
    return torch.tensor(image.filled(math.nan))


def test_what_nothing_can_be_divided_by_is_said() -> None:
    report = look({"w": torch.zeros(3, 4)}, layer="w", scaling="mean")
    (caption,) = report.figures
    assert "not scaled, as there is no mean but 0" in caption


def test_a_large_layer_is_reduced_and_says_how() -> None:
    values = numbers(1300, 700) / 1000
    values[1299, 699] = -5.0
    report = look({"w": values}, layer="w")
    (caption,) = report.figures
    assert "each cell is the weight of greatest magnitude of 3 × 2" in caption
    shown = picture(report)
    assert shown.shape == (434, 350)
    assert shown[-1, -1] == -5.0, "an outlier must not hide in a cell"
    mean = picture(look({"w": values}, layer="w", pool="mean"))
    assert mean[0, 0] == pytest.approx(float(values[:3, :2].double().mean()))


def test_nan_and_infinity_are_counted_and_coloured() -> None:
    values = numbers(4, 4)
    values[1, 2], values[3, 3] = math.nan, -math.inf
    report = look({"w": values}, layer="w")
    (row,) = report.rows
    assert row["not finite"] == 2
    assert "1 of them (6.25 %) NaN" in report.text
    assert "1 of them (6.25 %) infinite" in report.text
    (figure,) = report.figures.values()
    marked = torch.tensor(figure().axes[0].images[1].get_array().filled(0.0))
    assert marked.nonzero().tolist() == [[1, 2], [3, 3]]


def test_quantiles_are_elements() -> None:
    values = numbers(1001)
    report = look({"w": values}, layer="w")
    found = report.data["quantiles"]["w"]
    ordered = values.sort().values
    assert found["0.5"] == float(ordered[500])
    assert found["0.25"] == float(ordered[250])


def test_a_layer_is_a_name_first_and_a_selector_then() -> None:
    model = tiny_model(1)
    names = list(model.keys())
    assert len(report_of(ModelReport(model=model, layer=names[0])).rows) == 1
    assert len(report_of(ModelReport(model=model, layer="attn1")).rows) == 2
    assert len(look({"a.b": numbers(3), "b": numbers(3)}, layer="b").rows) == 1


def test_of_many_layers_the_first_are_drawn() -> None:
    report = look({f"blocks.{i}.w": numbers(3, 3) for i in range(9)}, layer="*")
    assert len(report.rows) == 9
    assert len(report.figures) == DRAWN
    assert f"The first {DRAWN} are drawn" in report.text


def test_an_unknown_layer_names_near_ones() -> None:
    with pytest.raises(SelectorError, match=r"layer: 'blocks.0.wieght' matches none") as caught:
        look({"blocks.0.weight": numbers(2), "blocks.1.weight": numbers(2)}, layer="blocks.0.wieght")
    assert "blocks.0.weight" in str(caught.value.hint)


def test_a_name_is_not_mathematics() -> None:
    report = look({"a$\\frac$b.0.w": numbers(3), "c$x_{$.0.w": numbers(3)}, layer="*")
    assert to_png(report, "light")
    for figure in look({"a$\\frac$b.0.w": numbers(3)}).figures.values():
        assert draw(figure, "light")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1)), ((7,), (1, 7)), ((64,), (4, 16)), ((1280,), (20, 64)), ((0,), (0, 0)), ((4, 6, 3, 3), (4, 54))],
)
def test_vectors_are_folded_and_convolutions_flattened(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    assert as_matrix(shape) == expected


def test_the_overview_adds_up() -> None:
    model = tiny_model(1)
    report = report_of(ModelReport(model=model))
    floats = [model.read(key).double() for key in model.keys() if model.meta(key).dtype == "F32"]
    everything = torch.cat([one.reshape(-1) for one in floats])
    assert report.data["std"] == pytest.approx(float(everything.std(correction=0)))
    assert report.data["norm"] == pytest.approx(float(everything.norm()))
    assert sum(row["parameters"] for row in report.rows) == sum(model.meta(key).numel for key in model.keys())
    assert report.data["max"] == float(everything.max())
