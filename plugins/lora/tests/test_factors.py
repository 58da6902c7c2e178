"""Decompositions: exact, of sums of products, randomised; ranks by energy, and what is lost."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daremerge_lora.factors import kernels


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def falling(out: int, width: int, power: float, seed: int = 0) -> torch.Tensor:
    """A change whose i-th singular value is i^−power."""
    left = torch.linalg.qr(randn(out, min(out, width), seed=seed).double()).Q
    right = torch.linalg.qr(randn(width, min(out, width), seed=seed + 1).double()).Q
    values = torch.arange(1, min(out, width) + 1, dtype=torch.float64) ** -power
    return (left * values @ right.T).float()


def error(delta: torch.Tensor, svd: kernels.Svd) -> float:
    up, down = kernels.split(svd)
    return float((delta.double() - up.double() @ down.double()).norm())


SIZES = [(40, 70), (70, 40), (33, 33)]


class TestExact:
    @pytest.mark.parametrize(("out", "width"), SIZES)
    @pytest.mark.parametrize("rank", [1, 5, 33])
    def test_the_squared_error_is_that_of_the_dropped_singular_values(self, out: int, width: int, rank: int) -> None:
        delta = falling(out, width, 1.0)
        values = torch.linalg.svdvals(delta.double())
        predicted = float(values[rank:].square().sum().sqrt())
        assert error(delta, kernels.exact_svd(delta, rank)) == pytest.approx(predicted, rel=1e-9, abs=1e-12)

    @pytest.mark.parametrize(("out", "width"), SIZES)
    def test_its_terms_are_lapacks_with_the_sign_fixed(self, out: int, width: int) -> None:
        delta = falling(out, width, 1.0)
        left, values, right = torch.linalg.svd(delta.double(), full_matrices=False)
        found = kernels.exact_svd(delta, 20)
        torch.testing.assert_close(found.values, values[:20])
        torch.testing.assert_close(kernels.singular_values(delta), values)
        sign = (found.left * left[:, :20]).sum(0).sign()
        torch.testing.assert_close(found.left, left[:, :20] * sign)
        torch.testing.assert_close(found.right, right[:20] * sign[:, None])
        assert bool((found.left.gather(0, found.left.abs().argmax(0, keepdim=True)) > 0).all())

    def test_small_values_keep_the_stated_accuracy(self) -> None:
        """A relative error of 10⁻¹⁶ (s₁ / sᵢ)², give or take two powers of ten."""
        delta = falling(60, 60, 4.0).double()
        values, true = kernels.singular_values(delta), torch.linalg.svdvals(delta)
        relative = (values / true - 1).abs()
        assert bool((relative < 1e-14 * (true[0] / true).square()).all())

    def test_zeros_have_factors_of_zeros(self) -> None:
        up, down = kernels.split(kernels.exact_svd(torch.zeros(4, 6), 2))
        assert not up.any()
        assert not down.any()
        assert (up.shape, down.shape) == ((4, 2), (2, 6))


class TestOfProducts:
    @given(ranks=st.lists(st.integers(1, 12), min_size=1, max_size=4), seed=st.integers(0, 99))
    @settings(max_examples=20)
    def test_is_that_of_the_dense_sum(self, ranks: list[int], seed: int) -> None:
        products = [
            (0.5 - index, randn(17, r, seed=seed + index), randn(r, 23, seed=seed - index - 1))
            for index, r in enumerate(ranks)
        ]
        dense = sum(c * up.double() @ down.double() for c, up, down in products)
        found = kernels.product_svd(products)
        assert len(found.values) == min(sum(ranks), 17)
        torch.testing.assert_close(found.left * found.values @ found.right, dense, rtol=1e-9, atol=1e-9)
        true = torch.linalg.svdvals(dense)[: len(found.values)]
        torch.testing.assert_close(found.values, true, rtol=1e-9, atol=1e-9)


class TestRandomised:
    @pytest.mark.parametrize(("out", "width"), [(120, 200), (200, 120)])
    def test_its_error_is_near_the_best_and_known(self, out: int, width: int) -> None:
        delta = falling(out, width, 0.7)
        best = error(delta, kernels.exact_svd(delta, 16))
        for power, worse in ((0, math.sqrt(1 + 16 / 9)), (1, 1.05), (2, 1.01)):
            found = kernels.randomised_svd(delta, 16, randn(width, 26, seed=5), power_iterations=power)
            lost = float(delta.double().square().sum() - found.values.square().sum())
            assert error(delta, found) == pytest.approx(math.sqrt(lost), rel=1e-4)
            assert best <= error(delta, found) * (1 + 1e-6)
            assert error(delta, found) <= best * worse

    def test_of_a_change_of_that_rank_is_exact(self) -> None:
        delta = randn(50, 5) @ randn(5, 60, seed=1)
        found = kernels.randomised_svd(delta, 8, randn(60, 16, seed=2), power_iterations=1)
        assert error(delta, found) < 1e-5 * float(delta.norm())


class TestRankForEnergy:
    def test_by_hand(self) -> None:
        values = torch.tensor([3.0, 2.0, 1.0])  # squares 9, 4, 1 of 14
        ranks = [kernels.rank_for_energy(values, energy) for energy in (0.0, 0.64, 0.65, 0.92, 0.93, 1.0)]
        assert ranks == [1, 1, 2, 2, 3, 3]

    @given(st.lists(st.floats(0, 1e3), min_size=1, max_size=30), st.floats(0, 1))
    def test_is_the_smallest_that_keeps_it(self, values: list[float], energy: float) -> None:
        falling = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
        rank = kernels.rank_for_energy(falling, energy)
        squares = [float(one) ** 2 for one in falling]
        total = math.fsum(squares)
        slack = 1e-9 * total
        assert math.fsum(squares[:rank]) >= energy * total - slack
        assert rank == 1 or math.fsum(squares[: rank - 1]) <= energy * total + slack

    def test_of_some_of_the_values_counts_the_others_by_their_total(self) -> None:
        values = torch.tensor([3.0, 2.0])
        assert kernels.rank_for_energy(values, 0.9, total=14.0) == 2
        assert kernels.rank_for_energy(values, 0.99, total=14.0) == 2, "all there are, where even that is too little"
        assert kernels.rank_for_energy(values, 0.6, total=14.0) == 1


class TestClamp:
    @given(st.floats(0.01, 1.0), st.integers(0, 50))
    def test_at_most_the_rest_is_cut(self, quantile: float, seed: int) -> None:
        up, down = randn(9, 4, seed=seed), randn(4, 11, seed=seed + 1)
        small_up, small_down = kernels.clamp(up, down, quantile)
        before, after = (torch.cat([a.reshape(-1), b.reshape(-1)]) for a, b in ((up, down), (small_up, small_down)))
        assert torch.equal(after, before.clamp(-float(after.abs().max()), float(after.abs().max())))
        assert int((before != after).sum()) == len(before) - math.ceil(quantile * len(before))

    def test_at_1_nothing_is(self) -> None:
        up, down = randn(9, 4), randn(4, 11)
        assert kernels.clamp(up, down, 1.0) == (up, down)
