"""LoRAs in a checkpoint: against ComfyUI, and what holds of strengths, spans, ratios and formats."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daremerge_core import DaremergeError, MemoryModel, Span, view
from daremerge_lora.deltas import read_change
from daremerge_lora.formats import open_lora
from daremerge_lora.targets import match
from daremerge_lora.testing import random_lora
from daremerge_lora.tools.apply import Apply

from .checkpoints import CONTEXT, FEW, difference, small, tensors_of
from .oracles import comfy_module

MODEL = small(only=FEW)
LORA = random_lora(MODEL, rank=3, alpha=2.0, seed=1)
OTHER = random_lora(MODEL, rank=2, seed=2)


def applied(*loras: MemoryModel, model: MemoryModel = MODEL, **options: object) -> dict[str, torch.Tensor]:
    value = view(Apply.model_validate({"model": model, "loras": list(loras), **options}))
    return tensors_of(value)


BEFORE = tensors_of(MODEL)


def comfyui(model: MemoryModel, *loras: tuple[MemoryModel, float]) -> dict[str, torch.Tensor]:
    """What ComfyUI's own loading and adding make of every tensor, given which weight each name stands for."""
    lora_code = comfy_module("comfy.lora")
    patches: dict[str, list[tuple[object, ...]]] = {}
    for one, strength in loras:
        file = open_lora(one)
        targets = match(file, model).targets
        found = lora_code.load_lora(tensors_of(one), {name: name for name in targets}, log_missing=False)
        for name, patch in found.items():
            target = targets[name]
            offset = None if target.rows is None else (0, target.rows[0], target.rows[1] - target.rows[0])
            function = (lambda tensor: tensor.T) if target.transposed else None
            patches.setdefault(target.key, []).append((strength, patch, 1.0, offset, function))
    result = tensors_of(model)
    for key, some in patches.items():
        result[key] = lora_code.calculate_weight(some, model.read(key).clone(), key)
    return result


class TestComfyUI:
    def test_two_loras_give_the_same_model(self) -> None:
        model = small()
        one, other = random_lora(model, rank=3, alpha=2.0, seed=1), random_lora(model, rank=2, seed=2)
        ours = applied(one, other, model=model, strengths=[0.8, -0.5])
        theirs = comfyui(model, (one, 0.8), (other, -0.5))
        before = tensors_of(model)
        assert len(difference(ours, before)) > 300
        assert difference(ours, before).keys() == difference(theirs, before).keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-6)


class TestStrengths:
    def test_at_0_the_model_stays_to_the_bit(self) -> None:
        assert not difference(applied(LORA, OTHER, strengths=[0.0, 0.0]), BEFORE)
        assert not difference(applied(LORA, unet_strength=0.0, clip_strength=0.0), BEFORE)

    def test_a_strength_scales_the_change(self) -> None:
        once, twice = (difference(applied(LORA, strengths=[s]), BEFORE) for s in (1.0, 2.0))
        assert once.keys() == twice.keys()
        for key in once:
            torch.testing.assert_close(twice[key], 2 * once[key], rtol=1e-5, atol=2e-6)

    def test_parts_have_strengths_of_their_own(self) -> None:
        unet, clip = (difference(applied(LORA, **{f"{one}_strength": 0.0}), BEFORE) for one in ("clip", "unet"))
        assert {key.partition(".")[0] for key in unet} == {"model"}
        assert {key.partition(".")[0] for key in clip} == {"cond_stage_model"}
        assert unet.keys() | clip.keys() == difference(applied(LORA), BEFORE).keys()

    def test_one_strength_too_few_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="1 strengths for 2 LoRAs"):
            Apply(model=MODEL, loras=[LORA, OTHER], strengths=[1.0])


class TestRatios:
    def test_a_gradient_weighs_blocks(self) -> None:
        class Half:
            def keys(self) -> list[str]:
                return list(BEFORE)

            def ratio(self, key: str) -> float | None:
                return 0.5 if "input_blocks" in key else None

        full, half = difference(applied(LORA), BEFORE), difference(applied(LORA, gradient=Half()), BEFORE)
        assert half.keys() == {key for key in full if "input_blocks" in key}
        for key, change in half.items():
            torch.testing.assert_close(change, 0.5 * full[key], rtol=1e-5, atol=1e-6)

    def test_selectors_limit_it(self) -> None:
        assert all("attn2" in key for key in difference(applied(LORA, include="*.attn2.*"), BEFORE))


class TestSpans:
    value = view(Apply(model=MODEL, loras=[LORA, OTHER], strengths=[0.8, 0.3]))

    @given(st.data())
    @settings(max_examples=30)
    def test_cut_from_the_whole_bit_for_bit(self, data: st.DataObject) -> None:
        value = self.value
        key = data.draw(st.sampled_from(list(value.active_keys())))
        numel = value.meta(key).numel
        start = data.draw(st.integers(0, numel - 1))
        span = Span(start, data.draw(st.integers(start + 1, numel)))
        assert torch.equal(value.read(key, span), value.read(key).reshape(-1)[span.start : span.stop])


class TestFormats:
    @pytest.mark.parametrize("name", ["sd15", "sdxl"])
    def test_the_same_lora_under_three_names_does_the_same(self, name: str) -> None:
        """Fused weights too: ComfyUI's OpenCLIP names in SDXL, kohya's and diffusers' for its parts."""
        model = small(name, side=8)
        before = tensors_of(model)
        changes = []
        for names in ("kohya", "diffusers"):
            lora = random_lora(model, rank=2, names=names, seed=5)
            changes.append(difference(applied(lora, model=model), before))
        one, two = changes
        assert one.keys() == two.keys()
        for key in one:
            assert torch.equal(one[key], two[key])


