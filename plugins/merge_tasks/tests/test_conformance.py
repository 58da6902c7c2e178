"""The contract of the kinds, for every component of the plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from daremerge_core.testing import ComponentTests, MergeMethodTests, SparsifierTests
from daremerge_core.testing.conformance import TinyGradient
from daremerge_core.testing.tiny import tiny_model
from daremerge_merge_tasks import agreement, averages, presets, refiners, sparsifiers, spectral

Cases = ClassVar[Sequence[Mapping[str, Any]]]
LAYERS = [TinyGradient(1), TinyGradient(2)]


class _TaskTests(MergeMethodTests):
    exact_ends = "a"


class TestTaskArithmetic(_TaskTests):
    component = presets.TaskArithmetic
    cases: Cases = (
        {},
        {"weights": [1.0, -0.5], "lambda": 0.5},
        {"normalize": "count", "ratio": 0.25},
        {"gradients": LAYERS},
        {"refine": refiners.Lines()},
        {"refine": refiners.Svc()},
    )


class TestTies(_TaskTests):
    component = presets.Ties
    cases: Cases = (
        {},
        {"over": "tensor", "elect": "count", "weights": [1.0, 2.0]},
        {"over": "block", "density": [0.0, 0.7], "weighted": False, "weights": [1.0, 2.0], "normalize": "none"},
        {"density": 1.0, "normalize": "count"},
        {"over": "tensor", "density_gradients": LAYERS},
    )


class TestDareTies(_TaskTests):
    component = presets.DareTies
    cases: Cases = ({}, {"density": [0.3, 0.9], "seed": 4, "elect": "count"}, {"trim": 0.5, "rescale": False})


class TestDareLinear(_TaskTests):
    component = presets.DareLinear
    cases: Cases = ({}, {"density": 0.0}, {"density": 1.0}, {"density": 0.5, "gradients": LAYERS})


class TestDella(_TaskTests):
    component = presets.DellaMerge
    cases: Cases = ({}, {"epsilon": 0.0}, {"density": [0.3, 1.0], "rescale": False})


class TestDellaLinear(_TaskTests):
    component = presets.DellaLinear
    cases: Cases = ({}, {"density": 0.0}, {"density": 0.7, "epsilon": 0.4, "seed": 3})


class TestBreadcrumbs(_TaskTests):
    component = presets.BreadcrumbsMerge
    cases: Cases = ({}, {"density": 0.5, "gamma": 0.3}, {"density": 0.0}, {"density": [1.0, 0.1], "gamma": 0.0})


class TestBreadcrumbsTies(_TaskTests):
    component = presets.BreadcrumbsTies
    cases: Cases = ({}, {"elect": "none", "gamma": 0.2, "density": 0.4})


class TestTasks(_TaskTests):
    component = presets.Tasks
    cases: Cases = (
        {},
        {"density": 0.5, "elect": "mass", "normalize": "weights"},
        {"sparsify": "della", "density": 0.5},
        {"sparsify": "dare", "density": 0.4, "then": {"op": "magnitude", "density": 0.2, "over": "model"}},
        {"sparsify": "breadcrumbs", "density": 0.4, "then": {"op": "dare", "drop_rate": 0.2}},
    )


class TestConsensus(_TaskTests):
    component = agreement.Consensus
    cases: Cases = ({}, {"strength": 0.0, "at_least": 1}, {"strength": 1.0, "weights": [1.0, 0.5]})


class TestModelStock(_TaskTests):
    component = agreement.ModelStock
    cases: Cases = ({}, {"per": "row"})


class TestSce(_TaskTests):
    component = agreement.Sce
    cases: Cases = ({}, {"density": 1.0}, {"density": 0.0}, {"density": 0.5, "ratio": 0.5})


class TestTsvM(_TaskTests):
    component = spectral.TsvM
    cases: Cases = ({}, {"rank": 2}, {"rank": 2, "decomposition": "randomised"}, {"refine": refiners.Svc()})


class TestIsoC(_TaskTests):
    component = spectral.IsoC
    cases: Cases = ({}, {"rank": 2, "lambda": 2.0})


class TestIsoCts(_TaskTests):
    component = spectral.IsoCts
    cases: Cases = ({}, {"common": 0.0}, {"common": 1.0})


class TestWudi(_TaskTests):
    component = spectral.Wudi
    cases: Cases = ({}, {"ridge": 1.0, "weights": [1.0, 0.0]}, {"solver": "adam", "steps": 5})


class TestLinear(_TaskTests):
    component = averages.Linear
    cases: Cases = ({}, {"weights": [1.0, 3.0]}, {"weights": [1.0, -1.0], "normalize": "none"}, {"gradients": LAYERS})


class TestKarcher(_TaskTests):
    component = averages.Karcher
    cases: Cases = ({}, {"weights": [1.0, 0.2], "iterations": 3})


class TestMultiSlerp(_TaskTests):
    component = averages.MultiSlerp
    cases: Cases = ({}, {"base": None}, {"weights": [1.0, 0.2], "normalize": "none"})


class TestNuSlerp(MergeMethodTests):
    component = averages.NuSlerp
    cases: Cases = ({}, {"base": None, "ratio": 0.3}, {"per": "row"}, {"per": "column"})


class TestNearSwap(_TaskTests):
    component = averages.NearSwap
    cases: Cases = ({}, {"distance": 0.5}, {"distance": 0.0})


class TestPassthrough(_TaskTests):
    component = averages.Passthrough
    cases: Cases = ({}, {"scale": 0.5}, {"scale": 0.0, "ratio": 0.5})

    def port_values(self) -> dict[str, Any]:
        return {"models": [tiny_model(1)]}


class TestDellaSparsifier(SparsifierTests):
    component = sparsifiers.Della
    cases: Cases = ({}, {"density": 1.0}, {"density": 0.0}, {"density": 0.3, "epsilon": 0.0})


class TestSvc(ComponentTests):
    component = refiners.Svc
    cases: Cases = ({}, {"floor": 1.0})


class TestLines(ComponentTests):
    component = refiners.Lines
    cases: Cases = ({}, {"alpha": 0.0, "beta": 1.0})


class TestMagnitude(ComponentTests):
    component = sparsifiers.Magnitude
    cases: Cases = ({}, {"over": "model", "density": 0.1})


class TestBreadcrumbsSparsifier(ComponentTests):
    component = sparsifiers.Breadcrumbs
    cases: Cases = ({}, {"gamma": 0.1})
