"""Laws of the masks: shares, patterns, set algebra, edits, and what a mask does to a merge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from daremerge_core import Masker, MemoryModel, MergeMethod, Site, Span, view
from daremerge_core.api import merge_recipe
from daremerge_core.catalog import Catalog
from daremerge_core.errors import PlanError, SelectorError
from daremerge_core.stores import MaskFile
from daremerge_core.stores.mask_file import BitMask
from daremerge_core.testing import tiny_model
from daremerge_core.testing.fixtures import save
from daremerge_core.testing.tiny import SHAPES, tiny_tensors
from daremerge_masks import components, plugin
from daremerge_masks.components import (
    Difference,
    Edit,
    Everything,
    Gaussian,
    Intersect,
    Invert,
    Magnitude,
    Nothing,
    Overlap,
    Partition,
    Pattern,
    Random,
    SignAgreement,
    Union,
    Xor,
)

MODEL = tiny_model(0)
KEYS = tuple(SHAPES)
N = 40_000
WIDE = MemoryModel({"w": torch.zeros(N)})
SEEDS = st.integers(0, 2**70)


def tensors(mask: Any) -> dict[str, Tensor]:
    return {key: mask.read(key) for key in mask.keys()}


def same(one: Any, other: Any) -> bool:
    """Whether two masks know the same tensors and select the same elements."""
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def share(mask: Any) -> float:
    return float(mask.read("w").double().mean())


@st.composite
def some_masks(draw: st.DrawFn, *, at_least: int = 2, at_most: int = 4) -> list[BitMask]:
    """Masks of some of the tiny checkpoint's tensors each, random in what they select."""
    found = []
    for _ in range(draw(st.integers(at_least, at_most))):
        keys = draw(st.sets(st.sampled_from(KEYS), min_size=1))
        density = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
        chosen = {key: torch.rand(SHAPES[key], generator=generator) < density for key in KEYS if key in keys}
        found.append(BitMask(MemoryModel(chosen)))
    return found


# --- at random -----------------------------------------------------------------------------------------


class TestRandom:
    @given(probability=st.floats(0, 1), seed=SEEDS)
    @settings(max_examples=30)
    def test_the_share_is_the_probability(self, probability: float, seed: int) -> None:
        deviation = math.sqrt(probability * (1 - probability) / N)
        found = share(view(Random(model=WIDE, probability=probability, seed=seed)))
        assert abs(found - probability) <= 6 * deviation + 3 / N  # a few elements: where p is near 0 or 1

    @given(st.floats(0, 1), st.floats(0, 1), SEEDS)
    @settings(max_examples=15)
    def test_a_lower_probability_selects_within_a_higher_one(self, one: float, other: float, seed: int) -> None:
        low, high = (view(Random(model=WIDE, probability=p, seed=seed)).read("w") for p in sorted([one, other]))
        assert not (low & ~high).any()

    def test_tensors_of_one_shape_and_other_seeds_have_masks_of_their_own(self) -> None:
        two = MemoryModel({"v": torch.zeros(N), "w": torch.zeros(N)})
        mask, reseeded = view(Random(model=two)), view(Random(model=two, seed=1))
        for one, other in ((mask.read("v"), mask.read("w")), (mask.read("w"), reseeded.read("w"))):
            assert 0.48 < float((one == other).double().mean()) < 0.52


