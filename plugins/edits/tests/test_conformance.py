"""Every edit keeps the contract of its kind."""

from __future__ import annotations

from typing import Any

from daremerge_core.testing import ModelEditTests, tiny_model
from daremerge_edits.clamp import Clamp
from daremerge_edits.noise import Noise
from daremerge_edits.normalize import Normalize
from daremerge_edits.plugin import daremerge_components
from daremerge_edits.rescale import Rescale

Q = "*.to_q*"


class TestNormalize(ModelEditTests):
    component = Normalize
    cases = (
        {},
        {"method": "attn_only", "magnify": True, "ratio": 0.3},
        {"method": "q_norm"},
        {"method": "all"},
        {"method": "all", "ratio": 0.5, "parts": ["unet"]},
        {"method": "none"},
    )


class TestNoise(ModelEditTests):
    component = Noise
    cases = (
        {"include": Q},
        {"include": None, "mean": 0.5, "std": 0.0},
        {"include": "*.weight", "operation": "uniform", "seed": 7, "ratio": 0.0},
        {"include": None, "blend": "slerp", "ratio": 0.5},
    )


class TestClamp(ModelEditTests):
    component = Clamp
    cases = ({}, {"margin": 0.25}, {"ratio": 0.5, "exclude": "*.bias"})


class TestRescale(ModelEditTests):
    component = Rescale
    cases: Any = (
        {"norm": 1.0},
        {"norm": 0.5, "over": "block", "ratio": 0.25},
        {"like": tiny_model(5), "over": "tensor"},
        {"like": tiny_model(5), "over": "block"},
    )

    def test_options_survive_json(self) -> None:
        for options in self.cases:
            component = self.make(options)
            again = self.make({**component.options(), "like": options.get("like")})
            assert again.options() == component.options()


def test_the_distribution_offers_them_all() -> None:
    assert [one.name for one in daremerge_components()] == ["normalize", "noise", "clamp", "rescale"]
