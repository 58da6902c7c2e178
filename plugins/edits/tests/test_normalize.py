"""Normalize: norms, factors, and what follows what."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core import MemoryModel, Span, view
from daremerge_core.errors import PlanError
from daremerge_core.testing.conformance import TinyGradient
from daremerge_core.testing.tiny import SHAPES, tiny_model
from daremerge_edits.normalize import Normalize

Weights = dict[str, Tensor]
ATTENTION = {
    "to_q.weight": (6, 5), "to_q.bias": (6,), "to_k.weight": (6, 5), "to_k.bias": (6,),
    "to_v.weight": (6, 5), "to_v.bias": (6,), "to_out.0.weight": (5, 6), "to_out.0.bias": (5,),
}  # fmt: skip
BLOCK = {f"b.0.attn.{name}": shape for name, shape in ATTENTION.items()} | {
    "b.0.ff.weight": (4, 5), "b.0.ff.bias": (4,), "b.0.norm.scale": (5,), "b.0.bias": (3,),
    "b.0.attn.norm_q.weight": (3,),
}  # fmt: skip


def block(seed: int) -> Weights:
    """Every tensor at a norm of its own, so that no two factors are the same."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(shape, generator=generator) * (0.2 + float(torch.rand((), generator=generator)))
        for key, shape in BLOCK.items()
    }


def normalized(a: Weights, b: Weights, **options: Any) -> Weights:
    value = view(Normalize(model=MemoryModel(a), like=MemoryModel(b), **options))
    return {key: value.read(key) for key in value.keys()}


def factors(a: Weights, done: Weights) -> dict[str, float]:
    """The one number by which each tensor was multiplied."""
    found = {}
    for key in a:
        ratios = done[key] / a[key]
        torch.testing.assert_close(ratios, ratios.flatten()[0].expand_as(ratios), rtol=1e-5, atol=0)
        found[key.removeprefix("b.0.")] = float(ratios.flatten()[0])
    return found


def norm_ratio(a: Weights, b: Weights, key: str) -> float:
    return float(b[f"b.0.{key}"].double().norm() / a[f"b.0.{key}"].double().norm())


class TestFactors:
    def test_attn_only_scales_queries_and_keys_with_their_biases(self) -> None:
        a, b = block(0), block(1)
        found = factors(a, normalized(a, b))
        s = norm_ratio(a, b, "attn.to_q.weight")
        expected = dict.fromkeys(found, 1.0) | {f"attn.to_q.{p}": s for p in ("weight", "bias")}
        expected |= {f"attn.to_k.{p}": 1 / s for p in ("weight", "bias")}
        assert found == pytest.approx(expected, rel=1e-6)

    def test_q_norm_scales_everything_else_to_bs_norms(self) -> None:
        a, b = block(0), block(1)
        found = factors(a, normalized(a, b, method="q_norm"))
        s = norm_ratio(a, b, "attn.to_q.weight")
        expected = {}
        for key in found:
            weight = key.replace("bias", "weight") if key != "bias" else key
            expected[key] = norm_ratio(a, b, weight)
        expected |= {f"attn.to_k.{p}": 1 / s for p in ("weight", "bias")} | {"attn.norm_q.weight": 1.0}
        assert found == pytest.approx(expected, rel=1e-6)

    def test_all_scales_every_weight_to_bs_norm_and_biases_follow(self) -> None:
        a, b = block(0), block(1)
        found = factors(a, normalized(a, b, method="all"))
        expected = {key: norm_ratio(a, b, key.replace("bias", "weight") if key != "bias" else key) for key in found}
        assert found == pytest.approx(expected, rel=1e-6)

    def test_none_changes_nothing(self) -> None:
        a = block(0) | {"b.0.ff.weight": torch.full((4, 5), math.inf)}
        for ratio in (0.0, 0.5):
            done = normalized(a, block(1), method="none", ratio=ratio)
            assert all(torch.equal(done[key], a[key]) for key in a)

    @pytest.mark.parametrize("method", ["attn_only", "q_norm", "all"])
    def test_magnify_scales_by_the_inverse(self, method: str) -> None:
        a, b = block(0), block(1)
        plain = factors(a, normalized(a, b, method=method))
        inverse = factors(a, normalized(a, b, method=method, magnify=True))
        assert inverse == pytest.approx({key: 1 / factor for key, factor in plain.items()}, rel=1e-6)

    @pytest.mark.parametrize("method", ["attn_only", "q_norm", "all"])
    def test_a_ratio_between_takes_a_power(self, method: str) -> None:
        a, b = block(0), block(1)
        whole = factors(a, normalized(a, b, method=method))
        part = factors(a, normalized(a, b, method=method, ratio=0.75))
        assert part == pytest.approx({key: factor**0.25 for key, factor in whole.items()}, rel=1e-6)

    def test_a_gradient_decides_tensor_by_tensor(self) -> None:
        a, b, gradient = tiny_model(0), tiny_model(1), TinyGradient(2)
        value = view(Normalize(model=a, like=b, method="all", gradient=gradient))
        for key in SHAPES:
            ratio = gradient.ratio(key)
            wide = a.read(key).double()
            s = float(b.read(key).double().norm() / wide.norm()) if wide.any() else 1.0
            expected = a.read(key) if ratio is None else (wide * s ** (1 - ratio)).float()
            torch.testing.assert_close(value.read(key), expected, rtol=1e-6, atol=0)


