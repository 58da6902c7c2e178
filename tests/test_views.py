"""Views: what a component over live values computes, tensor by tensor, without any file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from daremerge_fixture.plugin import (
    Flat,
    Halfway,
    Invert,
    Mean,
    Moved,
    Negate,
    Positive,
    PowerLerp,
    SumTasks,
    ToNorm,
    Wrong,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from daremerge_core import Masker, MemoryModel, Place, Site, Span, view
from daremerge_core.decisions import Action
from daremerge_core.errors import ComponentError, PlanError
from daremerge_core.testing import tiny_model, tiny_tensors
from daremerge_core.testing.layouts import HeaderModel, load
from daremerge_merge_dare.components import Dare

A, B, BASE = tiny_model(1), tiny_model(2), tiny_model(0)
KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
VAE_KEY = "first_stage_model.decoder.conv_in.weight"


def actions(value: Any) -> Mapping[str, Action]:
    return {key: one.action for key, one in value.decisions.items()}


def test_a_merge_is_a_model() -> None:
    merged = view(Halfway(a=A, b=B, ratio=0.25))
    assert list(merged.keys()) == list(A.keys())
    assert torch.equal(merged.read(KEY), A.read(KEY) + 0.75 * (B.read(KEY) - A.read(KEY)))


def test_integer_tensors_and_keys_only_a_has_pass_through() -> None:
    tensors = tiny_tensors(2)
    del tensors[VAE_KEY]
    tensors["only.in.b"] = torch.zeros(3)
    merged = view(Halfway(a=A, b=MemoryModel(tensors, {})))
    position = next(key for key in A.keys() if key.endswith("position_ids"))
    assert torch.equal(merged.read(position), A.read(position))
    assert torch.equal(merged.read(VAE_KEY), A.read(VAE_KEY))
    assert merged.decisions[VAE_KEY].reason == "not in b"
    assert "only.in.b" not in merged.keys()
    assert merged.only_elsewhere() == {"b": 1}


@given(ratio=st.floats(-1, 2), start=st.integers(0, 119), length=st.integers(0, 60))
def test_any_span_equals_that_part_of_the_whole(ratio: float, start: int, length: int) -> None:
    merged = view(Halfway(a=A, b=B, ratio=ratio))
    span = Span(start, min(start + length, 120))
    assert torch.equal(merged.read(KEY, span), merged.read(KEY).reshape(-1)[span.start : span.stop])


def test_whole_tensor_methods_are_sliced_for_spans() -> None:
    merged = view(PowerLerp(a=A, b=B))
    assert merged.needs_whole(KEY)
    assert torch.equal(merged.read(KEY, Span(5, 9)), merged.read(KEY).reshape(-1)[5:9])


def test_a_chain_gives_the_same_bytes_as_files_in_between() -> None:
    a, b = (tiny_model(seed, torch.float16) for seed in (1, 2))
    inner = view(Halfway(a=a, b=b, ratio=0.3))
    stored = MemoryModel({key: inner.read(key) for key in inner.keys()}, {})
    chained, stepwise = view(Halfway(a=inner, b=b, ratio=0.3)), view(Halfway(a=stored, b=b, ratio=0.3))
    for key in stepwise.keys():
        assert torch.equal(chained.read(key), stepwise.read(key))


def test_a_wider_output_dtype_is_rounded_once() -> None:
    a, b = (tiny_model(seed, torch.float16) for seed in (1, 2))
    wide = view(Halfway(a=a, b=b, ratio=0.3)).with_dtype("F32")
    expected = a.read(KEY).float() + 0.7 * (b.read(KEY).float() - a.read(KEY).float())
    assert torch.equal(wide.read(KEY), expected)
    assert wide.meta(KEY).dtype == "F32"


def test_float64_models_merge_in_float64() -> None:
    a, b = (tiny_model(seed, torch.float64) for seed in (1, 2))
    merged = view(Halfway(a=a, b=b, ratio=0.0))
    assert torch.equal(merged.read(KEY), b.read(KEY))


def test_masks_select_elements_and_unknown_keys_select_nothing() -> None:
    mask = view(Moved(model=A, base=BASE))
    merged = view(Negate(model=A, mask=view(Positive(model=A))))
    assert torch.equal(merged.read(KEY), -A.read(KEY).abs())
    few = MemoryModel({KEY: A.read(KEY)}, {})
    merged = view(Halfway(a=A, b=B, mask=view(Positive(model=few))))
    assert [key for key, action in actions(merged).items() if action is Action.MERGE] == [KEY]
    assert mask.read(KEY).all()


def test_a_mask_of_a_mask_is_lazy_and_inverts() -> None:
    positive = view(Positive(model=A))
    inverted = view(Invert(of=positive))
    assert torch.equal(inverted.read(KEY, Span(3, 50)), ~positive.read(KEY, Span(3, 50)))
    merged = view(Negate(model=A, mask=inverted))
    assert torch.equal(merged.read(KEY), A.read(KEY).abs())


def test_a_masker_may_look_at_all_names_once_before_the_first_answer() -> None:
    class Longest(Masker):
        """Selects the tensor of the longest name."""

        name = "longest"

        def for_keys(self, keys: Sequence[str]) -> Callable[[Site], torch.Tensor]:
            if len(keys) == 1:
                raise ValueError("one tensor is no choice")
            asked.append(list(keys))
            longest = max(keys, key=len)
            return lambda site: torch.full((site.span.numel,), site.place.key == longest)

    asked: list[list[str]] = []
    mask = view(Longest(model=A))
    assert asked == [list(mask.keys())]
    longest = max(mask.keys(), key=len)
    assert [bool(mask.read(key).any()) for key in mask.keys()] == [key == longest for key in mask.keys()]
    assert len(asked) == 1
    with pytest.raises(PlanError, match="step 'protect': one tensor is no choice"):
        view(Longest(model=MemoryModel({KEY: A.read(KEY)}, {})), label="protect")


def test_a_gradient_sets_the_ratio_and_none_leaves_a_alone() -> None:
    gradient = view(Flat(model=A, part="unet", value=0.0))
    merged = view(Halfway(a=A, b=B, gradient=gradient))
    assert torch.equal(merged.read(KEY), B.read(KEY))
    assert torch.equal(merged.read(VAE_KEY), A.read(VAE_KEY))


def test_a_gradient_that_touches_nothing_is_an_error() -> None:
    with pytest.raises(PlanError, match="touches none"):
        view(Flat(model=A, part="lm"))


def test_parts_include_and_exclude_limit_a_merge() -> None:
    only_vae = view(Halfway(a=A, b=B, parts=["vae"]))
    assert [key for key, action in actions(only_vae).items() if action is Action.MERGE] == [VAE_KEY]
    chosen = view(Halfway(a=A, b=B, include="*.attn1.*", exclude="*.to_k.*"))
    assert [key for key, action in actions(chosen).items() if action is Action.MERGE] == [KEY]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parts": ["lm"]}, ["parts lm hold no tensor", "unet"]),
        ({"include": "nothing.like.this"}, ["include"]),
        ({"include": "*", "exclude": "*"}, ["would change nothing", "not selected"]),
    ],
)
def test_a_merge_of_nothing_is_an_error(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(Exception) as caught:
        view(Halfway(a=A, b=B, **options))
    for word in words:
        assert word in str(caught.value)


class Unet(Halfway):
    """Leaves all but the U-Net alone."""

    name = "unet-only"

    def leaves_alone(self, place: Place) -> str | None:
        return None if place.part == "unet" else "not of the U-Net"


def test_what_a_step_leaves_alone_is_copied_and_if_that_is_all_it_is_an_error() -> None:
    value = view(Unet(a=A, b=B))
    left = {key for key, one in value.decisions.items() if one.reason == "not of the U-Net"}
    assert left == {key for key in A.keys() if "diffusion_model" not in key and A.meta(key).dtype != "I64"}
    assert all(value.decisions[key].action is Action.COPY for key in left)
    assert set(value.active_keys()) == {key for key in A.keys() if "diffusion_model" in key}
    with pytest.raises(PlanError, match="would change nothing: not of the U-Net"):
        view(Unet(a=MemoryModel({VAE_KEY: A.read(VAE_KEY)}), b=B))


def test_a_ratio_of_1_everywhere_is_allowed_and_is_a() -> None:
    same = view(Halfway(a=A, b=B, ratio=1.0))
    assert all(torch.equal(same.read(key), A.read(key)) for key in A.keys())


class TestMismatch:
    def other(self) -> MemoryModel:
        tensors = tiny_tensors(2)
        tensors[KEY] = torch.zeros(12, 11)
        return MemoryModel(tensors, {})

    def test_is_an_error_that_names_tensor_shapes_and_policies(self) -> None:
        with pytest.raises(PlanError) as caught:
            view(Halfway(a=A, b=self.other()), label="mine")
        text = str(caught.value)
        for word in ["step 'mine'", KEY, "[12, 10]", "[12, 11]", "--on-mismatch keep-a"]:
            assert word in text

    def test_keep_a_copies_and_skip_leaves_out(self) -> None:
        kept = view(Halfway(a=A, b=self.other(), on_mismatch="keep-a"))
        assert torch.equal(kept.read(KEY), A.read(KEY))
        skipped = view(Halfway(a=A, b=self.other(), on_mismatch="skip"))
        assert KEY not in skipped.keys()
        with pytest.raises(KeyError):
            skipped.read(KEY)

    def test_a_tensor_missing_from_the_base_alone_is_a_mismatch(self) -> None:
        tensors = tiny_tensors(0)
        del tensors[KEY]
        with pytest.raises(PlanError, match="not in base"):
            view(Dare(a=A, b=B, base=MemoryModel(tensors, {})))


def header_only(layout: str, **shapes: tuple[int, ...]) -> HeaderModel:
    """A real checkpoint's headers, some shapes changed: ``model__out__weight=(4, 4)``."""
    metas = load(layout)
    for ending, shape in shapes.items():
        (key,) = (key for key in metas if key.endswith(ending.replace("__", ".")))
        metas[key] = dataclasses.replace(metas[key], shape=shape)
    return HeaderModel(metas)


