"""Clamp stays in the parents' range; rescale gives the change the norm that was asked for."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core import MemoryModel, view
from daremerge_core.testing import tiny_model
from daremerge_core.testing.conformance import TinyGradient
from daremerge_core.testing.tiny import SHAPES
from daremerge_core.views import ModelView
from daremerge_edits.clamp import Clamp
from daremerge_edits.rescale import Rescale

KEY = "layer.weight"
FLOATS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=6, max_size=6).map(torch.tensor)
Over = Literal["tensor", "block", "model"]


def one(tensor: Tensor) -> MemoryModel:
    return MemoryModel({KEY: tensor})


def clamped(x: Tensor, a: Tensor, b: Tensor, **options: Any) -> Tensor:
    return view(Clamp(model=one(x), a=one(a), b=one(b), **options)).read(KEY)


class TestClamp:
    @given(x=FLOATS, a=FLOATS, b=FLOATS)
    def test_is_torchs_clamp_to_the_parents(self, x: Tensor, a: Tensor, b: Tensor) -> None:
        assert torch.equal(clamped(x, a, b), x.clamp(torch.minimum(a, b), torch.maximum(a, b)))

    @given(x=FLOATS, a=FLOATS, b=FLOATS, margin=st.floats(0, 4))
    def test_keeps_what_is_in_the_range_and_is_idempotent(self, x: Tensor, a: Tensor, b: Tensor, margin: float) -> None:
        done = clamped(x, a, b, margin=margin)
        width = (a.double() - b.double()).abs() * margin
        low, high = torch.minimum(a, b) - width, torch.maximum(a, b) + width
        slack = 1e-6 * (low.abs() + high.abs()) + 1e-38  # of float32, also where it has few digits left
        assert bool(((done >= low - slack) & (done <= high + slack)).all())
        inside = (x > low + slack) & (x < high - slack)
        assert torch.equal(done[inside], x[inside])
        assert torch.equal(clamped(done, a, b, margin=margin), done)

    def test_the_range_is_widened_on_both_sides(self) -> None:
        x, a, b = torch.tensor([-9.0, 9.0, 4.0]), torch.tensor([0.0, 4.0, 2.0]), torch.tensor([4.0, 0.0, 2.0])
        assert clamped(x, a, b, margin=0.25).tolist() == [-1.0, 5.0, 2.0]

    def test_infinite_parents_set_no_limit(self) -> None:
        x, inf = torch.tensor([3.0, -3.0]), torch.full((2,), math.inf)
        assert torch.equal(clamped(x, -inf, inf), x)

    def test_ratios_and_gradients_are_a_straight_line(self) -> None:
        model, a, b, gradient = tiny_model(0), tiny_model(1), tiny_model(2), TinyGradient(0)
        value = view(Clamp(model=model, a=a, b=b, gradient=gradient))
        full = view(Clamp(model=model, a=a, b=b))
        for key in SHAPES:
            x, ratio = model.read(key), gradient.ratio(key)
            expected = x if ratio is None else x + (1 - ratio) * (full.read(key) - x)
            torch.testing.assert_close(value.read(key), expected, rtol=0, atol=1e-6)

    def test_tensors_that_a_parent_lacks_stay(self) -> None:
        model = MemoryModel({KEY: torch.ones(2), "extra.weight": torch.full((2,), 9.0)})
        value = view(Clamp(model=model, a=one(torch.zeros(2)), b=one(torch.zeros(2))))
        assert value.read("extra.weight").tolist() == [9.0, 9.0]


class TestRescale:
    def groups(self, value: ModelView, over: Over) -> list[list[str]]:
        found = defaultdict(list)
        for key in SHAPES:
            place = value.layout.place(key)
            found[{"tensor": key, "block": f"{place.part}/{place.block}", "model": ""}[over]].append(key)
        return list(found.values())

    def delta(self, model: Any, base: Any, keys: list[str]) -> Tensor:
        return torch.cat([(model.read(key).double() - base.read(key).double()).flatten() for key in keys])

    @pytest.mark.parametrize("over", ["tensor", "block", "model"])
    @pytest.mark.parametrize("by", ["norm", "like"])
    @given(seed=st.integers(0, 1000), norm=st.floats(1e-3, 1e3))
    @settings(max_examples=25)
    def test_hits_the_norm_and_keeps_the_direction(self, over: Over, by: str, seed: int, norm: float) -> None:
        model, base, like = (tiny_model(seed + i, torch.float64) for i in range(3))
        target: dict[str, Any] = {"norm": norm} if by == "norm" else {"like": like}
        value = view(Rescale(model=model, base=base, over=over, **target))
        assert isinstance(value, ModelView)
        for keys in self.groups(value, over):
            before, after = self.delta(model, base, keys), self.delta(value, base, keys)
            wanted = norm if by == "norm" else float(self.delta(like, base, keys).norm())
            assert float(after.norm()) == pytest.approx(wanted if before.any() else 0.0, rel=1e-9)
            torch.testing.assert_close(after * before.norm(), before * after.norm(), rtol=1e-6, atol=1e-9)

    def test_in_float32_too(self) -> None:
        generator = torch.Generator().manual_seed(0)
        base = torch.randn(100_000, generator=generator) * 0.02
        model = base + torch.randn(100_000, generator=generator) * 0.001
        done = view(Rescale(model=one(model), base=one(base), norm=0.75)).read(KEY)
        assert float((done.double() - base.double()).norm()) == pytest.approx(0.75, rel=1e-6)

    def test_a_change_of_nothing_stays_and_one_towards_nothing_is_the_base(self) -> None:
        model, base = tiny_model(0), tiny_model(1)
        still = view(Rescale(model=base, base=base, norm=3.0))
        gone = view(Rescale(model=model, base=base, like=base))
        for key in SHAPES:
            assert torch.equal(still.read(key), base.read(key))
            assert torch.equal(gone.read(key), base.read(key))

    def test_its_own_norm_changes_nothing_bit_for_bit(self) -> None:
        model, base = tiny_model(0), tiny_model(1)
        value = view(Rescale(model=model, base=base, like=model, over="block"))
        assert all(torch.equal(value.read(key), model.read(key)) for key in SHAPES)

    @pytest.mark.parametrize("broken", ["model", "base", "like"])
    def test_what_is_not_finite_is_not_scaled_by(self, broken: str) -> None:
        tensors = {name: torch.tensor([1.0, float(i)]) for i, name in enumerate(("model", "base", "like"))}
        tensors[broken] = torch.tensor([math.nan, 1.0])
        done = view(Rescale(**{name: one(tensor) for name, tensor in tensors.items()})).read(KEY)
        assert torch.equal(done.nan_to_num(), tensors["model"].nan_to_num())

    def test_only_what_is_selected_counts_towards_the_norm(self) -> None:
        model, base = tiny_model(0, torch.float64), tiny_model(1, torch.float64)
        value = view(Rescale(model=model, base=base, norm=1.0, parts=["unet"]))
        keys = [key for key in SHAPES if "diffusion_model" in key]
        assert float(self.delta(value, base, keys).norm()) == pytest.approx(1.0, rel=1e-9)

    def test_a_ratio_between_is_a_straight_line(self) -> None:
        model, base = tiny_model(0), tiny_model(1)
        full = view(Rescale(model=model, base=base, norm=1.0))
        half = view(Rescale(model=model, base=base, norm=1.0, ratio=0.75))
        for key in SHAPES:
            expected = model.read(key) + 0.25 * (full.read(key) - model.read(key))
            torch.testing.assert_close(half.read(key), expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("target", [{}, {"norm": 1.0, "like": "c"}])
    def test_takes_one_target(self, target: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="one of the two"):
            Rescale(model="a", base="b", **target)

    @pytest.mark.parametrize("norm", [0.0, -1.0, math.inf, math.nan])
    def test_the_norm_is_a_positive_number(self, norm: float) -> None:
        with pytest.raises(ValueError, match="norm"):
            Rescale(model="a", base="b", norm=norm)