class TestFused:
    """Sections of one tensor, each at a factor of its own; the streams of a joint attention together."""

    JOINT = {
        "x_embedder.proj.weight": (1, 1, 1, 1), "context_embedder.weight": (1, 1),
        "joint_blocks.0.context_block.attn.qkv.weight": (12, 4), "joint_blocks.0.context_block.attn.qkv.bias": (12,),
        "joint_blocks.0.x_block.attn.qkv.weight": (12, 4), "joint_blocks.0.x_block.attn.qkv.bias": (12,),
    }  # fmt: skip
    STREAMS = ("context_block", "x_block")

    def models(self) -> list[Weights]:
        return [
            {key: torch.randn(shape, generator=torch.Generator().manual_seed(s)) * (1 + s) for key, shape in made}
            for s, made in enumerate([self.JOINT.items(), self.JOINT.items()])
        ]

    def rows(self, w: Weights, third: int, parameter: str = "weight") -> Tensor:
        parts = (w[f"joint_blocks.0.{stream}.attn.qkv.{parameter}"] for stream in self.STREAMS)
        return torch.cat([part[4 * third : 4 * third + 4].flatten() for part in parts])

    def test_q_norm(self) -> None:
        a, b = self.models()
        done = normalized(a, b, method="q_norm")
        q, v = (float(self.rows(b, i).norm() / self.rows(a, i).norm()) for i in (0, 2))
        assert abs(q - v) > 1e-3
        for third, factor in enumerate((q, 1 / q, v)):
            for parameter in ("weight", "bias"):
                torch.testing.assert_close(
                    self.rows(done, third, parameter), self.rows(a, third, parameter) * factor, rtol=1e-6, atol=0
                )

    def test_all_takes_a_fused_tensor_as_one(self) -> None:
        a, b = self.models()
        done = normalized(a, b, method="all")
        for stream in self.STREAMS:
            key = f"joint_blocks.0.{stream}.attn.qkv."
            factor = float(b[f"{key}weight"].norm() / a[f"{key}weight"].norm())
            for parameter in ("weight", "bias"):
                torch.testing.assert_close(done[key + parameter], a[key + parameter] * factor, rtol=1e-6, atol=0)

    def test_what_stands_behind_the_values_has_a_factor_of_its_own(self) -> None:
        shapes = {
            "img_in.weight": (1, 1), "time_in.in_layer.weight": (1, 1), "vector_in.in_layer.weight": (1, 1),
            "double_blocks.0.img_attn.qkv.weight": (6, 2),
            "single_blocks.0.linear1.weight": (14, 2), "single_blocks.0.linear1.bias": (14,),
            "single_blocks.0.linear2.weight": (2, 10),
        }  # fmt: skip
        a, b = (
            {key: torch.randn(shape, generator=torch.Generator().manual_seed(s)) for key, shape in shapes.items()}
            for s in (0, 1)
        )
        done = normalized(a, b, method="q_norm")
        first, second = "single_blocks.0.linear1.weight", "single_blocks.0.linear2.weight"
        for one, part in ((first, slice(0, 2)), (first, slice(4, 6)), (first, slice(6, 14)), (second, slice(None))):
            torch.testing.assert_close(done[one][part].norm(), b[one][part].norm(), rtol=1e-6, atol=0)
        factor = b[first][6:].norm() / a[first][6:].norm()
        bias = "single_blocks.0.linear1.bias"
        torch.testing.assert_close(done[bias][6:], a[bias][6:] * factor, rtol=1e-6, atol=0)

    @given(start=st.integers(0, 3 * 320 * 320 - 1), length=st.integers(1, 100_000))
    @settings(max_examples=25)
    def test_a_tensor_of_many_blocks_is_the_same_by_spans(self, start: int, length: int) -> None:
        a, b = (
            {"b.0.attn.qkv.weight": (1 + s) * torch.randn(960, 320, generator=torch.Generator().manual_seed(s))}
            for s in (0, 1)
        )
        value = view(Normalize(model=MemoryModel(a), like=MemoryModel(b), method="q_norm"))
        whole = value.read("b.0.attn.qkv.weight")
        span = Span(start, min(start + length, whole.numel()))
        assert torch.equal(value.read("b.0.attn.qkv.weight", span), whole.flatten()[span.start : span.stop])
        (q, _, v), (wanted_q, _, wanted_v) = (w.chunk(3) for w in (whole, b["b.0.attn.qkv.weight"]))
        torch.testing.assert_close(q.norm(), wanted_q.norm(), rtol=1e-5, atol=0)
        torch.testing.assert_close(v.norm(), wanted_v.norm(), rtol=1e-5, atol=0)