class TestArchitectures:
    def test_that_differ_are_refused_by_name(self) -> None:
        with pytest.raises(PlanError, match="a is sd15 and b is sdxl"):
            view(Halfway(a=header_only("sd15"), b=header_only("sdxl")))

    def test_an_inpainting_model_differs_in_one_tensor_which_is_named(self) -> None:
        inpainting = header_only("sd15", model__diffusion_model__input_blocks__0__0__weight=(320, 9, 3, 3))
        with pytest.raises(PlanError) as caught:
            view(Halfway(a=header_only("sd15"), b=inpainting))
        for word in ["1 of 1130 tensors do not fit", "input_blocks.0.0.weight", "[320, 4, 3, 3]", "[320, 9, 3, 3]"]:
            assert word in str(caught.value)
        kept = view(Halfway(a=header_only("sd15"), b=inpainting, on_mismatch="keep-a"))
        assert sum(action is Action.MERGE for action in actions(kept).values()) == len(kept.keys()) - 1


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_small_floats_merge_in_float32_and_round_once(dtype: torch.dtype) -> None:
    a, b = (tiny_model(seed, dtype) for seed in (1, 2))
    merged = view(Halfway(a=a, b=b, ratio=0.5)).read(KEY)
    expected = (a.read(KEY).float() + 0.5 * (b.read(KEY).float() - a.read(KEY).float())).to(dtype)
    assert merged.dtype == dtype
    assert torch.equal(merged.float(), expected.float())


