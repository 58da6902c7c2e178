"""The kernels against plain torch over whole tensors."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core.kernels import tree_sum
from daremerge_core.rng import accelerated
from daremerge_reports.kernels import count_selected, examine, numbers, pooled, spots, statistics
from daremerge_reports.statistics import Statistics

SPECIAL = [0.0, -0.0, 1e-40, -3e-8, 65504.0, 7e4, -1e38, math.inf, -math.inf, math.nan]


def blocks(tensor: Tensor, size: int) -> Iterator[tuple[Tensor, ...]]:
    return ((block,) for block in tensor.reshape(-1).split(size))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A matrix of ordinary numbers, some of them replaced by zeros and awkward ones."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(rows, columns, generator=generator)
    values[torch.rand(rows, generator=generator) < draw(st.sampled_from([0.0, 0.4]))] = 0.0
    for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=5)):
        values[draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))] = value
    return values.to(draw(st.sampled_from([torch.float32, torch.float64])))


@given(tensors(), st.integers(1, 20))
def test_statistics_are_those_of_the_whole(values: Tensor, size: int) -> None:
    found = statistics(blocks(values, size))
    finite = values[values.isfinite()].double()
    assert found.count == values.numel()
    assert found.nans == int(values.isnan().sum())
    assert found.infinities == int(values.isinf().sum())
    assert found.zeros == int((values == 0).sum())
    assert found.finite == finite.numel()
    if not finite.numel():
        assert found.mean is found.std is found.rms is found.largest is found.least is found.most is None
        return
    assert (found.least, found.most) == (float(finite.min()), float(finite.max()))
    assert found.largest == float(finite.abs().max())
    assert found.norm == pytest.approx(float(finite.norm()), rel=1e-12)
    scale = float(finite.abs().max()) or 1.0
    assert found.mean == pytest.approx(float(finite.mean()), abs=1e-12 * scale)
    assert found.std == pytest.approx(float(finite.std(correction=0)), abs=1e-7 * scale)


@given(tensors(), st.integers(1, 20), st.booleans())
def test_faults_are_those_of_the_whole(values: Tensor, size: int, wide: bool) -> None:
    found = examine(blocks(values, size), values.shape[1], wide=wide)
    assert found.dead_rows == int((values == 0).all(dim=1).sum())
    assert found.statistics == statistics(blocks(values, size))
    half = values.double().half()
    if values.dtype == torch.float32:  # of float64 torch rounds twice, which moves the border
        lost = ((half == 0) & (values != 0)).sum()
        assert found.under == (int(lost) if wide else 0)
    over = values.isfinite() & (values.abs() > 65504)
    assert found.over == (int(over.sum()) if wide else 0)


@pytest.mark.skipif(not accelerated(), reason="needs numba")
@given(st.integers(1, 300), st.integers(0, 2**31))
def test_sums_by_numba_are_those_of_the_tree(count: int, seed: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 1e3
    found = statistics(blocks(values, count))
    assert found.total == float(tree_sum(values))
    assert found.squares == float(tree_sum(values.double() ** 2))
    with mock.patch.dict(os.environ, {"DAREMERGE_FAST": "0"}):
        assert statistics(blocks(values, count)) == found


@settings(max_examples=20)  # its histograms have 65536 counts
@given(tensors(), st.integers(1, 20))
def test_ranks_are_those_of_sorting(values: Tensor, size: int) -> None:
    finite = values.float()[values.float().isfinite()]
    ranks = sorted({0, finite.numel() // 2, finite.numel() - 1}) if finite.numel() else []
    found = numbers(blocks(values, size), spots(blocks(values, size), ranks))
    assert found == finite.sort().values[ranks].tolist() if ranks else found == []


@given(tensors(), st.integers(1, 20), st.integers(1, 4), st.integers(1, 4))
def test_cells_are_those_of_the_matrix(values: Tensor, size: int, high: int, wide: int) -> None:
    rows, columns = values.shape
    grid = pooled(blocks(values, size), (rows, columns), (high, wide))
    for i in range(grid.mean.shape[0]):
        for j in range(grid.mean.shape[1]):
            cell = values[i * high : (i + 1) * high, j * wide : (j + 1) * wide].double()
            finite = cell[cell.isfinite()]
            assert bool(grid.broken[i, j]) == (finite.numel() < cell.numel())
            if finite.numel():
                assert float(grid.mean[i, j]) == pytest.approx(float(finite.mean()), rel=1e-9, abs=1e-30)
                assert abs(float(grid.extreme[i, j])) == float(finite.abs().max())
                assert float(grid.extreme[i, j]) in finite.tolist()
            else:
                assert grid.mean[i, j].isnan()
                assert grid.extreme[i, j].isnan()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_nothing_has_no_cells(shape: tuple[int, int]) -> None:
    grid = pooled(blocks(torch.empty(shape), 8), shape, (1, 1))
    assert grid.mean.shape == shape


@given(st.lists(st.booleans(), max_size=50), st.integers(1, 20))
def test_selected_elements_are_counted(mask: list[bool], size: int) -> None:
    assert count_selected(blocks(torch.tensor(mask, dtype=torch.bool), size)) == sum(mask)


def test_the_statistics_of_nothing() -> None:
    nothing = Statistics()
    assert nothing.mean is nothing.std is nothing.largest is None
    assert nothing.norm == 0.0
    assert nothing + nothing == nothing