class TestGaussian:
    @given(mean=st.floats(-3, 3), std=st.floats(0.1, 3), threshold=st.floats(-3, 3), seed=st.integers(0, 100))
    @settings(max_examples=30)
    def test_the_share_is_the_chance_of_a_draw_above_the_threshold(
        self, mean: float, std: float, threshold: float, seed: int
    ) -> None:
        expected = 1 - NormalDist(mean, std).cdf(threshold)
        mask = view(Gaussian(model=WIDE, mean=mean, std=std, threshold=threshold, seed=seed))
        assert abs(share(mask) - expected) <= 6 * math.sqrt(expected * (1 - expected) / N) + 1e-9

    @pytest.mark.parametrize(("mean", "expected"), [(-1.0, 0.0), (0.5, 0.0), (0.75, 1.0)])
    def test_without_spread_it_is_all_or_nothing(self, mean: float, expected: float) -> None:
        assert share(view(Gaussian(model=WIDE, mean=mean, std=0.0, threshold=0.5))) == expected

    def test_the_default_is_half(self) -> None:
        assert Gaussian(model=WIDE).probability() == 0.5

    @given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0, allow_infinity=False), st.data())
    def test_any_options_give_a_probability(self, mean: float, std: float, data: st.DataObject) -> None:
        threshold = data.draw(st.floats(allow_nan=False, allow_infinity=False))
        assert 0 <= Gaussian(model=WIDE, mean=mean, std=std, threshold=threshold).probability() <= 1


class TestPartition:
    @given(count=st.integers(2, 12), seed=SEEDS)
    @settings(max_examples=20)
    def test_is_disjoint_complete_and_even(self, count: int, seed: int) -> None:
        parts = [
            view(Partition(model=WIDE, count=count, index=index, seed=seed)).read("w") for index in range(1, count + 1)
        ]
        assert torch.equal(torch.stack(parts).sum(0), torch.ones(N, dtype=torch.int64)), "each element in exactly one"
        deviation = math.sqrt((1 - 1 / count) / count / N)
        for part in parts:
            assert abs(float(part.double().mean()) - 1 / count) < 6 * deviation

    def test_an_index_beyond_the_count_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="index is 5, but there are 4 sets: give 1 to 4"):
            Partition(model=WIDE, index=5)


# --- patterns --------------------------------------------------------------------------------------------


def centre(index: int, count: int) -> Fraction:
    """How far along ``count`` cells the centre of one lies, from 0 to 1."""
    return Fraction(2 * index + 1, 2 * count)


HALF = Fraction(1, 2)
SELECTED: Mapping[str, Callable[[int, int, int, int, int], bool]] = {
    "rows": lambda i, j, rows, columns, size: (i // size) % 2 == 0,
    "columns": lambda i, j, rows, columns, size: (j // size) % 2 == 0,
    "checkerboard": lambda i, j, rows, columns, size: (i // size) % 2 == (j // size) % 2,
    "upper-triangle": lambda i, j, rows, columns, size: centre(j, columns) >= centre(i, rows),
    "lower-triangle": lambda i, j, rows, columns, size: centre(j, columns) < centre(i, rows),
    "top": lambda i, j, rows, columns, size: centre(i, rows) <= HALF,
    "bottom": lambda i, j, rows, columns, size: centre(i, rows) > HALF,
    "left": lambda i, j, rows, columns, size: centre(j, columns) <= HALF,
    "right": lambda i, j, rows, columns, size: centre(j, columns) > HALF,
}
"""Each pattern as one would say it, for row i, column j."""


class TestPattern:
    @pytest.mark.parametrize("shape", SELECTED)
    @given(rows=st.integers(0, 9), columns=st.integers(0, 9), size=st.integers(1, 4))
    @settings(max_examples=30)
    def test_is_what_its_name_says(self, shape: str, rows: int, columns: int, size: int) -> None:
        mask = view(Pattern(model=MemoryModel({"w": torch.zeros(rows, columns)}), shape=shape, size=size))
        expected = [SELECTED[shape](i, j, rows, columns, size) for i, j in product(range(rows), range(columns))]
        assert mask.read("w").reshape(-1).tolist() == expected

    @pytest.mark.parametrize(
        ("one", "other"), [("upper-triangle", "lower-triangle"), ("top", "bottom"), ("left", "right")]
    )
    @pytest.mark.parametrize("size", [(6, 4), (3, 7), (5,), (), (4, 3, 3, 3), (0, 4), (1, 1)])
    def test_the_halves_are_complements(self, one: str, other: str, size: tuple[int, ...]) -> None:
        model = MemoryModel({"w": torch.zeros(size)})
        first, second = (view(Pattern(model=model, shape=shape)).read("w") for shape in (one, other))
        assert torch.equal(first, ~second)

    @pytest.mark.parametrize("shape", ["upper-triangle", "top", "left"])
    @pytest.mark.parametrize(("rows", "columns"), [(6, 4), (4, 6), (320, 2880), (7, 12)])
    def test_they_are_halves(self, shape: str, rows: int, columns: int) -> None:
        selected = view(Pattern(model=MemoryModel({"w": torch.zeros(rows, columns)}), shape=shape)).read("w")
        slack = columns if shape == "top" else rows if shape == "left" else rows + columns
        assert abs(int(selected.sum()) - rows * columns / 2) <= slack / 2

    @pytest.mark.parametrize("shape", SELECTED)
    def test_a_convolution_is_its_matrix_and_a_vector_a_column(self, shape: str) -> None:
        model = MemoryModel(
            {"conv": torch.zeros(4, 3, 3, 3), "matrix": torch.zeros(4, 27), "v": torch.zeros(5), "c": torch.zeros(5, 1)}
        )
        mask = view(Pattern(model=model, shape=shape, size=2))
        assert torch.equal(mask.read("conv").reshape(4, 27), mask.read("matrix"))
        assert torch.equal(mask.read("v"), mask.read("c").reshape(5))


# --- several models ------------------------------------------------------------------------------------


@st.composite
def tuned(draw: st.DrawFn) -> tuple[list[np.ndarray], np.ndarray]:
    """Two to five models and their base; few values, so that ties and zeros abound."""
    values = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, math.inf, math.nan])
    size = draw(st.integers(1, 12))
    tensor = st.lists(values, min_size=size, max_size=size).map(lambda found: np.array(found, np.float32))
    base = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=size, max_size=size))
    return draw(st.lists(tensor, min_size=2, max_size=5)), np.array(base, np.float32)


