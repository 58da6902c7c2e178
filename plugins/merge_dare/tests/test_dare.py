"""DARE: the paper's formula, its statistics, and the promises of ComfyUI-DareMerge kept or mended."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daremerge_core import MemoryModel, Span, view
from daremerge_core.rng import Stream
from daremerge_core.testing import MergeMethodTests, SparsifierTests
from daremerge_merge_dare import kernels
from daremerge_merge_dare.components import Dare, DareSparsifier

KEY = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
N = 40_000


def models(seed: int = 0, n: int = N, dtype: torch.dtype = torch.float32, **replaced: Any) -> dict[str, MemoryModel]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(n, generator=generator)
    tensors = {"base": base, "a": base + 0.01 * torch.randn(n, generator=generator)}
    tensors["b"] = base + 0.01 * torch.randn(n, generator=generator)
    tensors |= replaced
    return {name: MemoryModel({KEY: tensor.to(dtype)}, {}) for name, tensor in tensors.items()}


def merged(found: dict[str, MemoryModel], *, base: bool = False, **options: Any) -> torch.Tensor:
    ports = found if base else {name: found[name] for name in "ab"}
    return view(Dare(**ports, **options)).read(KEY)


def kept(seed: int, drop_rate: float, n: int = N, draw: int = 0) -> torch.Tensor:
    """The keep mask, straight from the random streams."""
    stream = Stream.derive(seed, "dare", "diffusion_model.input_blocks.1.0.in_layers.2.weight", draw=draw)
    return stream.keep(Span(0, n), 1.0 - drop_rate)


class TestConformance(MergeMethodTests):
    component = Dare
    cases = (
        {"drop_rate": 0.0, "base": None},
        {"drop_rate": 0.5},
        {"drop_rate": 0.9, "rescale": False, "seed": 7},
        {"drop_rate": 0.5, "ties": "sum"},
        {"drop_rate": 0.5, "ties": "count", "iterations": 3},
        {"drop_rate": 0.5, "ties": "sum", "blend": "slerp"},
        {"drop_rate": 1.0},
    )
    exact_ends = "a"


class TestSparsifierConformance(SparsifierTests):
    component = DareSparsifier
    cases = ({}, {"drop_rate": 0.0}, {"drop_rate": 1.0}, {"drop_rate": 0.5, "rescale": False})


class TestFormula:
    @pytest.mark.parametrize("base", [False, True])
    @pytest.mark.parametrize("rescale", [False, True])
    def test_is_the_papers(self, base: bool, rescale: bool) -> None:
        found = models()
        a, b = found["a"].read(KEY), found["b"].read(KEY)
        tau = b - (found["base"].read(KEY) if base else a)
        thinned = torch.where(kept(3, 0.75), tau / (0.25 if rescale else 1.0), torch.zeros(()))
        target = a + thinned
        result = merged(found, base=base, drop_rate=0.75, seed=3, rescale=rescale, ratio=0.25)
        torch.testing.assert_close(result, a + 0.75 * (target - a), rtol=0, atol=1e-6)

    def test_without_dropping_ratio_0_is_b_bit_for_bit_in_every_dtype(self) -> None:
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            found = models(dtype=dtype, a=torch.full((N,), 6e4))
            assert torch.equal(merged(found, drop_rate=0.0, ratio=0.0), found["b"].read(KEY))

    def test_without_dropping_over_a_base_ratio_0_is_a_plus_b_minus_base(self) -> None:
        found = models()
        a, b, base = (found[name].read(KEY) for name in ("a", "b", "base"))
        assert torch.equal(merged(found, base=True, drop_rate=0.0, ratio=0.0), a + (b - base))

    def test_dropping_everything_is_a(self) -> None:
        found = models()
        assert torch.equal(merged(found, base=True, drop_rate=1.0, ratio=0.0), found["a"].read(KEY))

    def test_a_dropped_element_is_a_even_where_b_is_not_finite(self) -> None:
        found = models(b=torch.full((N,), float("inf")))
        result = merged(found, drop_rate=0.5, ratio=0.0)
        keep = kept(0, 0.5)
        assert torch.equal(result[~keep], found["a"].read(KEY)[~keep])
        assert not result[keep].isfinite().any()

    def test_bit_for_bit_with_one_rounding_an_operation(self) -> None:
        """numpy rounds after every operation; a fused multiply-add, or a sum in another order, would show."""
        found = models()
        a, b, base = (found[name].read(KEY).numpy() for name in ("a", "b", "base"))
        f = np.float32
        thinned = np.where(kept(3, 0.75).numpy(), (b - base) / f(0.25), f(0))
        expected = a + thinned * f(0.7)
        result = merged(found, base=True, drop_rate=0.75, seed=3, ratio=0.3)
        assert np.array_equal(result.numpy(), expected)


class TestRandomness:
    @given(drop_rate=st.floats(0.01, 0.99), seed=st.integers(0, 2**70))
    @settings(max_examples=20)
    def test_the_realised_drop_share_is_the_drop_rate(self, drop_rate: float, seed: int) -> None:
        found = models()
        changed = (merged(found, drop_rate=drop_rate, seed=seed, ratio=0.0) != found["a"].read(KEY)).float().mean()
        deviation = math.sqrt(drop_rate * (1 - drop_rate) / N)
        assert abs(float(changed) - (1 - drop_rate)) < 6 * deviation

    def test_is_unbiased_with_rescale(self) -> None:
        """The mean over 200 seeds is the full delta, within six standard errors of it."""
        found = models(n=2000)
        delta = found["b"].read(KEY) - found["a"].read(KEY)
        draws = [merged(found, drop_rate=0.9, seed=s, ratio=0.0) - found["a"].read(KEY) for s in range(200)]
        error = (torch.stack(draws).mean(0) - delta).abs()
        standard = delta.abs() * math.sqrt(0.9 / 0.1 / 200) + 1e-6
        assert bool((error < 6 * standard).all())

    def test_same_shaped_tensors_have_masks_of_their_own(self) -> None:
        other = KEY.replace("1.0", "2.0")
        a = MemoryModel({KEY: torch.zeros(N), other: torch.zeros(N)}, {})
        b = MemoryModel({KEY: torch.ones(N), other: torch.ones(N)}, {})
        value = view(Dare(a=a, b=b, drop_rate=0.5, ratio=0.0))
        agree = (value.read(KEY) == value.read(other)).float().mean()
        assert 0.48 < float(agree) < 0.52

    def test_a_checkpoint_and_comfyuis_names_draw_the_same(self) -> None:
        found = models()
        short = {n: MemoryModel({KEY.removeprefix("model."): m.read(KEY)}, {}) for n, m in found.items()}
        value = view(Dare(a=short["a"], b=short["b"], drop_rate=0.5))
        assert torch.equal(value.read(KEY.removeprefix("model.")), merged(found, drop_rate=0.5))


class TestTies:
    """One sign wins for the whole tensor, as in the original; elected after dropping."""

    @pytest.mark.parametrize(("ties", "winner"), [("sum", 1.0), ("count", -1.0)])
    def test_the_majority_by_sum_or_by_count(self, ties: str, winner: float) -> None:
        delta = torch.tensor([10.0, -1.0, -1.0, -1.0])
        found = models(n=4, a=torch.zeros(4), b=delta)
        result = merged(found, drop_rate=0.0, ratio=0.0, ties=ties)
        assert torch.equal(result, torch.where(delta * winner > 0, delta, torch.zeros(4)))

    def test_it_is_elected_after_dropping(self) -> None:
        keep = kept(5, 0.5, n=64)
        delta = torch.where(keep, -1.0, 100.0)
        found = models(n=64, a=torch.zeros(64), b=delta)
        result = merged(found, drop_rate=0.5, seed=5, ratio=0.0, ties="sum", rescale=False)
        assert torch.equal(result, torch.where(keep, -1.0, 0.0)), "the dropped +100s must not vote"

    def test_a_draw_keeps_both(self) -> None:
        delta = torch.tensor([2.0, -2.0])
        assert torch.equal(kernels.elect(delta, torch.zeros(())), delta)

    @given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50))
    def test_all_changes_that_remain_have_one_sign(self, values: list[float]) -> None:
        found = models(n=len(values), a=torch.zeros(len(values)), b=torch.tensor(values))
        result = merged(found, drop_rate=0.3, ratio=0.0, ties="count", blend="lerp")
        signs = set(result.sign().tolist()) - {0.0}
        assert len(signs) <= 1 or result.sign().sum() == 0


class TestIterations:
    def test_are_the_mean_of_independent_masks(self) -> None:
        found = models()
        a, b = found["a"].read(KEY), found["b"].read(KEY)
        share = torch.stack([kept(2, 0.9, draw=d).float() for d in range(4)]).mean(0) / 0.1
        expected = a + (b - a) * share
        torch.testing.assert_close(
            merged(found, drop_rate=0.9, seed=2, iterations=4, ratio=0.0), expected, rtol=0, atol=1e-6
        )

    def test_neither_explode_nor_vanish(self) -> None:
        found = models()
        a, b = found["a"].read(KEY), found["b"].read(KEY)
        change = merged(found, drop_rate=0.5, iterations=50, ratio=0.0) - a
        assert 0.9 < float((change * (b - a)).sum() / (b - a).square().sum()) < 1.1


class TestBlend:
    @pytest.mark.parametrize("blend", ["slerp", "cosine", "cubic", "slice", "hslerp", "bislerp"])
    def test_any_two_model_method_blends_a_and_the_target(self, blend: str) -> None:
        from daremerge_core import discover

        found = models(n=1000)
        a = found["a"].read(KEY)
        target = merged(found, drop_rate=0.5, ratio=0.0)
        expected = view(discover().get("merge", blend)(a=found["a"], b=MemoryModel({KEY: target}, {}), ratio=0.4))
        result = merged(found, drop_rate=0.5, ratio=0.4, blend=blend)
        assert torch.equal(result, expected.read(KEY))
        assert not torch.equal(result, a)

    def test_a_ratio_that_the_blend_refuses_is_refused(self) -> None:
        found = models()
        with pytest.raises(ValueError, match="weigh"):
            Dare(**found, blend="scaled-add", ratio=2.0)
