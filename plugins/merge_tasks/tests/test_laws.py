"""Laws of merging task vectors: what must hold for any of them, by hypothesis, and the edges that papers leave out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from daremerge_core import MemoryModel, view
from daremerge_core.rng import accelerated
from daremerge_merge_tasks import agreement, averages, kernels, presets, sphere

from .models import KEY, deltas, merged, together

NUMBERS = st.floats(-8, 8, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-40, float("inf"), float("nan")])


@st.composite
def values(draw: st.DrawFn, most: int = 4) -> list[Tensor]:
    size = draw(st.integers(0, 20))
    array = arrays.arrays(np.float32, size, elements=NUMBERS)
    return [torch.from_numpy(draw(array)) for _ in range(draw(st.integers(1, most)))]


class TestElection:
    @pytest.mark.skipif(not accelerated(), reason="numba is off, or not installed")
    @given(found=values(), data=st.data())
    @settings(max_examples=150)
    def test_compiled_gives_the_bits_of_torch(self, found: list[Tensor], data: st.DataObject) -> None:
        number = st.floats(-2, 2, width=32)
        weights = data.draw(st.lists(number, min_size=len(found), max_size=len(found)))
        shares = data.draw(st.none() | st.just([abs(weight) for weight in weights]))
        results = []
        for fast in ("0", "1"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DAREMERGE_FAST", fast)
                results.append(kernels.elected_mean(found, weights, shares))
        one, other = (result.view(torch.int32) & 0x7FFFFFFF for result in results)  # but for the sign of zero
        assert torch.equal(torch.where(results[0].isnan(), 0, one), torch.where(results[1].isnan(), 0, other))

    @given(found=values())
    def test_the_result_lies_between_the_smallest_and_the_largest_or_is_zero(self, found: list[Tensor]) -> None:
        found = [one.nan_to_num(0.0, 1.0, -1.0) for one in found]
        result = kernels.elected_mean(found, [1.0] * len(found), [1.0] * len(found))
        stack = torch.stack([*found, torch.zeros_like(found[0])])
        assert bool((result <= stack.amax(0) + 1e-5).all())
        assert bool((result >= stack.amin(0) - 1e-5).all())

    def test_what_cancels_out_stays_the_bases(self) -> None:
        for elect in ("mass", "count"):
            tau = torch.tensor([2.0, -3.0, 0.0])
            assert not merged(presets.Ties, [tau, -tau], density=1.0, elect=elect).any()

    def test_a_tied_count_goes_to_the_larger_mass(self) -> None:
        taus = [torch.tensor([2.0, -2.0]), torch.tensor([-3.0, 3.0])]
        assert merged(presets.Ties, taus, density=1.0, elect="count").tolist() == [-3.0, 3.0]

    def test_one_model_alone_is_only_trimmed(self) -> None:
        (tau,) = deltas(1, 30)
        found = merged(presets.Ties, [tau], density=0.2)
        assert int((found != 0).sum()) == 6
        assert torch.equal(found[found != 0], tau[found != 0])
        assert float(found[found != 0].abs().min()) >= float(tau[found == 0].abs().max())


class TestTaskArithmetic:
    @given(count=st.integers(1, 4), weight=st.floats(-2, 2, width=32), scale=st.floats(-2, 2, width=32))
    @settings(max_examples=40)
    def test_is_linear(self, count: int, weight: float, scale: float) -> None:
        taus = deltas(count, 6, 5)
        found = merged(presets.TaskArithmetic, taus, weights=weight, **{"lambda": scale})
        torch.testing.assert_close(found, scale * weight * sum(taus), rtol=1e-4, atol=1e-5)

    def test_one_model_is_that_model(self) -> None:
        base, tau = deltas(2, 50)
        assert torch.allclose(merged(presets.TaskArithmetic, [tau], base=base), (base + tau) - base, atol=1e-6)

    def test_order_does_not_matter_but_for_rounding(self) -> None:
        taus = deltas(4, 100)
        for component in (presets.TaskArithmetic, presets.Ties, agreement.Consensus):
            one, other = merged(component, taus), merged(component, taus[::-1])
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        "component", [presets.DareLinear, presets.DareTies, presets.Ties, presets.BreadcrumbsMerge, presets.DellaMerge]
    )
    def test_density_0_is_the_base(self, component: Any) -> None:
        base, *taus = deltas(3, 9, 8)
        assert not merged(component, taus, base=base, density=0.0).any()

    @pytest.mark.parametrize("component", [presets.DareLinear, presets.DellaLinear, presets.BreadcrumbsMerge])
    def test_density_1_is_task_arithmetic(self, component: Any) -> None:
        taus = deltas(3, 9, 8)
        assert torch.equal(merged(component, taus, density=1.0), merged(presets.TaskArithmetic, taus))

    def test_a_gradient_weighs_a_model_by_layer(self) -> None:
        class Half:
            def keys(self) -> list[str]:
                return [KEY]

            def ratio(self, key: str) -> float | None:
                return 0.25

        class Nothing(Half):
            def ratio(self, key: str) -> float | None:
                return None

        taus = deltas(2, 12)
        found = merged(presets.TaskArithmetic, taus, gradients=[Half(), Nothing()])
        torch.testing.assert_close(found, taus[0] * 0.75)
        one = merged(presets.Ties, taus, over="tensor", density=1.0, density_gradients=[Half(), Nothing()])
        assert int((one - taus[1] == 0).sum()) >= 6  # where the first model's three largest do not win

    def test_numbers_must_fit_the_models(self) -> None:
        for options, word in (({"weights": [1, 2, 3]}, "weights: 3 for 2"), ({"density": [1, 1, 1]}, "density: 3 for")):
            with pytest.raises(ValueError, match=word):
                presets.Ties(models=["a", "b"], base="c", **options)
        with pytest.raises(ValueError, match="thresholds by tensor"):
            presets.Ties(models=["a"], base="c", density_gradients=["g"])
        with pytest.raises(ValueError, match="less than or equal to 1"):
            presets.Ties(models=["a"], base="c", density=1.5)


class TestWholeModelThreshold:
    def test_one_threshold_over_all_tensors(self) -> None:
        generator = torch.Generator().manual_seed(0)
        tensors = {f"t{i}": torch.randn(40 * (i + 1), generator=generator) * (i + 1) for i in range(4)}
        base = MemoryModel({key: torch.zeros_like(tensor) for key, tensor in tensors.items()})
        for over in ("model", "tensor"):
            found: Any = view(presets.Ties(models=[MemoryModel(dict(tensors))], base=base, over=over, density=0.25))
            kept = {key: int((found.read(key) != 0).sum()) for key in tensors}
            everything = torch.cat(list(tensors.values())).abs()
            threshold = everything.sort(descending=True).values[99]
            wanted = {key: int((t.abs() >= threshold).sum()) for key, t in tensors.items()}
            assert sum(kept.values()) == 100
            assert kept == (wanted if over == "model" else {key: t.numel() // 4 for key, t in tensors.items()})


class TestStatistics:
    """Over many elements, in units of the standard error: 5 is one failure in two million."""

    N = 200_000

    @pytest.mark.parametrize(
        ("component", "options"),
        [
            (presets.DareLinear, {"density": 0.1}),
            (presets.DellaLinear, {"density": 0.3, "epsilon": 0.4}),
            (presets.DellaLinear, {"density": 0.5, "epsilon": 0.0}),
        ],
    )
    def test_dropping_is_unbiased(self, component: Any, options: Any) -> None:
        tau = deltas(1, self.N // 100, 100)[0] + 1.0
        errors = merged(component, [tau], **options) - tau
        assert abs(float(errors.mean())) < 5 * float(errors.std()) / self.N**0.5

    def test_della_keeps_large_changes_more_often(self) -> None:
        tau = deltas(1, self.N // 100, 100)[0]
        kept = (merged(presets.DellaLinear, [tau], density=0.5, epsilon=0.4) != 0).double()
        ranks = tau.abs().argsort(dim=1).argsort(dim=1).double()
        for rank, wanted in ((0, 0.3), (99, 0.7), (49.5, 0.5)):
            share = kept[(ranks - rank).abs() <= 0.5].mean()
            assert abs(float(share) - wanted) < 0.06

    def test_models_have_masks_of_their_own(self) -> None:
        ones = torch.ones(self.N)
        found = merged(presets.DareLinear, [ones, ones], density=0.5, rescale=False)
        shares = [float((found == count).double().mean()) for count in (0, 1, 2)]
        for share, wanted in zip(shares, (0.25, 0.5, 0.25), strict=True):
            assert abs(share - wanted) < 5 * (wanted * (1 - wanted) / self.N) ** 0.5

    def test_a_report_knows_what_to_expect(self) -> None:
        def expected(component: Any, **options: Any) -> float | None:
            return component(models=["a", "b"], base="c", **options).kept_at_random()

        assert expected(presets.DareTies, density=0.3) == pytest.approx(0.3)
        assert expected(presets.DellaLinear, density=0.3) == 0.3
        assert expected(presets.DareTies, density=[0.3, 0.4]) is None
        assert expected(presets.DareTies, trim=0.5) is None
        assert expected(presets.Ties) is None
        assert expected(presets.DareLinear, density=1.0) is None

    def test_the_papers_code_trims_once_more(self) -> None:
        taus = deltas(2, self.N)
        found = merged(presets.DareTies, taus, density=0.5, trim=0.2)
        both = merged(presets.DareTies, taus, density=0.5)
        assert float((found != 0).double().mean()) < 0.4
        assert float((both != 0).double().mean()) > 0.7


class TestAverages:
    def test_linear_is_the_mean(self) -> None:
        tensors = deltas(4, 30)
        torch.testing.assert_close(together(averages.Linear, tensors), torch.stack(tensors).mean(0))
        with pytest.raises(ValueError, match="negative"):
            averages.Linear(models=["a", "b"], weights=[1.0, -1.0])
        with pytest.raises(ValueError, match="all weights are 0"):
            averages.Linear(models=["a", "b"], weights=0.0)

    @given(st.integers(0, 1000), st.floats(0.05, 0.95))
    @settings(max_examples=30)
    def test_karcher_of_two_is_slerp(self, seed: int, t: float) -> None:
        a, b = (one / one.norm() for one in deltas(2, 40, seed=seed))
        found = together(averages.Karcher, [a, b], weights=[1 - t, t], iterations=50, tolerance=1e-9)
        first, second = sphere.slerp_factors(1.0, 1.0, float(a @ b), t)
        torch.testing.assert_close(found, a * first + b * second, rtol=1e-3, atol=1e-4)

    def test_karcher_of_equal_models_is_that_model(self) -> None:
        (a,) = deltas(1, 40)
        torch.testing.assert_close(together(averages.Karcher, [a, a, a]), a)

    def test_vectors_of_no_length_have_no_direction(self) -> None:
        (a,) = deltas(1, 40)
        zero = torch.zeros_like(a)
        assert not together(averages.Karcher, [zero, zero]).any()
        torch.testing.assert_close(together(averages.Karcher, [a, zero]), a * 0.5)
        assert torch.isfinite(together(averages.MultiSlerp, [a, zero])).all()

    def test_opposite_models_have_no_mean_direction(self) -> None:
        (a,) = deltas(1, 40)
        torch.testing.assert_close(together(averages.MultiSlerp, [a, -a], weights=[0.5, 0.5]), torch.zeros_like(a))
        three = together(averages.MultiSlerp, [a, -a, torch.zeros_like(a)])
        assert torch.isfinite(three).all()

    def test_near_swap_moves_no_weight_further_than_the_distance(self) -> None:
        a, b = deltas(2, 100)
        moved = kernels.near(a, b, 0.5)
        close = (b - a).abs() <= 0.5
        assert torch.equal(moved[close], b[close])
        assert float((moved - a).abs().max()) <= 0.5 + 1e-6

    def test_model_stock_of_orthogonal_changes_is_the_base(self) -> None:
        one, other = torch.zeros(10), torch.zeros(10)
        one[0], other[1] = 1.0, 1.0
        assert not merged(agreement.ModelStock, [one, other]).any()
        torch.testing.assert_close(merged(agreement.ModelStock, [one, one]), one)
