"""Against PEFT's and mergekit's own functions, under fixed masks.

Where they differ from each other, the test says which one an option follows. Both are test dependencies only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from daremerge_core import MemoryModel, Span, view
from daremerge_core.rng import Stream
from daremerge_merge_tasks import agreement, averages, kernels, presets, sparsifiers

from .models import deltas, merged, together

NAME = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
SHAPE = (40, 50)
WEIGHTS = [1.0, 0.4, 0.7]


@cache
def peft() -> ModuleType:
    """``peft.utils.merge_utils``, which needs only torch when it is loaded by path."""
    spec = importlib.util.find_spec("peft")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no PEFT")
    path = f"{spec.submodule_search_locations[0]}/utils/merge_utils.py"
    own = importlib.util.spec_from_file_location("peft_merge_utils", path)
    assert own is not None
    assert own.loader is not None
    module = importlib.util.module_from_spec(own)
    own.loader.exec_module(module)
    return module


def mergekit(taus: Sequence[Tensor], method: str, *, based: bool = True, **parameters: Any) -> Tensor:
    """mergekit's merge of models over a base of zeros; ``weight`` and ``density`` may be lists for the others."""
    api = pytest.importorskip("mergekit.merge_methods.api")
    base = [torch.zeros_like(taus[0])] if based else []
    result: Tensor = api.merge_tensors([*base, *taus], method, parameters=parameters, base_index=0 if based else None)
    return result