class TestWhatFindsNoTensor:
    def strangers(self) -> MemoryModel:
        tensors = tensors_of(LORA)
        tensors["lora_unet_no_such_layer.lora_up.weight"] = torch.zeros(4, 1)
        tensors["lora_unet_no_such_layer.lora_down.weight"] = torch.zeros(1, 4)
        tensors["surprise"] = torch.zeros(3)
        return MemoryModel(tensors)

    def test_is_an_error_that_lists_it(self) -> None:
        with pytest.raises(DaremergeError, match="no place for a part of the LoRAs") as caught:
            applied(self.strangers())
        assert "lora_unet_no_such_layer" in str(caught.value)
        assert "surprise" in str(caught.value)
        assert "--allow-unmatched" in str(caught.value)

    def test_may_be_left_out(self) -> None:
        allowed, plain = applied(self.strangers(), allow_unmatched=True), applied(LORA)
        assert not difference(allowed, plain)
        assert len(Apply(model=MODEL, loras=[self.strangers()], allow_unmatched=True).unmatched) == 2

    def test_limited_to_parts_the_rest_is_not_missed(self) -> None:
        unet = MemoryModel({key: value for key, value in BEFORE.items() if key.startswith("model.diffusion_model.")})
        with pytest.raises(DaremergeError, match="no first text encoder"):
            applied(LORA, model=unet)
        limited, whole = applied(LORA, model=unet, parts=["unet"]), applied(LORA)
        assert difference(limited, BEFORE)
        assert all(torch.equal(limited[key], whole[key]) for key in limited)

    def test_a_checkpoint_is_no_lora(self) -> None:
        with pytest.raises(DaremergeError, match="holds no LoRA module"):
            applied(MODEL)

    def test_a_reason_is_told_once_with_its_number(self) -> None:
        sdxl = random_lora(small("sdxl", side=4), rank=1)
        first, *_ = Apply(model=MODEL, loras=[sdxl], allow_unmatched=True).unmatched
        assert "modules, such as lora_" in first
        with pytest.raises(DaremergeError, match=r"is for SDXL, and the model is Stable Diffusion 1\.5"):
            applied(sdxl)


def dora(seed: int = 3) -> MemoryModel:
    """A DoRA whose magnitudes are those of input channels on every other layer, of rows on the others."""
    tensors = tensors_of(LORA)
    generator = torch.Generator().manual_seed(seed)
    file = open_lora(LORA)
    for index, (name, module) in enumerate(file.modules.items()):
        rows, *rest = file.shape(module)
        shape = (rows, *[1] * len(rest)) if index % 2 else (1, rest[0], *[1] * len(rest[1:]))
        tensors[f"{name}.dora_scale"] = torch.rand(shape, generator=generator) + 0.5
    return MemoryModel(tensors)


class TestDora:
    def test_by_input_channels_is_comfyuis_at_any_strength(self) -> None:
        one = dora()
        tensors = {key: tensor for key, tensor in tensors_of(one).items() if "dora" not in key or tensor.shape[0] == 1}
        lora = MemoryModel(tensors)
        for strength in (1.0, 0.6):
            ours, theirs = applied(lora, strengths=[strength]), comfyui(MODEL, (lora, strength))
            for key in ours:
                torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5)

    def test_rows_have_their_magnitudes(self) -> None:
        lora = dora()
        file = open_lora(lora)
        after = applied(lora)
        for name, target in match(file, MODEL).targets.items():
            scale = lora.read(f"{name}.dora_scale")
            if scale.shape[0] > 1 and target.rows is None:
                norms = after[target.key].flatten(1).norm(dim=1)
                torch.testing.assert_close(norms, scale.reshape(-1), rtol=1e-5, atol=0)

    def test_takes_what_came_before_it(self) -> None:
        in_order, reverse = applied(OTHER, dora()), applied(dora(), OTHER)
        assert difference(in_order, reverse)

    def test_needs_whole_tensors_and_says_so(self) -> None:
        assert view(Apply(model=MODEL, loras=[dora()])).needs_whole(CONTEXT)
        assert not view(Apply(model=MODEL, loras=[LORA])).needs_whole(CONTEXT)


def test_a_change_of_a_bias_and_a_full_difference() -> None:
    key = "model.diffusion_model.input_blocks.1.0.in_layers.2"
    name = "lora_unet_down_blocks_0_resnets_0_conv1"
    weight, bias = torch.randn(BEFORE[f"{key}.weight"].shape), torch.randn(BEFORE[f"{key}.bias"].shape)
    lora = MemoryModel({f"{name}.diff": weight, f"{name}.diff_b": bias})
    after = applied(lora, strengths=[0.5])
    assert difference(after, BEFORE).keys() == {f"{key}.weight", f"{key}.bias"}
    torch.testing.assert_close(after[f"{key}.weight"], BEFORE[f"{key}.weight"] + 0.5 * weight)
    torch.testing.assert_close(after[f"{key}.bias"], BEFORE[f"{key}.bias"] + 0.5 * bias)


def test_every_module_reads_as_a_change_of_its_targets_size() -> None:
    file = open_lora(LORA)
    for name, target in match(file, MODEL).targets.items():
        rows, width = read_change(file, file.modules[name]).size
        assert rows * width * (3 if target.rows else 1) == MODEL.meta(target.key).numel