class TestManyModels:
    def test_the_mean_of_three(self) -> None:
        merged = view(Mean(models=[A, B, BASE]))
        expected = (A.read(KEY) + B.read(KEY) + BASE.read(KEY)) / 3
        assert torch.equal(merged.read(KEY), expected)

    def test_deltas_are_over_the_base_and_each_model_draws_for_itself(self) -> None:
        merged = view(SumTasks(models=[A, A], base=BASE, keep=0.5))
        delta = A.read(KEY) - BASE.read(KEY)
        counts = ((merged.read(KEY) - BASE.read(KEY)) / delta).round()
        assert set(counts.unique().tolist()) == {0.0, 1.0, 2.0}, "one mask for both models would give 0 and 2 only"

    def test_the_base_gives_the_keys(self) -> None:
        assert view(SumTasks(models=[A, B], base=BASE)).anchor is BASE


class TestMeasuring:
    @pytest.mark.parametrize("over", ["tensor", "block", "model"])
    def test_norms_over_a_scope(self, over: str) -> None:
        merged = view(ToNorm(a=A, b=B, over=over, ratio=0.0))
        floats = [key for key in A.keys() if A.meta(key).dtype == "F32"]
        block = merged.layout.place(KEY).block
        scope = {
            "tensor": [KEY],
            "block": [k for k in floats if merged.layout.place(k).block == block],
            "model": floats,
        }[over]
        a, b = (sum(float(m.read(k).double().square().sum()) for k in scope) ** 0.5 for m in (A, B))
        torch.testing.assert_close(merged.read(KEY), B.read(KEY) * (a / b))

    def test_the_same_by_spans(self) -> None:
        merged = view(ToNorm(a=A, b=B, over="model"))
        again = view(ToNorm(a=A, b=B, over="model"))
        assert torch.equal(again.read(KEY, Span(7, 31)), merged.read(KEY).reshape(-1)[7:31])

    @given(st.lists(st.floats(-1e6, 1e6, width=32), max_size=70))
    def test_tree_sum_is_the_sum_in_float64(self, values: list[float]) -> None:
        from daremerge_core.kernels import tree_sum

        total = float(tree_sum(torch.tensor(values, dtype=torch.float32)))
        assert total == pytest.approx(sum(values), abs=1e-6)


