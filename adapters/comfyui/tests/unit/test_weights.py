"""Weights as they take effect: what is read is what ComfyUI itself runs, and reading changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import BIAS, CONV, OUT, TO_K, TO_Q, clip, live, loaded, randn, running, unet, with_lora

from daremerge_comfyui.weights import PatchedWeights, patcher_of
from daremerge_core import Span
from daremerge_core.errors import ModelFileError

FP8 = torch.float8_e4m3fn


def weights(value: Any) -> PatchedWeights:
    return PatchedWeights(*patcher_of(value))


def read(value: Any) -> dict[str, torch.Tensor]:
    found = weights(value)
    return {key: found.read(key) for key in found.keys()}


def kohya(rank: int = 2) -> dict[str, torch.Tensor]:
    name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    return {
        f"{name}.lora_up.weight": randn(32, rank, seed=1),
        f"{name}.lora_down.weight": randn(rank, 32, seed=2),
        f"{name}.alpha": torch.tensor(1.0),
    }


def plain(model: Any) -> Any:
    return model


def with_a_lora(model: Any) -> Any:
    return with_lora(model, kohya())


def with_two_loras(model: Any) -> Any:
    return with_lora(with_lora(model, kohya(), 0.7), kohya(3), -0.3)


def with_another_model(model: Any) -> Any:
    """What ModelMergeSimple does."""
    clone = model.clone()
    for key, patch in unet(seed=5).get_key_patches("diffusion_model.").items():
        clone.add_patches({key: patch}, 0.75, 0.25)
    return clone


def with_a_difference(model: Any) -> Any:
    clone = model.clone()
    clone.add_patches({CONV: (randn(32, 32, 3, 3),), BIAS: ("diff", (randn(32),))}, 0.5)
    return clone


def with_a_part_of_a_weight(model: Any) -> Any:
    """As LoRAs for fused weights are: a patch for some of the rows."""
    clone = model.clone()
    clone.add_patches({(TO_Q, (0, 8, 16)): (randn(16, 32),)}, 1.0)
    return clone


def with_replacements(model: Any) -> Any:
    clone = with_a_difference(model)
    clone.add_patches(
        {CONV: ("set", (randn(32, 32, 3, 3, seed=4).half(),)), TO_Q: ("set", (randn(32, 32).half(),))}, 1.0
    )
    return clone


def with_a_lora_over_a_replacement(model: Any) -> Any:
    return with_a_lora(with_replacements(model))


VARIANTS = [
    plain,
    with_a_lora,
    with_two_loras,
    with_another_model,
    with_a_difference,
    with_a_part_of_a_weight,
    with_replacements,
    with_a_lora_over_a_replacement,
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_is_read_is_what_runs(variant: Callable[[Any], Any], dtype: torch.dtype) -> None:
    model = variant(unet(dtype=dtype))
    found, wanted = read(model), running(model)
    assert found.keys() == {key for key in wanted if key.startswith("diffusion_model.")}
    for key, tensor in found.items():
        assert tensor.dtype == wanted[key].dtype == weights_dtype(model, key)
        assert torch.equal(tensor, wanted[key]), key


def weights_dtype(model: Any, key: str) -> torch.dtype:
    from daremerge_core.dtypes import torch_dtype

    return torch_dtype(weights(model).meta(key).dtype)


@pytest.mark.parametrize("variant", VARIANTS)
def test_spans_are_cut_from_the_whole(variant: Callable[[Any], Any]) -> None:
    found = weights(variant(unet()))
    for key in (TO_Q, CONV, BIAS):
        whole = found.read(key).reshape(-1)
        assert torch.equal(found.read(key, Span(3, 17)), whole[3:17])
        assert whole.is_contiguous()


@pytest.mark.parametrize("variant", VARIANTS)
def test_reading_leaves_the_live_model_alone(variant: Callable[[Any], Any]) -> None:
    model = variant(unet())
    before, uuid = live(model), model.patches_uuid
    read(model)
    assert live(model) == before
    assert model.patches_uuid == uuid


def test_whichever_clone_is_loaded_each_reads_its_own() -> None:
    model = unet()
    lora, difference = with_a_lora(model), with_a_difference(model)
    wanted = {id(one): read(one) for one in (model, lora, difference)}
    for in_memory in (model, lora, difference):
        loaded(in_memory)
        for one in (model, lora, difference):
            found = read(one)
            assert all(torch.equal(found[key], tensor) for key, tensor in wanted[id(one)].items())


def test_a_model_that_is_loaded_in_part_reads_the_same() -> None:
    """With little memory ComfyUI computes some patches when layers run: their weights lie there unpatched."""
    model = with_two_loras(with_a_difference(unet()))
    wanted = read(model)
    model.load(device_to=torch.device("cpu"), lowvram_model_memory=20_000)
    try:
        assert model.lowvram_patch_counter() > 0
        found = read(model)
    finally:
        model.unpatch_model(torch.device("cpu"))
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def test_what_a_hook_has_in_place_is_not_the_weight() -> None:
    model = unet()
    wanted = read(model)[TO_Q].clone()
    parameter = dict(model.model.named_parameters())[TO_Q]
    model.hook_backup[TO_Q] = (parameter.detach().clone(), torch.device("cpu"))
    with torch.no_grad():
        parameter.zero_()
    assert torch.equal(read(model)[TO_Q], wanted)


@pytest.mark.parametrize("dtype", [FP8, torch.float8_e5m2], ids=str)
def test_fp8_is_read_as_bf16(dtype: torch.dtype) -> None:
    model = unet(dtype=dtype)
    found = weights(model)
    assert found.meta(TO_Q).dtype == "BF16"
    wanted = dict(model.model.named_parameters())[TO_Q].detach().float()
    assert torch.equal(found.read(TO_Q).float(), wanted)  # bf16 holds every fp8 number


def test_scaled_fp8_is_read_with_its_scale() -> None:
    model = unet(dtype=FP8, scaled_fp8=FP8)
    layer = model.model.get_submodule(TO_Q.removesuffix(".weight"))
    with torch.no_grad():
        layer.scale_weight.fill_(0.5)
    found = weights(model)
    assert torch.equal(found.read(TO_Q).float(), layer.weight.detach().float() * 0.5)
    assert not [key for key in found.keys() if "scale" in key]


def test_weights_that_cannot_be_decoded_are_refused_by_name() -> None:
    model = unet()
    layer = model.model.get_submodule(TO_K.removesuffix(".weight"))
    layer.weight = torch.nn.Parameter(torch.zeros(32, 32, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelFileError, match=r"attn1\.to_k\.weight' is stored as Parameter of uint8"):
        weights(model)


def test_text_encoders_without_what_is_no_weight() -> None:
    value = clip()
    keys = weights(value).keys()
    assert "clip_l.transformer.text_model.encoder.layers.1.mlp.fc2.weight" in keys
    assert not [key for key in keys if key.endswith(("position_ids", "logit_scale"))]
    whole = PatchedWeights(*patcher_of(value), whole=True)
    assert "clip_l.logit_scale" in whole.keys()
    assert torch.equal(weights(value).read(keys[0]), running(value)[keys[0]])


def test_the_noise_schedule_is_no_weight() -> None:
    assert all(key.startswith("diffusion_model.") for key in weights(unet()).keys())
    assert OUT in weights(unet()).keys()
