"""The change of a weight: each family's formula, its rows, and DoRA's magnitudes."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daremerge_lora import kernels


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestRows:
    """Rows are those of the formula, and the same bits whichever are asked for."""

    @pytest.mark.parametrize(("out", "width", "rank"), [(7, 5, 3), (300, 1000, 4), (2, 70_000, 2), (1, 1, 1)])
    def test_a_product_is_the_product(self, out: int, width: int, rank: int) -> None:
        up, down = randn(out, rank), randn(rank, width, seed=1)
        expected = up.double() @ down.double()
        torch.testing.assert_close(kernels.product_rows(up, down, 0, out).double(), expected, rtol=1e-5, atol=1e-5)

    @given(cuts=st.tuples(st.integers(0, 400), st.integers(0, 400)).map(sorted))
    @settings(max_examples=20)
    def test_a_cut_has_the_bits_of_the_whole(self, cuts: list[int]) -> None:
        """At this width a tile is 65 rows, and the last one is of 10."""
        start, stop = cuts[0], cuts[1] + 1
        up, down = randn(401, 16), randn(16, 1000, seed=1)
        rows = kernels.product_rows(up, down, start, stop)
        assert torch.equal(rows, kernels.product_rows(up, down, 0, 401)[start:stop])

    def test_of_a_hadamard_product_too(self) -> None:
        first, second = ((randn(201, 3, seed=s), randn(3, 1000, seed=s + 1)) for s in (0, 2))
        whole = kernels.hadamard_rows(first, second, 0, 201)
        torch.testing.assert_close(whole, (first[0] @ first[1]) * (second[0] @ second[1]))
        for start, stop in ((0, 1), (64, 66), (65, 130), (3, 201), (200, 201)):
            assert torch.equal(kernels.hadamard_rows(first, second, start, stop), whole[start:stop])

    @given(sizes=st.tuples(*[st.integers(1, 6)] * 4), cut=st.tuples(st.integers(0, 35), st.integers(0, 35)).map(sorted))
    def test_a_kronecker_product_is_torchs(self, sizes: tuple[int, int, int, int], cut: list[int]) -> None:
        p, m, q, n = sizes
        first, second = randn(p, m), randn(q, n, seed=1)
        start, stop = (min(one, p * q) for one in cut)
        assert torch.equal(kernels.kronecker_rows(first, second, start, stop), torch.kron(first, second)[start:stop])

    def test_a_core_folded_in_is_the_tucker_decomposition(self) -> None:
        up, down, core = randn(6, 3), randn(3, 5, seed=1), randn(3, 3, 2, 4, seed=2)
        expected = torch.einsum("om,mnkl,ni->oikl", up, core, down).reshape(6, -1)
        torch.testing.assert_close(kernels.product_rows(up, kernels.fold_core(core, down), 0, 6), expected)


class TestDecompose:
    def test_the_result_has_the_magnitudes(self) -> None:
        """By its definition, the norm of each row, or input channel, of the result is the magnitude."""
        weight, delta = randn(6, 4, 3, 3), 0.1 * randn(6, 4, 3, 3, seed=1)
        for axis, count, others in ((0, 6, (1, 2, 3)), (1, 4, (0, 2, 3))):
            magnitude = randn(count, seed=2).abs() + 0.5
            norm = partial(torch.linalg.vector_norm, dim=others)
            result = kernels.decompose(weight, delta, magnitude, per_row=axis == 0)
            torch.testing.assert_close(norm(result), magnitude, rtol=1e-5, atol=0)
            moved = weight + delta
            angle = (result * moved).sum(others) / (norm(result) * norm(moved))
            torch.testing.assert_close(angle, torch.ones(count))

    def test_zeros_stay_zeros(self) -> None:
        zeros = torch.zeros(3, 4)
        result = kernels.decompose(zeros, zeros, torch.ones(3), per_row=True)
        assert torch.equal(result, zeros)
        assert math.isfinite(float(result.sum()))