def over(models: Sequence[np.ndarray], base: np.ndarray) -> dict[str, Any]:
    first, *rest = (MemoryModel({"w": torch.from_numpy(model)}) for model in models)
    return {"model": first, "others": rest, "base": MemoryModel({"w": torch.from_numpy(base)})}


class TestSeveralModels:
    @given(tuned(), st.data())
    @settings(max_examples=50)
    def test_so_many_agree_in_sign(self, given_: Any, data: st.DataObject) -> None:
        models, base = given_
        at_least = data.draw(st.none() | st.integers(1, len(models)))
        selected = view(SignAgreement(**over(models, base), at_least=at_least)).read("w").tolist()
        for i, found in enumerate(selected):
            deltas = [float(model[i] - base[i]) for model in models]
            most = max(sum(delta > 0 for delta in deltas), sum(delta < 0 for delta in deltas))
            assert found == (most >= (at_least or len(models)))

    def test_more_than_there_are_cannot_agree(self) -> None:
        with pytest.raises(ValidationError, match="at_least is 4, but there are 3 models"):
            SignAgreement(model="a", others=["b", "c"], base="base", at_least=4)

    @given(tuned(), st.sampled_from([0.0, 0.2, 0.4, 1.0, 2.0]))
    @settings(max_examples=50)
    def test_overlap_is_the_papers_formula(self, given_: Any, strength: float) -> None:
        models, base = given_
        with np.errstate(invalid="ignore"):
            tau = [model - base for model in models]
            rest = np.sum(np.stack(tau[1:]), axis=0)
            expected = np.abs(tau[0]) >= np.float32(strength) * np.abs(rest)
        selected = view(Overlap(**over(models, base), **{"lambda": strength})).read("w")
        assert selected.tolist() == expected.tolist()

    def test_a_change_of_one_model_alone_is_its_own(self) -> None:
        models = [np.float32([1, 0, 1, 0]), np.float32([0, 1, 1, 0])]
        selected = view(Overlap(**over(models, np.zeros(4, np.float32)))).read("w")
        assert selected.tolist() == [True, False, True, True]