def same(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.fixture
def dare_masks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``torch.bernoulli`` answers our masks, model by model, so that both drop the same elements."""
    model = -1

    def bernoulli(probabilities: Tensor, **_: Any) -> Tensor:
        nonlocal model
        model += 1
        stream = Stream.derive(0, "dare", NAME, model=model)
        keep = stream.keep(Span(0, probabilities.numel()), float(probabilities.reshape(-1)[0]))
        return keep.reshape(probabilities.shape).to(probabilities.dtype)

    monkeypatch.setattr(torch, "bernoulli", bernoulli)
    return


class TestPeft:
    def test_task_arithmetic(self) -> None:
        taus = deltas(3, *SHAPE)
        same(merged(presets.TaskArithmetic, taus, weights=WEIGHTS), peft().task_arithmetic(taus, torch.tensor(WEIGHTS)))

    @pytest.mark.filterwarnings("ignore:The density 1.0")
    @pytest.mark.parametrize("election", ["total", "frequency"])
    def test_ties(self, election: str) -> None:
        """PEFT elects without weights, divides by the count, trims each tensor, and gives ties of counts to +; three
        models that all keep everything cannot tie, so the density is 1 for its count."""
        taus = deltas(3, *SHAPE)
        density = 0.3 if election == "total" else 1.0
        options = {"over": "tensor", "weighted": False, "normalize": "count"}
        elect = "mass" if election == "total" else "count"
        found = merged(presets.Ties, taus, weights=WEIGHTS, density=density, elect=elect, **options)
        same(found, peft().ties(taus, torch.tensor(WEIGHTS), density, election))

    @pytest.mark.usefixtures("dare_masks")
    def test_dare_linear(self) -> None:
        taus = deltas(3, *SHAPE)
        found = merged(presets.DareLinear, taus, weights=WEIGHTS, density=0.25)
        same(found, peft().dare_linear(taus, torch.tensor(WEIGHTS), 0.25))

    @pytest.mark.usefixtures("dare_masks")
    def test_dare_ties(self) -> None:
        taus = deltas(3, *SHAPE)
        found = merged(presets.DareTies, taus, weights=WEIGHTS, density=0.25, weighted=False, normalize="count")
        same(found, peft().dare_ties(taus, torch.tensor(WEIGHTS), 0.25))

    def test_magnitude_prune(self) -> None:
        taus = deltas(3, *SHAPE)
        found = merged(presets.Tasks, taus, weights=WEIGHTS, density=0.3)
        same(found, peft().magnitude_prune(taus, torch.tensor(WEIGHTS), 0.3))

    def test_the_two_elections_differ_where_theirs_do(self) -> None:
        values = [torch.tensor([one]) for one in (3.0, -1.0, -1.0)]
        assert kernels.elected_signs(values, values, by_count=False).item() == 1.0
        assert kernels.elected_signs(values, values, by_count=True).item() == -1.0


class TestMergekit:
    @pytest.mark.parametrize("normalize", [False, True])
    def test_task_arithmetic(self, normalize: bool) -> None:
        taus = deltas(3, *SHAPE)
        found = merged(presets.TaskArithmetic, taus, weights=WEIGHTS, normalize="weights" if normalize else "none")
        same(found, mergekit(taus, "task_arithmetic", weight=WEIGHTS, normalize=normalize))

    @pytest.mark.parametrize("normalize", [False, True])
    def test_ties(self, normalize: bool) -> None:
        """mergekit elects with weights and divides by the weights of those that agree."""
        taus, densities = deltas(3, *SHAPE), [0.2, 0.5, 1.0]
        options = {"over": "tensor", "normalize": "weights" if normalize else "none", "lambda": 0.8}
        found = merged(presets.Ties, taus, weights=WEIGHTS, density=densities, **options)
        theirs = mergekit(
            taus, "ties", weight=WEIGHTS, density=densities, normalize=normalize, **{"lambda": 0.8, "rescale": False}
        )
        same(found, theirs)

    @pytest.mark.usefixtures("dare_masks")
    def test_dare_ties(self) -> None:
        """mergekit rescales to the same L1 norm instead of dividing by the density: without rescaling both agree."""
        taus = deltas(3, *SHAPE)
        found = merged(presets.DareTies, taus, weights=WEIGHTS, density=0.25, rescale=False, normalize="none")
        same(found, mergekit(taus, "dare_ties", weight=WEIGHTS, density=0.25, rescale=False))

    def test_breadcrumbs(self) -> None:
        taus = deltas(3, *SHAPE)
        found = merged(presets.BreadcrumbsMerge, taus, weights=WEIGHTS, density=0.5, gamma=0.1)
        same(found, mergekit(taus, "breadcrumbs", weight=WEIGHTS, density=0.5, gamma=0.1))

    def test_breadcrumbs_ties(self) -> None:
        taus = deltas(3, *SHAPE)
        found = merged(presets.BreadcrumbsTies, taus, weights=WEIGHTS, density=0.5, gamma=0.1, normalize="none")
        same(found, mergekit(taus, "breadcrumbs_ties", weight=WEIGHTS, density=0.5, gamma=0.1))

    def test_della_gives_the_same_probabilities(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """mergekit's epsilon is half of our window."""
        pytest.importorskip("mergekit")
        from mergekit.sparsify import della_magprune

        (tau,) = deltas(1, *SHAPE)
        asked: list[Tensor] = []
        monkeypatch.setattr(torch, "bernoulli", lambda p: asked.append(p) or torch.ones_like(p))
        della_magprune(tau, 0.5, 0.2)
        same(kernels.della_probabilities(tau, 0.5, 0.4), asked[0])

    def test_model_stock(self) -> None:
        """Theirs lets a negative cosine take the result beyond the base; ours stops there, as the paper's range."""
        common = deltas(1, *SHAPE, seed=9)[0]
        taus = [common + tau for tau in deltas(3, *SHAPE)]
        same(merged(agreement.ModelStock, taus), mergekit(taus, "model_stock"))
        same(merged(agreement.ModelStock, taus, per="row"), mergekit(taus, "model_stock", filter_wise=True))

    @pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
    def test_sce(self, density: float) -> None:
        taus = deltas(3, *SHAPE)
        same(merged(agreement.Sce, taus, density=density), mergekit(taus, "sce", select_topk=density))

    def test_linear(self) -> None:
        tensors = deltas(3, *SHAPE)
        found = together(averages.Linear, tensors, weights=WEIGHTS)
        same(found, mergekit(tensors, "linear", based=False, weight=WEIGHTS))

    def test_karcher(self) -> None:
        tensors = deltas(3, *SHAPE)
        same(together(averages.Karcher, tensors), mergekit(tensors, "karcher", based=False), 1e-4)

    @pytest.mark.parametrize("based", [False, True])
    def test_multislerp(self, based: bool) -> None:
        tensors = deltas(3, *SHAPE)
        theirs = mergekit(tensors, "multislerp", based=based, weight=WEIGHTS)
        found = (merged if based else together)(averages.MultiSlerp, tensors, weights=WEIGHTS)
        same(found, theirs, 1e-4)

    @pytest.mark.parametrize(
        ("per", "options"),
        [
            ("tensor", {"nuslerp_flatten": True}),
            ("row", {"nuslerp_flatten": False}),
            ("column", {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
        ],
    )
    def test_nuslerp(self, per: str, options: dict[str, bool]) -> None:
        a, b = deltas(2, *SHAPE)
        theirs = mergekit([a, b], "nuslerp", based=False, weight=[0.3, 0.7], **options)
        models = {name: MemoryModel({"w": one}) for name, one in (("a", a), ("b", b))}
        same(view(averages.NuSlerp(**models, per=per, ratio=0.3)).read("w"), theirs, 1e-4)

    def test_nearswap(self) -> None:
        base, other = deltas(2, *SHAPE)
        api = pytest.importorskip("mergekit.merge_methods.api")
        theirs = api.merge_tensors([base, other], "nearswap", parameters={"t": 0.1}, base_index=0)
        models = {"a": MemoryModel({"w": base}), "b": MemoryModel({"w": other})}
        same(view(averages.NearSwap(**models, distance=0.1)).read("w"), theirs)

    def test_magnitude_keeps_what_theirs_keeps(self) -> None:
        pytest.importorskip("mergekit")
        from mergekit.sparsify import magnitude

        (tau,) = deltas(1, *SHAPE)
        found = merged(presets.Tasks, [tau], sparsify=sparsifiers.Magnitude(), density=0.37)
        assert torch.equal(found, magnitude(tau, 0.37))
