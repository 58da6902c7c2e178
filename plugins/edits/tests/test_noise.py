"""Noise: its distribution, its place, and how much of it there is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from daremerge_core import MemoryModel, Span, discover, view
from daremerge_core.errors import SelectorError
from daremerge_core.rng import Stream
from daremerge_core.testing import layouts, tiny_model, tiny_tensors
from daremerge_core.testing.conformance import TinyGradient
from daremerge_edits.noise import Noise

N = 200_000
KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_v.weight"
NAME = KEY.removeprefix("model.")


def zeros(n: int = N) -> MemoryModel:
    return MemoryModel({KEY: torch.zeros(n)})


def noised(model: MemoryModel, key: str = KEY, **options: Any) -> Tensor:
    return view(Noise(model=model, **options)).read(key)


class TestDistribution:
    @pytest.mark.parametrize(("mean", "std"), [(0.0, 0.01), (0.25, 2.0), (-3.0, 0.5)])
    def test_gaussian(self, mean: float, std: float) -> None:
        found = noised(zeros(), mean=mean, std=std, seed=3, ratio=0.0).double()
        assert abs(float(found.mean()) - mean) < 5 * std / math.sqrt(N)
        assert float(found.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * N))
        within = [float((found - mean).abs().lt(k * std).double().mean()) for k in (1, 2, 3)]
        assert within == pytest.approx([0.6827, 0.9545, 0.9973], abs=0.005)

    def test_uniform(self) -> None:
        found = noised(zeros(), operation="uniform", ratio=0.0).double()
        assert -0.5 <= float(found.min()) < -0.4999
        assert 0.4999 < float(found.max()) < 0.5
        assert abs(float(found.mean())) < 5 * math.sqrt(1 / 12 / N)
        assert found.histc(10, -0.5, 0.5).div(N).tolist() == pytest.approx([0.1] * 10, abs=0.005)

    def test_no_deviation_is_a_shift_by_the_mean(self) -> None:
        assert torch.equal(noised(zeros(9), mean=0.5, std=0.0, ratio=0.0), torch.full((9,), 0.5))

    def test_seeds_and_tensors_have_noise_of_their_own(self) -> None:
        other = KEY.replace("1.1", "2.1")
        model = MemoryModel({KEY: torch.zeros(N), other: torch.zeros(N)})
        first, second, third = noised(model), noised(model, other), noised(model, seed=1)
        for one, two in ((first, second), (first, third)):
            assert abs(float(torch.corrcoef(torch.stack([one, two]))[0, 1])) < 5 / math.sqrt(N)


class TestRatio:
    def test_it_is_the_stream_of_the_tensor_bit_for_bit(self) -> None:
        model = MemoryModel({KEY: torch.randn(1000, generator=torch.Generator().manual_seed(0))})
        values, stream, span = model.read(KEY), Stream.derive(5, "noise", NAME), Span(0, 1000)
        gaussian = noised(model, mean=0.5, std=0.25, seed=5, ratio=0.0)
        assert torch.equal(gaussian, values + (stream.normal(span) * 0.25 + 0.5))
        uniform = noised(model, operation="uniform", seed=5, ratio=0.0)
        assert torch.equal(uniform, values + (stream.uniform(span) - 0.5))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
    def test_1_is_the_model_bit_for_bit(self, dtype: torch.dtype) -> None:
        model = MemoryModel({KEY: torch.full((9,), math.pi, dtype=dtype)})
        assert torch.equal(noised(model, ratio=1.0, mean=9.0), model.read(KEY))

    def test_between_is_a_straight_line(self) -> None:
        model = MemoryModel({KEY: torch.full((1000,), 3.0)})
        full = noised(model, std=0.5, ratio=0.0) - 3
        torch.testing.assert_close(noised(model, std=0.5) - 3, full * 0.02, rtol=0, atol=1e-6)
        torch.testing.assert_close(noised(model, std=0.5, ratio=-1.0) - 3, full * 2, rtol=0, atol=1e-6)

    def test_a_gradient_decides_tensor_by_tensor(self) -> None:
        model, gradient = tiny_model(0), TinyGradient(1)
        value = view(Noise(model=model, include=None, gradient=gradient, seed=2))
        full = view(Noise(model=model, include=None, ratio=0.0, seed=2))
        for key in gradient.keys():
            a, b, ratio = model.read(key), full.read(key), gradient.ratio(key) or 0.0
            torch.testing.assert_close(value.read(key), a + (1 - ratio) * (b - a), rtol=0, atol=1e-6)
        (spared,) = set(full.active_keys()) - set(gradient.keys())
        assert torch.equal(value.read(spared), model.read(spared))

    @pytest.mark.parametrize("blend", ["slerp", "cosine"])
    def test_any_two_model_method_blends_model_and_noised_model(self, blend: str) -> None:
        a = tiny_model(0)
        b = view(Noise(model=a, include=None, std=0.5, ratio=0.0))
        expected = view(discover().get("merge", blend)(a=a, b=b, ratio=0.4))
        value = view(Noise(model=a, include=None, std=0.5, ratio=0.4, blend=blend))
        for key in a.keys():
            assert torch.equal(value.read(key), expected.read(key))


class TestWhere:
    def test_by_default_it_is_the_values_of_attention(self) -> None:
        made = {key: torch.zeros(()) for key, meta in layouts.load("sd15").items() if meta.dtype != "I64"}
        found = set(view(Noise(model=MemoryModel(made))).active_keys())
        assert found == {key for key in made if ".to_v." in key}
        assert len(found) == 32

    def test_a_model_without_them_says_so(self) -> None:
        with pytest.raises(SelectorError, match="to_v"):
            view(Noise(model=MemoryModel(tiny_tensors(0))))

    def test_uniform_noise_takes_no_mean_or_std(self) -> None:
        for options in ({"std": 0.1}, {"mean": 0.1}):
            with pytest.raises(ValueError, match="mean and std are of gaussian noise"):
                Noise(model="a", operation="uniform", **options)
        assert Noise(model="a", operation="uniform", mean=0.0, std=0.01).operation == "uniform"
