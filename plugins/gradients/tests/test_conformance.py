"""Every component keeps the contract of its kind."""

from __future__ import annotations

from typing import Any

import torch

from daremerge_core import MemoryModel
from daremerge_core.testing import GradientFamilyTests
from daremerge_core.testing.layouts import load
from daremerge_gradients.attention import AttentionGradient
from daremerge_gradients.depth import DepthGradient
from daremerge_gradients.edit import EditGradient
from daremerge_gradients.mbw import MbwGradient
from daremerge_gradients.operations import Add, Divide, Maximum, Mean, Minimum, Multiply, Subtract
from daremerge_gradients.plugin import daremerge_components
from daremerge_gradients.tables import PartsGradient, PatternGradient
from daremerge_gradients.unet import BlockGradient, ShellGradient


class OnSd15(GradientFamilyTests):
    """For families of U-Nets: the tiny checkpoint is none."""

    def port_values(self) -> dict[str, Any]:
        zero = torch.zeros(())
        return {"model": MemoryModel({key: zero.expand(meta.shape) for key, meta in load("sd15").items()}, {})}


class TestBlock(OnSd15):
    component = BlockGradient
    cases = ({"input": 0.5}, {"time": 0.0, "input": 0.1, "middle": 0.2, "output": 0.3, "out": 1.0})


class TestShell(OnSd15):
    component = ShellGradient
    cases = ({"core": 0.0}, {"exterior": 1.0, "interior": 0.5, "core": 0.0})


class TestMbwOnSd15(OnSd15):
    component = MbwGradient
    cases = (
        {"weights": ",".join(["0.5"] * 25)},
        {"preset": "RING08_SOFT", "dialect": "sd-mecha", "rest": 0.25},
        {"blocks": {"IN{00-03}": 0.0, "base": 1.0, "out": 0.5}, "share_of_b": True},
    )


class TestMbw(GradientFamilyTests):
    component = MbwGradient
    cases = ({"blocks": {"input_blocks.1": 0.0, "BASE": 0.5}}, {"rest": 0.5})


class TestAttention(GradientFamilyTests):
    component = AttentionGradient
    cases = ({"attn": 0.5}, {"norm": 1.0, "attn": 0.0, "ff": 0.5, "fused": 0.5, "parts": ["unet", "clip"]})


class TestDepth(GradientFamilyTests):
    component = DepthGradient
    cases = (
        {"points": {"0": 1.0, "0.5": 0.2, "1": 1.0}},
        {"points": {"0.3": 0.1}, "interpolation": "cosine", "rest": 0.5, "parts": ["clip"]},
        {"points": {"0": 0.0, "0.5": 1.0}, "interpolation": "step"},
    )


class TestPattern(GradientFamilyTests):
    component = PatternGradient
    cases = ({"layers": {"*.to_q.*": 0.0, "*": 1.0}}, {"layers": {"*.bias": 0.5}, "rest": 0.25})


class TestParts(GradientFamilyTests):
    component = PartsGradient
    cases = ({"unet": 0.5}, {"clip": 0.0, "vae": 1.0, "lm": 0.0, "other": 0.0})


class TestMean(GradientFamilyTests):
    component = Mean
    cases = ({}, {"join": "outer"})


class TestMinimum(GradientFamilyTests):
    component = Minimum
    cases = ({}, {"join": "outer"})


class TestMaximum(GradientFamilyTests):
    component = Maximum
    cases = ({}, {"join": "outer"})


class TestAdd(GradientFamilyTests):
    component = Add
    cases = ({"outside": "allow"}, {"join": "outer", "outside": "clamp"})


class TestSubtract(GradientFamilyTests):
    component = Subtract
    cases = ({"outside": "allow"}, {"join": "outer", "outside": "clamp"})


class TestMultiply(GradientFamilyTests):
    component = Multiply
    cases = ({}, {"join": "outer"})


class AboveZero:
    """A gradient that can be divided by."""

    def keys(self) -> list[str]:
        return ["model.diffusion_model.out.2.weight", "model.diffusion_model.time_embed.0.bias"]

    def ratio(self, key: str) -> float | None:
        return 0.5 if key in self.keys() else None


class TestDivide(GradientFamilyTests):
    component = Divide
    cases = ({}, {"join": "outer"})

    def port_values(self) -> dict[str, Any]:
        return {"gradients": [AboveZero(), AboveZero()]}


class TestEdit(GradientFamilyTests):
    component = EditGradient
    cases = (
        {"include": "*.to_k.*, time_embed", "value": 0.5},
        {"include": "*", "operation": "multiply", "value": 0.5},
        {"include": "*", "operation": "divide", "value": 2.0},
        {"include": "*", "operation": "add", "value": 1.0, "outside": "allow"},
        {"include": "*", "operation": "subtract", "value": 1.0, "outside": "clamp"},
    )


def test_every_component_has_a_suite() -> None:
    suites = [value.component for name, value in globals().items() if name.startswith("Test")]
    assert set(daremerge_components()) == set(suites)