class TestAtTheEdges:
    def test_without_queries_or_keys_the_error_names_the_way_out(self) -> None:
        model = MemoryModel({"decoder.weight": torch.ones(2, 2)})
        with pytest.raises(PlanError, match=r"would change nothing: not queries or keys .*\(method all scales"):
            view(Normalize(model=model, like=model))
        view(Normalize(model=model, like=model, method="all"))

    @pytest.mark.parametrize("method", ["attn_only", "q_norm"])
    @pytest.mark.parametrize("gone", ["q", "k"])
    def test_queries_without_keys_and_keys_without_queries_stay(self, method: str, gone: str) -> None:
        a, b = block(0), block(1)
        other = "k" if gone == "q" else "q"
        lacking = {key: tensor for key, tensor in b.items() if f"to_{gone}." not in key}
        for done in (
            normalized(a, lacking, method=method),
            normalized(a, b, method=method, include=f"*.to_{other}.*"),
            normalized(a, b, method=method, exclude=f"*.to_{gone}.weight"),
        ):
            for key in (f"b.0.attn.to_{one}.{p}" for one in "qk" for p in ("weight", "bias")):
                assert torch.equal(done[key], a[key])

    @pytest.mark.parametrize("method", ["attn_only", "q_norm", "all"])
    @pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
    @pytest.mark.parametrize("where", ["a", "b"])
    def test_a_norm_of_zero_or_not_finite_is_no_reason_to_scale(self, method: str, value: float, where: str) -> None:
        weight = torch.full((6, 5), value)
        models = {"a": block(0), "b": block(1)}
        models[where]["b.0.attn.to_q.weight"] = weight
        done = normalized(**models, method=method)
        for key in ("to_q.weight", "to_q.bias", *(("to_k.weight", "to_k.bias") if method != "all" else ())):
            name = f"b.0.attn.{key}"
            if value == 0 and where == "a" and method == "all" and key == "to_q.bias":
                continue  # its weight has no norm: it has its own
            assert torch.equal(done[name].nan_to_num(), models["a"][name].nan_to_num())

    def test_a_bias_whose_weight_is_not_selected_has_a_factor_of_its_own(self) -> None:
        a, b = block(0), block(1)
        done = normalized(a, b, method="all", include="b.0.ff.bias")
        torch.testing.assert_close(done["b.0.ff.bias"].norm(), b["b.0.ff.bias"].norm(), rtol=1e-6, atol=0)

    def test_tiny_and_huge_weights_have_norms_too(self) -> None:
        a = {key: tensor * 1e-30 for key, tensor in block(0).items()}
        b = {key: tensor * 1e25 for key, tensor in block(1).items()}
        done = normalized(a, b, method="all")
        torch.testing.assert_close(done["b.0.ff.weight"].norm(), b["b.0.ff.weight"].norm(), rtol=1e-5, atol=0)


class TestLaws:
    @given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
    @settings(max_examples=25)
    def test_all_gives_every_weight_bs_norm(self, seed: int, scale: float) -> None:
        a, b = tiny_model(seed), tiny_model(seed + 1, scale=scale)
        value = view(Normalize(model=a, like=b, method="all"))
        for key in SHAPES:
            torch.testing.assert_close(value.read(key).norm(), b.read(key).norm(), rtol=1e-5, atol=0)

    @pytest.mark.parametrize("method", ["attn_only", "q_norm", "all"])
    @given(seed=st.integers(0, 1000))
    @settings(max_examples=25)
    def test_is_idempotent_but_for_rounding(self, method: str, seed: int) -> None:
        a, b = block(seed), block(seed + 1)
        once = normalized(a, b, method=method)
        twice = normalized(once, b, method=method)
        for key in a:
            torch.testing.assert_close(twice[key], once[key], rtol=1e-6, atol=0)

    @pytest.mark.parametrize("method", ["attn_only", "q_norm", "all"])
    def test_a_model_at_its_own_norms_stays_bit_for_bit(self, method: str) -> None:
        a = block(0)
        assert all(torch.equal(done, a[key]) for key, done in normalized(a, a, method=method).items())
