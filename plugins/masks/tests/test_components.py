"""Every mask keeps the contract of its kind."""

from __future__ import annotations

from daremerge_core.testing import MaskerTests
from daremerge_masks import components


class TestEverything(MaskerTests):
    component = components.Everything


class TestNothing(MaskerTests):
    component = components.Nothing


class TestRandom(MaskerTests):
    component = components.Random
    cases = ({}, {"probability": 0.0}, {"probability": 1.0}, {"probability": 0.2, "seed": 7})


class TestGaussian(MaskerTests):
    component = components.Gaussian
    cases = ({}, {"mean": 1.0, "std": 0.5, "threshold": 1.2, "seed": 3}, {"std": 0.0})


class TestPartition(MaskerTests):
    component = components.Partition
    cases = ({}, {"count": 2, "index": 2}, {"count": 7, "index": 7, "seed": 5})


class TestPattern(MaskerTests):
    component = components.Pattern
    cases = (
        {},
        {"shape": "rows", "size": 2},
        {"shape": "columns", "size": 3},
        {"shape": "checkerboard", "size": 2},
        {"shape": "upper-triangle"},
        {"shape": "lower-triangle"},
        {"shape": "top"},
        {"shape": "bottom"},
        {"shape": "left"},
        {"shape": "right"},
    )


class TestMagnitude(MaskerTests):
    component = components.Magnitude
    cases = (
        {},
        {"threshold": 0.0},
        {"threshold": 1.0, "select": "above"},
        {"over": "block"},
        {"over": "model", "select": "above", "threshold_type": "median"},
    )


class TestSignAgreement(MaskerTests):
    component = components.SignAgreement
    cases = ({}, {"at_least": 1}, {"at_least": 2})


class TestOverlap(MaskerTests):
    component = components.Overlap
    cases = ({}, {"lambda": 0.0}, {"lambda": 2.0})


class TestUnion(MaskerTests):
    component = components.Union


class TestIntersect(MaskerTests):
    component = components.Intersect


class TestDifference(MaskerTests):
    component = components.Difference


class TestXor(MaskerTests):
    component = components.Xor


class TestInvert(MaskerTests):
    component = components.Invert


class TestEdit(MaskerTests):
    component = components.Edit
    cases = (
        {"include": "*.weight"},
        {"include": "input_blocks.1", "to": "false"},
        {"include": "*, !*.bias", "to": {"op": "random", "probability": 0.3}},
        {"include": "*.to_{q,k}.*", "to": {"op": "pattern", "shape": "rows"}},
    )
