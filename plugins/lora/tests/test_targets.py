"""Which tensor each module changes, and what formats call each tensor: on real layouts, and as ComfyUI has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from daremerge_core import MemoryModel
from daremerge_core.errors import PlanError
from daremerge_core.testing.layouts import NAMES, HeaderModel, load
from daremerge_core.values import TensorMeta
from daremerge_lora.formats import WRITABLE, Writable, open_lora
from daremerge_lora.modules import Target
from daremerge_lora.targets import ARCHITECTURES, Architecture, architecture_of, match, module_names

from .files import changes, checkpoint, headers, plain
from .oracles import comfy_module

ARCHITECTURE = {"sd15": "sd15", "sdxl": "sdxl", "sd3": "sd3", "flux-dev": "flux"}
EMBEDDING = re.compile(r"embedding(\.weight)?$|pos_embed$|shared\.weight$|relative_attention_bias\.weight$")
AUTOENCODER = ("first_stage_model.", "vae.")


def named(name: str) -> Architecture:
    return next(one for one in ARCHITECTURES if one.name == name)


def without(model: HeaderModel, *prefixes: str) -> HeaderModel:
    return HeaderModel({key: model.meta(key) for key in model.keys() if not key.startswith(prefixes)})


def renamed(model: HeaderModel, *names: tuple[str, str]) -> HeaderModel:
    """The tensors that begin with the first of a pair, beginning with the second instead."""
    return HeaderModel(
        {
            new + key.removeprefix(old): model.meta(key)
            for key in model.keys()
            for old, new in names
            if key.startswith(old)
        }
    )


def by_diffusers(model: HeaderModel, architecture: Architecture, prefix: str) -> HeaderModel:
    """The denoiser of a checkpoint as diffusers saves it."""
    metas: dict[str, TensorMeta] = {}
    for entry in architecture.networks["unet"].table.entries:
        key = f"model.diffusion_model.{entry.native}{entry.suffix}"
        if key in model.keys():
            shape = list(model.meta(key).shape)
            if (rows := entry.rows(shape[0])) is not None:
                shape[0] = rows[1] - rows[0]
            name = f"{prefix}{entry.diffusers}.weight"
            metas[name] = TensorMeta(name, "F16", tuple(shape))
    return HeaderModel(metas)


# --- both ways, on real checkpoints ----------------------------------------------------------------------


@pytest.mark.parametrize("format", WRITABLE)
@pytest.mark.parametrize("layout", NAMES)
class TestBothWays:
    def test_names_lead_back_to_their_targets(self, layout: str, format: Writable) -> None:
        model = checkpoint(layout)
        names = module_names(model, format)
        assert len(dict(names)) == len({target for _, target in names}) == len(names)
        lora = changes(model, names)
        found = match(lora, model)
        assert dict(found.targets) == dict(names)
        assert found.unmatched == ()
        assert getattr(architecture_of(lora), "name", None) == ARCHITECTURE[layout]

    def test_every_linear_and_convolution_is_named_and_each_row_once(self, layout: str, format: Writable) -> None:
        model = checkpoint(layout)
        rows: dict[str, list[tuple[int, int]]] = {}
        for _, target in module_names(model, format):
            rows.setdefault(target.key, []).append(target.rows or (0, model.meta(target.key).shape[0]))
        assert set(rows) == {
            key
            for key in model.keys()
            if len(model.meta(key).shape) > 1 and not EMBEDDING.search(key) and not key.startswith(AUTOENCODER)
        }
        for key, spans in rows.items():
            ends = [0, *(stop for _, stop in spans)]
            assert [start for start, _ in spans] == ends[:-1]
            assert ends[-1] == model.meta(key).shape[0]

    def test_comfyui_gives_the_names_the_same_targets(self, layout: str, format: Writable) -> None:
        known = comfy_keys(layout)
        model = comfy_model(layout)
        names = module_names(model, format)
        assert all(known[name] == target for name, target in names if name in known)
        missing = [name for name, _ in names if name not in known]
        # It knows no PEFT name of a U-Net's attention (those before PEFT it does), nor of T5 and the projections.
        assert all(
            format == "diffusers" and re.search(r"^unet\..*\.to_|_projection$|SelfAttention|Dense", name)
            for name in missing
        )


# --- ComfyUI as the oracle -------------------------------------------------------------------------------


@cache
def comfy_model(layout: str) -> HeaderModel:
    """A checkpoint with the names its tensors have in ComfyUI once it is loaded."""
    model = checkpoint(layout)
    pairs = {
        "sd15": [("cond_stage_model.transformer.", "clip_l.transformer.")],
        "sdxl": [("conditioner.embedders.0.transformer.", "clip_l.transformer.")],
        "sd3": [("text_encoders.", "")],
        "flux-dev": [("text_encoders.", "")],
    }[layout]
    found = renamed(model, ("model.diffusion_model.", "diffusion_model."), *pairs)
    metas = {key: found.meta(key) for key in found.keys()}
    if layout == "sdxl":
        prefix = "conditioner.embedders.1.model."
        tensors = {key: torch.empty(model.meta(key).shape, device="meta") for key in model.keys() if prefix in key}
        for key, tensor in hugging_face(tensors).items():
            metas[key] = TensorMeta(key, "F16", tuple(tensor.shape))
    return HeaderModel(metas)


def hugging_face(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenCLIP's tensors of SDXL as ComfyUI converts them."""
    convert = comfy_module("comfy.utils").clip_text_transformers_convert
    converted: dict[str, torch.Tensor] = convert(dict(tensors), "conditioner.embedders.1.model.", "clip_g.transformer.")
    return {key: tensor for key, tensor in converted.items() if key.startswith("clip_g.")}


CONFIGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "sd15": (
        "BaseModel",
        {
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
        },
    ),
    "sdxl": (
        "SDXL",
        {
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "transformer_depth_middle": 10,
        },
    ),
    "sd3": ("SD3", {"depth": 24}),
    "flux-dev": ("Flux", {"depth": 19, "depth_single_blocks": 38, "hidden_size": 3072}),
}
"""ComfyUI's class of the model, and what it detects of its shape."""


@cache
def comfy_keys(layout: str) -> dict[str, Target]:
    """Every name of a module that ComfyUI knows for this checkpoint, with the weight it changes."""
    kind, config = CONFIGS[layout]
    model = comfy_model(layout)
    live = getattr(comfy_module("comfy.model_base"), kind)()
    live.state_dict = lambda: dict.fromkeys(key for key in model.keys() if key.startswith("diffusion_model."))
    live.model_config = SimpleNamespace(unet_config=config)
    clip = SimpleNamespace(state_dict=lambda: dict.fromkeys(key for key in model.keys() if "transformer." in key))
    lora = comfy_module("comfy.lora")
    keys = {**lora.model_lora_keys_unet(live, {}), **lora.model_lora_keys_clip(clip, {})}
    return {name: target for name, key in keys.items() if (target := _comfy_target(key, model)) is not None}


def _comfy_target(key: Any, model: HeaderModel) -> Target | None:
    """ComfyUI gives a key, or a key with (dimension, start, length), or those with a function of the change."""
    name, offset, function = (*key, None, None)[:3] if isinstance(key, tuple) else (key, None, None)
    if name not in model.keys():
        return None
    rows = None if offset is None else (offset[1], offset[1] + offset[2])
    assert function in (None, comfy_module("comfy.utils").swap_scale_shift)
    # It swaps the halves of the context's last modulation by its number, for each size of the model.
    return Target(name, rows, swapped=function is not None)