# --- set algebra -----------------------------------------------------------------------------------------


class TestSetAlgebra:
    @given(some_masks(at_most=2))
    @settings(max_examples=40)
    def test_de_morgan(self, masks: list[BitMask]) -> None:
        """Over the tensors of a model, whichever of them each mask knows."""

        def inverted(mask: Any) -> Any:
            return view(Invert(mask=mask, model=MODEL))

        each = [inverted(mask) for mask in masks]
        assert same(inverted(view(Union(masks=masks, model=MODEL))), view(Intersect(masks=each, model=MODEL)))
        assert same(inverted(view(Intersect(masks=masks, model=MODEL))), view(Union(masks=each, model=MODEL)))

    @given(some_masks(at_most=2), st.booleans())
    @settings(max_examples=40)
    def test_xor_is_the_union_without_the_intersection(self, masks: list[BitMask], with_model: bool) -> None:
        universe = {"model": MODEL} if with_model else {}
        both = [view(Union(masks=masks, **universe)), view(Intersect(masks=masks, **universe))]
        assert same(view(Xor(masks=masks, **universe)), view(Difference(masks=both, **universe)))

    @given(some_masks())
    @settings(max_examples=40)
    def test_each_operation_element_by_element(self, masks: list[BitMask]) -> None:
        known = [key for key in KEYS if any(key in mask.keys() for mask in masks)]
        results = {kind: view(kind(masks=masks)) for kind in (Union, Intersect, Difference, Xor)}
        for value in results.values():
            assert set(value.keys()) == set(known)
        for key in known:
            stack = torch.stack(
                [mask.read(key) if key in mask.keys() else torch.zeros(SHAPES[key], dtype=torch.bool) for mask in masks]
            )
            assert torch.equal(results[Union].read(key), stack.any(0))
            assert torch.equal(results[Intersect].read(key), stack.all(0))
            assert torch.equal(results[Difference].read(key), stack[0] & ~stack[1:].any(0))
            assert torch.equal(results[Xor].read(key), stack.sum(0) % 2 == 1)

    @given(some_masks(at_least=1, at_most=1))
    @settings(max_examples=40)
    def test_inverting_twice_gives_the_mask_back(self, masks: list[BitMask]) -> None:
        (mask,) = masks
        assert same(view(Invert(mask=view(Invert(mask=mask)))), mask)

    @given(some_masks(at_most=3))
    @settings(max_examples=40)
    def test_a_model_says_which_tensors_there_are(self, masks: list[BitMask]) -> None:
        few = MemoryModel({key: MODEL.read(key) for key in KEYS[:4]})
        result = view(Union(masks=masks, model=few))
        assert set(result.keys()) == set(KEYS[:4])

    def test_one_mask_is_not_enough(self) -> None:
        with pytest.raises(ValidationError, match="at least 2"):
            Union(masks=["only"])


# --- edits -----------------------------------------------------------------------------------------------

SOME = "*.to_{q,k}.*, norm1"
CHOSEN = [key for key in KEYS if ".to_" in key or ".norm1." in key]


class MeansToMeasure(Masker):
    """Selects weights above the mean."""

    name = "means-to-measure"

    def passes(self) -> int:
        return 1