class TestBrokenPlugins:
    @pytest.mark.parametrize(
        ("how", "words"), [("shape", ["shape", "(11, 10)"]), ("raise", ["the plugin's own trouble"])]
    )
    def test_a_component_that_breaks_its_contract_is_named(self, how: str, words: Sequence[str]) -> None:
        broken = view(Wrong(a=A, b=B, how=how).model_copy(), label="mine")
        with pytest.raises(ComponentError) as caught:
            broken.read(KEY) if how == "raise" else broken.read(KEY, Span(0, 12))
        text = str(caught.value)
        assert "merge.wrong" in text
        assert "'mine'" in text
        assert KEY in text


class TestNested:
    def test_a_blend_is_found_by_name_and_measured_through(self) -> None:
        merged = view(ToNorm(a=A, b=B, blend="halfway", ratio=1 - 1e-9))
        torch.testing.assert_close(merged.read(KEY), A.read(KEY))

    def test_whole_tensor_needs_are_inherited(self) -> None:
        assert view(ToNorm(a=A, b=B, blend={"op": "power-lerp", "power": 2.0})).needs_whole(KEY)

    @pytest.mark.parametrize(
        ("blend", "words"),
        [
            ("no-such", "no merge called"),
            ({"op": "halfway", "ratio": 0.3}, "ratio of halfway cannot be set here"),
            ({"op": "fixture-tasks"}, "needs models, base"),
            (7, "component's name"),
        ],
    )
    def test_what_cannot_be_nested_is_refused(self, blend: Any, words: str) -> None:
        with pytest.raises(Exception, match=words):
            ToNorm(a=A, b=B, blend=blend)

    def test_it_is_written_back_as_it_was_given(self) -> None:
        component = ToNorm(a="a", b="b", blend={"op": "power-lerp", "power": 2.0})
        assert component.model_dump(mode="json")["blend"] == {"op": "power-lerp", "power": 2.0}


@settings(max_examples=20)
@given(st.integers(0, 3))
def test_a_view_never_changes_its_inputs(seed: int) -> None:
    a, b = tiny_model(seed), tiny_model(seed + 1)
    before = {key: a.read(key).clone() for key in a.keys()}
    merged = view(PowerLerp(a=a, b=b, power=2.0))
    for key in merged.keys():
        merged.read(key)
    assert all(torch.equal(a.read(key), before[key]) for key in a.keys())