@pytest.mark.parametrize("layout", NAMES)
def test_every_name_that_comfyui_knows_leads_where_it_says(layout: str) -> None:
    model = comfy_model(layout)
    known = comfy_keys(layout)
    found = match(changes(model, known.items()), model)
    assert {name: target for name, target in known.items() if name in found.targets} == dict(found.targets)
    # Left are biases by themselves, embeddings, a name for a part of Flux's linear1, and Stable Cascade's names.
    aside = re.compile(r"\.bias$|\.linear1_qkv$|^lora_prior_")
    assert all(EMBEDDING.search(known[name].key) or aside.search(name) for name in found.unmatched)
    assert len(found.targets) > 1000


def test_openclips_tensors_are_cut_and_turned_as_comfyui_does() -> None:
    """By value: every module of the second text encoder changes what ComfyUI makes of those rows."""
    prefix = "conditioner.embedders.1.model."
    shapes = {key: meta.shape for key, meta in load("sdxl").items() if key.startswith(prefix)}
    shapes[f"{prefix}text_projection"] = (1280, 1280)
    tensors = {key: torch.rand([size // 320 or 1 for size in shape]) for key, shape in shapes.items()}
    converted = hugging_face(tensors)
    model = MemoryModel(tensors)
    names = module_names(model, "comfy")
    assert len(names) == 31 * 6 + 1  # SDXL uses the last layer but one, and this file lacks the last
    for name, target in names:
        weight = model.read(target.key)
        if target.rows is not None:
            weight = weight[slice(*target.rows)]
        key = f"{name.removeprefix('text_encoders.')}.weight"
        assert torch.equal(converted[key], weight.T if target.transposed else weight)
        bias = converted.get(f"{name.removeprefix('text_encoders.')}.bias")
        assert bias is None or torch.equal(bias, model.read(target.bias)[slice(*(target.rows or (None,)))])


# --- other checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", NAMES)
@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_a_bare_denoiser(layout: str, prefix: str) -> None:
    model = renamed(checkpoint(layout), ("model.diffusion_model.", prefix))
    names = module_names(model, "kohya")
    whole = [one for one in module_names(checkpoint(layout), "kohya") if "diffusion_model" in one[1].key]
    assert {name: target.key for name, target in names} == {
        name: prefix + target.key.removeprefix("model.diffusion_model.") for name, target in whole
    }


@pytest.mark.parametrize("layout", NAMES)
@pytest.mark.parametrize("prefix", ["", "unet."])
def test_a_denoiser_with_diffusers_names(layout: str, prefix: str) -> None:
    model = by_diffusers(checkpoint(layout), named(ARCHITECTURE[layout]), prefix)
    names = module_names(model, "diffusers")
    assert {target.key for _, target in names} == {key for key in model.keys() if len(model.meta(key).shape) > 1}
    assert all(target == Target(target.key) for _, target in names)
    assert dict(match(changes(model, names), model).targets) == dict(names)


def test_a_lora_with_native_names_on_a_denoiser_with_diffusers() -> None:
    native = without(checkpoint("flux-dev"), "text_encoders.", "vae.")
    model = by_diffusers(native, named("flux"), "")
    lora = changes(native, module_names(native, "kohya"))
    found = match(lora, model)
    assert found.targets["lora_unet_img_in"] == Target("x_embedder.weight")
    assert found.targets["lora_unet_final_layer_adaLN_modulation_1"] == Target("norm_out.linear.weight", swapped=True)
    fused = {name for name in lora.modules if name.endswith(("qkv", "linear1"))}
    assert set(found.unmatched) == fused
    assert all("tensors: convert the LoRA" in found.reasons[name] for name in fused)
    with pytest.raises(PlanError, match="no name for"):
        module_names(model, "kohya")


def test_the_last_modulation_is_swapped_and_no_other() -> None:
    model = checkpoint("sd3")
    swapped = {name for name, target in module_names(model, "diffusers") if target.swapped}
    assert swapped == {"transformer.norm_out.linear", "transformer.transformer_blocks.23.norm1_context.linear"}
    assert not any(target.swapped for _, target in module_names(model, "kohya"))


def test_sd2_and_its_text_encoder() -> None:
    shapes = {key: list(meta.shape) for key, meta in load("sd15").items() if key.startswith("model.")}
    for key, shape in shapes.items():
        if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            shape[1] = 1024
    text = "cond_stage_model.model.transformer.resblocks.0.attn"
    shapes |= {f"{text}.in_proj_weight": [3072, 1024], f"{text}.out_proj.weight": [1024, 1024]}
    model = headers({key: tuple(shape) for key, shape in shapes.items()})
    names = dict(module_names(model, "kohya"))
    layer = "lora_te_text_model_encoder_layers_0_self_attn"
    assert names[f"{layer}_k_proj"] == Target(f"{text}.in_proj_weight", (1024, 2048))
    assert names[f"{layer}_out_proj"] == Target(f"{text}.out_proj.weight")
    comfy = dict(module_names(model, "comfy"))
    assert "text_encoders.clip_h.transformer.text_model.encoder.layers.0.self_attn.k_proj" in comfy
    assert getattr(architecture_of(changes(model, names.items())), "name", None) == "sd2"
    # The LoRA of 1.5 has the same names and other widths.
    other = changes(checkpoint("sd15"), module_names(checkpoint("sd15"), "kohya"))
    reasons = match(other, model).reasons
    assert (
        "(320, 768), the weight (320, 1024)"
        in reasons["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"]
    )


# --- what does not match ---------------------------------------------------------------------------------


def reason(name: str, model: HeaderModel, shape: tuple[int, ...] = (4, 4)) -> str:
    lora = open_lora(headers(plain("kohya", [(name, shape)])))
    found = match(lora, model)
    assert not found.targets
    return found.reasons[name]


class TestUnmatched:
    @pytest.mark.parametrize(
        ("layout", "name", "expected"),
        [
            ("sd15", "lora_te2_text_model_encoder_layers_0_mlp_fc1", "Stable Diffusion 1.5 has no second CLIP"),
            ("sd15", "lora_unet_double_blocks_0_img_attn_qkv", "no layer of this name"),
            ("sd15", "lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q", "no layer of this name"),
            ("flux-dev", "lora_te2_text_model_encoder_layers_0_mlp_fc1", "Flux has no second CLIP"),
            ("flux-dev", "lora_unet_double_blocks_19_img_attn_qkv", "no tensor model.diffusion_model.double_blocks.19"),
            ("sd15", "first_stage_model.decoder.conv_in", "no layer of this name"),
            ("sd15", "nonsense", "no layer of this name"),
            ("sd15", "lora_unet_conv_in", "its change has the shape (4, 4), the weight (320, 4, 3, 3)"),
        ],
    )
    def test_says_why(self, layout: str, name: str, expected: str) -> None:
        assert expected in reason(name, checkpoint(layout))

    def test_a_text_encoder_that_the_checkpoint_lacks(self) -> None:
        model = without(checkpoint("sdxl"), "conditioner.")
        said = reason("lora_te1_text_model_encoder_layers_0_mlp_fc1", model)
        assert said == "the checkpoint has no first text encoder"

    def test_a_checkpoint_of_no_known_architecture(self) -> None:
        model = headers({"layers.0.q.weight": (4, 4)})
        assert "no known architecture" in reason("lora_unet_conv_in", model)
        with pytest.raises(PlanError, match="no architecture whose LoRA names are known"):
            module_names(model, "kohya")

    def test_a_bias_that_the_checkpoint_lacks(self) -> None:
        name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
        lora = open_lora(headers({f"{name}.diff": (320, 320), f"{name}.diff_b": (320,)}))
        assert "it changes a bias" in match(lora, checkpoint("sd15")).reasons[name]

    def test_a_bias_of_another_length(self) -> None:
        lora = open_lora(headers({"lora_unet_conv_in.diff_b": (4,)}))
        assert "the bias (320,)" in match(lora, checkpoint("sd15")).reasons["lora_unet_conv_in"]

    def test_what_a_change_may_look_like(self) -> None:
        """Matrices for a convolution, and a convolution of 1 × 1 for a matrix, as trainers save them."""
        model = checkpoint("sd15")
        attention = "lora_unet_down_blocks_0_attentions_0"
        for name, shape in (
            ("lora_unet_conv_in", (320, 36)),
            (f"{attention}_proj_in", (320, 320)),
            (f"{attention}_transformer_blocks_0_attn1_to_q", (320, 320, 1, 1)),
        ):
            assert match(open_lora(headers(plain("kohya", [(name, shape)]))), model).unmatched == ()

    def test_half_of_a_lora(self) -> None:
        model = checkpoint("sd15")
        both = [("lora_unet_conv_in", (320, 4, 3, 3)), ("lora_te2_text_projection", (8, 8))]
        found = match(open_lora(headers(plain("kohya", both))), model)
        assert found.targets == {"lora_unet_conv_in": Target("model.diffusion_model.input_blocks.0.0.weight")}
        assert found.unmatched == ("lora_te2_text_projection",)


# --- spellings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "name", "native"),
    [
        ("sd15", "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out", "sd15-out"),
        ("sd15", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0", "sd15-out"),
        ("sd15", "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0", "sd15-out"),
        ("sd15", "unet.base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0", "sd15-out"),
        ("sd15", "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_out_0", "sd15-out"),
        ("sd15", "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0", "sd15-out"),
        ("sdxl", "lora_unet_class_embedding_linear_1", "model.diffusion_model.label_emb.0.0.weight"),
        ("sdxl", "unet.add_embedding.linear_1", "model.diffusion_model.label_emb.0.0.weight"),
        ("flux-dev", "lora_te2_encoder_block_0_layer_0_SelfAttention_q", "t5"),
        ("flux-dev", "lora_te3_encoder_block_0_layer_0_SelfAttention_q", "t5"),
        ("flux-dev", "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q", "t5"),
        ("sd3", "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q", "t5"),
        ("flux-dev", "base_model.model.text_model.encoder.layers.0.mlp.fc1", "clip"),
        ("flux-dev", "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1", "clip"),
        ("flux-dev", "double_blocks.0.img_attn.proj", "model.diffusion_model.double_blocks.0.img_attn.proj.weight"),
    ],
)
def test_other_spellings(layout: str, name: str, native: str) -> None:
    key = {
        "sd15-out": "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.weight",
        "t5": "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight",
        "clip": "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    }.get(native, native)
    model = checkpoint(layout)
    lora = open_lora(headers({f"{name}.diff": model.meta(key).shape}))
    assert match(lora, model).targets[name] == Target(key)


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("transformer.transformer_blocks.0.attn.to_q", 3072, "flux"),
        ("transformer.transformer_blocks.0.attn.to_q", 1536, "sd3"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 768, "sd15"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 1024, "sd2"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 2048, "sdxl"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 1280, "sdxl-refiner"),
        ("lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q", 1280, "sdxl"),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", 1280, "sd15"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", 1024, "sd2"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", 768, "sdxl"),
        ("unet.conv_in", 4, "sd15"),
        ("nonsense", 4, None),
    ],
)
def test_the_architecture_of_one_module(name: str, width: int, expected: str | None) -> None:
    found = architecture_of(open_lora(headers(plain("kohya", [(name, (8, width))]))))
    assert (found and found.name) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.name)
def test_no_two_layers_share_a_name(architecture: Architecture) -> None:
    for network in architecture.networks.values():
        table = network.table
        assert len({entry.diffusers for entry in table.entries}) == len(table.entries)
        for parts in table.by_native.values():
            spans = sorted((entry.part or (0, 1, 1)) for entry in parts)
            assert sum(Fraction(stop - start, of) for start, stop, of in spans) == 1
        for names in (table.by_diffusers, table.by_native):
            assert len({name.replace(".", "_") for name in names}) == len(names)
        # A name that means one layer to diffusers and another to the native code would be read wrongly.
        for name in table.by_diffusers.keys() & table.by_native.keys():
            assert table.by_native[name] == (table.by_diffusers[name],)