class TestEdit:
    @pytest.mark.parametrize(
        ("to", "alone"),
        [
            ("true", Everything(model=MODEL)),
            ("false", Nothing(model=MODEL)),
            ({"op": "random", "probability": 0.3, "seed": 4}, Random(model=MODEL, probability=0.3, seed=4)),
            ({"op": "gaussian", "threshold": 1.0}, Gaussian(model=MODEL, threshold=1.0)),
            ({"op": "pattern", "shape": "rows"}, Pattern(model=MODEL, shape="rows")),
            ({"op": "mask.partition", "index": 2}, Partition(model=MODEL, index=2)),
        ],
        ids=lambda value: value.name if hasattr(value, "name") else "to",
    )
    @pytest.mark.parametrize("universe", [{}, {"model": MODEL}], ids=["the mask's tensors", "a model's"])
    def test_chosen_layers_are_the_other_maskers_and_the_rest_stays(
        self, to: Any, alone: Masker, universe: dict[str, Any]
    ) -> None:
        mask = view(Magnitude(model=MODEL, base=tiny_model(1)))
        edited, other = view(edit(of=mask, include=SOME, to=to, **universe)), view(alone)
        assert len(CHOSEN) == 3
        for key in edited.keys():
            assert torch.equal(edited.read(key), (other if key in CHOSEN else mask).read(key))

    def test_the_default_is_true(self) -> None:
        assert edit(of="m", include="*") == edit(of="m", include="*", to="true")

    @pytest.mark.parametrize(("yaml", "name"), [(True, "true"), (False, "false")])
    def test_yaml_reads_true_and_false_as_booleans(self, yaml: bool, name: str) -> None:
        assert edit(of="m", include="*", to=yaml).to.name == name

    def test_with_a_model_layers_that_the_mask_does_not_know_can_be_set(self) -> None:
        few = BitMask(MemoryModel({KEYS[2]: torch.zeros(SHAPES[KEYS[2]], dtype=torch.bool)}))
        with pytest.raises(SelectorError, match="'to_q' matches none of the 1 tensors"):
            view(edit(of=few, include="to_q"))
        result = view(edit(of=few, include="to_q", model=MODEL))
        assert list(result.keys()) == list(KEYS)
        assert [key for key in result.keys() if result.read(key).any()] == [KEYS[0]]

    def test_the_selector_is_resolved_once_when_the_mask_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        select = components.select
        monkeypatch.setattr(
            components, "select", lambda *given_, **options: asked.append(1) or select(*given_, **options)
        )
        edited = view(edit(of=view(Everything(model=MODEL)), include=SOME, to="false"))
        for key in edited.keys():
            edited.read(key, Span(0, 1))
        assert asked == [1]

    @pytest.mark.parametrize("selector", ["no.such.layer", "*.to_q", "!*"])
    def test_a_selector_that_selects_nothing_is_an_error(self, selector: str) -> None:
        with pytest.raises(SelectorError, match="include"):
            view(edit(of=view(Everything(model=MODEL)), include=selector))

    @pytest.mark.parametrize("name", ["magnitude", "sign-agreement", "overlap"])
    def test_maskers_that_need_more_than_the_tensors_name_are_refused(self, name: str) -> None:
        with pytest.raises(ValidationError, match=f"{name} needs .*base, so it cannot be used here"):
            edit(of="m", include="*", to=name)

    def test_maskers_that_measure_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="means-to-measure measures weights first"):
            edit(of="m", include="*", to=MeansToMeasure(model="-"))


def edit(**options: Any) -> Edit:
    """An edit that finds other maskers in a catalog of this distribution alone."""
    catalog = Catalog()
    catalog.register(plugin, name="masks")
    return Edit.model_validate(options, context={"catalog": catalog})


# --- in a merge ------------------------------------------------------------------------------------------


class Halfway(MergeMethod):
    """A merge to mask: the middle between A and B."""

    name = "halfway"

    def merge(self, site: Site) -> Tensor:
        return site.a + site.t * (site.b - site.a)


class TestInAMerge:
    A, B = tiny_model(1, torch.float16), tiny_model(2, torch.float16)

    def merged(self, mask: Any) -> dict[str, Tensor]:
        value = view(Halfway(a=self.A, b=self.B, mask=mask))
        return {key: value.read(key) for key in value.keys()}

    def test_false_gives_a_bit_for_bit(self) -> None:
        found = self.merged(view(Nothing(model=self.A)))
        assert all(torch.equal(found[key], self.A.read(key)) for key in self.A.keys())

    def test_true_gives_the_unmasked_merge(self) -> None:
        found, plain = self.merged(view(Everything(model=self.A))), self.merged(None)
        assert all(torch.equal(found[key], plain[key]) for key in self.A.keys())
        assert any(not torch.equal(plain[key], self.A.read(key)) for key in self.A.keys())

    @given(SEEDS, st.floats(0, 1))
    @settings(max_examples=10)
    def test_b_comes_in_where_the_mask_selects_and_nowhere_else(self, seed: int, probability: float) -> None:
        mask = view(Random(model=self.A, probability=probability, seed=seed))
        found, plain = self.merged(mask), self.merged(None)
        for key in mask.keys():
            assert torch.equal(found[key], torch.where(mask.read(key), plain[key], self.A.read(key)))

    def test_masks_of_masks_of_merges_by_spans(self) -> None:
        """The magnitude of a masked merge, edited, joined with another: nothing is held, and spans agree."""
        protect = view(Magnitude(model=self.A, base=self.B, threshold=0.5))
        merge = view(Halfway(a=self.A, b=self.B, mask=protect))
        strongest = view(Magnitude(model=merge, base=self.A, threshold=0.7, select="above", over="model"))
        edited = view(edit(of=strongest, include=SOME, to={"op": "random", "seed": 1}))
        joined = view(Xor(masks=[edited, protect, view(Invert(mask=strongest))]))
        final = view(Halfway(a=self.A, b=self.B, mask=joined))
        for key in joined.keys():
            whole = final.read(key).reshape(-1)
            pieces = [final.read(key, Span(at, min(at + 13, whole.numel()))) for at in range(0, whole.numel(), 13)]
            assert torch.equal(torch.cat([whole[:0], *pieces]), whole)
        key = KEYS[0]
        moved = ((self.A.read(key).float() + self.B.read(key).float()) / 2).half() != self.A.read(key)
        assert not (strongest.read(key) & ~protect.read(key) & moved).any(), "only what the merge changed can be strong"

    def test_a_mask_of_other_models_is_refused_by_name(self) -> None:
        other = MemoryModel({"some.other.weight": torch.zeros(3)})
        with pytest.raises(PlanError, match=r"step 'protect': there is no tensor to make this mask\.magnitude for"):
            view(Magnitude(model=MODEL, base=other), label="protect")


# --- in a recipe -----------------------------------------------------------------------------------------


def test_a_recipe_writes_a_mask_made_of_masks(tmp_path: Path) -> None:
    """Needs this distribution installed: a recipe finds maskers by name."""
    for index, name in enumerate("abc"):
        save(tmp_path / f"{name}.safetensors", tiny_tensors(index, torch.float16))
    steps = {
        "protect": {"op": "mask.magnitude", "model": "a", "base": "c", "over": "block"},
        "agree": {"op": "mask.sign-agreement", "model": "a", "others": ["b"], "base": "c"},
        "both": {"op": "mask.intersect", "masks": ["protect", "agree"]},
        "rest": {"op": "mask.invert", "mask": "both"},
        "final": {"op": "mask.edit", "mask": "rest", "include": SOME, "to": False},
    }
    models = {name: f"{name}.safetensors" for name in "abc"}
    recipe = {"models": models, "steps": steps, "output": "final"}
    merge_recipe(recipe, tmp_path / "m.safetensors", folder=tmp_path)
    a, b, c = (MemoryModel(tiny_tensors(index, torch.float16)) for index in range(3))
    protect = view(Magnitude(model=a, base=c, over="block"))
    agree = view(SignAgreement(model=a, others=[b], base=c))
    with MaskFile(tmp_path / "m.safetensors") as written:
        assert set(written.keys()) == set(KEYS)
        for key in KEYS:
            expected = ~(protect.read(key) & agree.read(key)) & (key not in CHOSEN)
            assert torch.equal(written.read(key), expected)
