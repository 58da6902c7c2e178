"""Layouts: real checkpoints, constructed ones, names from ComfyUI, and whatever else there may be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daremerge_core.errors import CatalogError
from daremerge_core.layout import GENERIC, KNOWN, PARTS, ROLES, Layout, LayoutSpec, Tower, detect, same
from daremerge_core.testing.layouts import NAMES, load
from daremerge_core.values import TensorMeta

Shapes = dict[str, tuple[int, ...]]
DOCS = Path(__file__).parent.parent / "docs" / "layouts.md"


def metas(shapes: Shapes) -> dict[str, TensorMeta]:
    return {key: TensorMeta(key, "F16", shape) for key, shape in shapes.items()}


# ---- checkpoints there is no file of, built from the published architectures


def both(key: str, *shape: int) -> Shapes:
    return {f"{key}.weight": shape, f"{key}.bias": shape[:1]}


def unet(
    channels: int,
    multipliers: list[int],
    depths: list[int],
    middle_depth: int,
    context: int,
    *,
    linear: bool = True,
    label: int | None = None,
    latents: int = 4,
) -> Shapes:
    """The U-Net of latent diffusion, with two residual blocks per level. ``depths``: transformer blocks per level."""
    time = 4 * channels
    square = () if linear else (1, 1)
    found: Shapes = {**both("time_embed.0", time, channels), **both("time_embed.2", time, time)}
    if label is not None:
        found |= both("label_emb.0.0", time, label) | both("label_emb.0.2", time, time)

    def residual(at: str, inner: int, outer: int) -> Shapes:
        parts = both(f"{at}.in_layers.0", inner) | both(f"{at}.in_layers.2", outer, inner, 3, 3)
        parts |= both(f"{at}.emb_layers.1", outer, time)
        parts |= both(f"{at}.out_layers.0", outer) | both(f"{at}.out_layers.3", outer, outer, 3, 3)
        return parts | (both(f"{at}.skip_connection", outer, inner, 1, 1) if inner != outer else {})

    def transformer(at: str, width: int, depth: int) -> Shapes:
        parts = both(f"{at}.norm", width)
        parts |= both(f"{at}.proj_in", width, width, *square) | both(f"{at}.proj_out", width, width, *square)
        for i in range(depth):
            block = f"{at}.transformer_blocks.{i}"
            for attention, source in (("attn1", width), ("attn2", context)):
                parts[f"{block}.{attention}.to_q.weight"] = (width, width)
                parts[f"{block}.{attention}.to_k.weight"] = (width, source)
                parts[f"{block}.{attention}.to_v.weight"] = (width, source)
                parts |= both(f"{block}.{attention}.to_out.0", width, width)
            parts |= both(f"{block}.ff.net.0.proj", 8 * width, width) | both(f"{block}.ff.net.2", width, 4 * width)
            for norm in ("norm1", "norm2", "norm3"):
                parts |= both(f"{block}.{norm}", width)
        return parts

    found |= both("input_blocks.0.0", channels, latents, 3, 3)
    width, number, skips = channels, 1, [channels]
    for level, multiplier in enumerate(multipliers):
        for _ in range(2):
            found |= residual(f"input_blocks.{number}.0", width, channels * multiplier)
            width = channels * multiplier
            if depths[level]:
                found |= transformer(f"input_blocks.{number}.1", width, depths[level])
            skips.append(width)
            number += 1
        if level + 1 < len(multipliers):
            found |= both(f"input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
            number += 1
    found |= residual("middle_block.0", width, width) | residual("middle_block.2", width, width)
    found |= transformer("middle_block.1", width, middle_depth)
    number = 0
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for i in range(3):
            found |= residual(f"output_blocks.{number}.0", width + skips.pop(), channels * multiplier)
            width = channels * multiplier
            if depths[level]:
                found |= transformer(f"output_blocks.{number}.1", width, depths[level])
            if i == 2 and level:
                found |= both(f"output_blocks.{number}.{2 if depths[level] else 1}.conv", width, width, 3, 3)
            number += 1
    return found | both("out.0", channels) | both("out.2", 4, channels, 3, 3)


def openclip(width: int, layers: int) -> Shapes:
    """The text half of OpenCLIP, under its own names."""
    found: Shapes = {"positional_embedding": (77, width), "text_projection": (width, width), "logit_scale": ()}
    found |= {"token_embedding.weight": (49408, width)} | both("ln_final", width)
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        found |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        found |= both(f"{block}.attn.out_proj", width, width)
        found |= both(f"{block}.ln_1", width) | both(f"{block}.ln_2", width)
        found |= both(f"{block}.mlp.c_fc", 4 * width, width) | both(f"{block}.mlp.c_proj", width, 4 * width)
    return found


def decoder(layers: int, *, fused: bool = False, qk_norm: bool = False, tied: bool = False) -> Shapes:
    """A small Llama (``fused``: Phi-3, ``qk_norm``: Qwen3, ``tied``: without lm_head)."""
    found: Shapes = {"model.embed_tokens.weight": (1000, 64)}
    for i in range(layers):
        block = f"model.layers.{i}"
        if fused:
            found |= {f"{block}.self_attn.qkv_proj.weight": (192, 64), f"{block}.mlp.gate_up_proj.weight": (256, 64)}
        else:
            found |= {f"{block}.self_attn.{x}_proj.weight": (64, 64) for x in "qkv"}
            found |= {f"{block}.mlp.gate_proj.weight": (128, 64), f"{block}.mlp.up_proj.weight": (128, 64)}
        if qk_norm:
            found |= {f"{block}.self_attn.q_norm.weight": (16,), f"{block}.self_attn.k_norm.weight": (16,)}
        found |= {f"{block}.self_attn.o_proj.weight": (64, 64), f"{block}.mlp.down_proj.weight": (64, 128)}
        found |= {f"{block}.input_layernorm.weight": (64,), f"{block}.post_attention_layernorm.weight": (64,)}
    found["model.norm.weight"] = (64,)
    return found if tied else found | {"lm_head.weight": (1000, 64)}


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


SD15_UNET = unet(320, [1, 2, 4, 4], [1, 1, 1, 0], 1, 768, linear=False)
SD2_UNET = unet(320, [1, 2, 4, 4], [1, 1, 1, 0], 1, 1024)
SDXL_UNET = unet(320, [1, 2, 4], [0, 2, 10], 10, 2048, label=2816)
REFINER_UNET = unet(384, [1, 2, 4, 4], [0, 4, 4, 0], 4, 1280, label=2560)
VAE = {key: meta.shape for key, meta in load("sd15").items() if key.startswith("first_stage_model.")}

CHECKPOINTS: dict[str, tuple[str, dict[str, TensorMeta]]] = {
    **{name: (arch, load(name)) for name, arch in zip(NAMES, ("sd15", "sdxl", "sd3", "flux"), strict=True)},
    "sd2": (
        "sd2",
        metas(under("model.diffusion_model.", SD2_UNET) | under("cond_stage_model.model.", openclip(1024, 24)) | VAE),
    ),
    "sdxl-refiner": (
        "sdxl-refiner",
        metas(
            under("model.diffusion_model.", REFINER_UNET)
            | under("conditioner.embedders.0.model.", openclip(1280, 32))
            | VAE
        ),
    ),
    "llama": ("decoder-lm", metas(decoder(12))),
    "qwen3-tied": ("decoder-lm", metas(decoder(12, qk_norm=True, tied=True))),
    "phi-3": ("decoder-lm", metas(decoder(12, fused=True))),
}

# What belongs to no part, block or role that has a name, in all of the above.
STRAYS = {"model.model_sampling.sigmas"}
SCALARS = {
    "text_encoders.clip_l.logit_scale",
    "text_encoders.clip_g.logit_scale",
    "text_encoders.t5xxl.logit_scale",
    "cond_stage_model.model.logit_scale",
    "conditioner.embedders.0.model.logit_scale",
}


@pytest.mark.parametrize(("name", "shapes"), [("sd15", SD15_UNET), ("sdxl", SDXL_UNET)])
def test_the_constructed_unets_are_faithful(name: str, shapes: Shapes) -> None:
    """The same construction gives SD1.5 and SDXL exactly, so SD2 and the refiner can be trusted."""
    prefix = "model.diffusion_model."
    real = {key: meta.shape for key, meta in load(name).items() if key.startswith(prefix)}
    assert under(prefix, shapes) == real


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest) -> tuple[str, dict[str, TensorMeta], Layout]:
    arch, tensors = CHECKPOINTS[request.param]
    return arch, tensors, detect(tensors)


Checkpoint = tuple[str, dict[str, TensorMeta], Layout]


class TestEveryCheckpoint:
    def test_is_recognised_by_one_layout_alone(self, checkpoint: Checkpoint) -> None:
        arch, tensors, layout = checkpoint
        assert layout.arch == arch
        others = [spec for spec in KNOWN if spec.name != arch]
        assert all(detect_only(spec, tensors) == GENERIC for spec in others)

    def test_has_a_place_for_every_tensor(self, checkpoint: Checkpoint) -> None:
        _, tensors, layout = checkpoint
        places = [layout.place(key) for key in tensors]
        assert {place.key for place in places if place.part == "other"} <= STRAYS
        assert {place.key for place in places if place.role == "other"} <= STRAYS
        assert {place.key for place in places if place.block is None} - STRAYS <= SCALARS
        assert {place.role for place in places} <= set(ROLES)
        assert {place.part for place in places} <= set(PARTS)
        assert [place.key for place in places] == list(tensors)
        assert layout.places() == places

    def test_lists_its_blocks_once_and_in_forward_order(self, checkpoint: Checkpoint) -> None:
        _, tensors, layout = checkpoint
        for part in PARTS:
            blocks = layout.blocks(part)
            assert len(blocks) == len(set(blocks))
            held = {place.block for place in map(layout.place, tensors) if place.part == part}
            assert set(blocks) == held - {None}

    def test_depth_rises_along_each_stack(self, checkpoint: Checkpoint) -> None:
        _, tensors, layout = checkpoint
        depth_of = {(p.part, p.block): p.depth for p in map(layout.place, tensors)}
        for part in PARTS:
            for _, depths in stacks(layout, part, depth_of):
                assert depths == sorted(depths)
                assert len(set(depths)) == len(depths)
                assert (depths[0], depths[-1]) == (0, 1)

    def test_names_are_distinct(self, checkpoint: Checkpoint) -> None:
        _, tensors, layout = checkpoint
        names = Counter(layout.place(key).name for key in tensors)
        assert names.most_common(1)[0][1] == 1

    def test_a_name_does_not_depend_on_the_rest_of_the_file(self, checkpoint: Checkpoint) -> None:
        _, tensors, layout = checkpoint
        alone = detect({})
        assert all(alone.place(key).name == layout.place(key).name for key in tensors)

    def test_every_query_has_its_key_and_value(self, checkpoint: Checkpoint) -> None:
        _, tensors, layout = checkpoint
        by_role = {
            role: Counter((p.part, p.block) for p in map(layout.place, tensors) if p.role == role) for role in ROLES
        }
        assert by_role["attn.q"] == by_role["attn.k"] == by_role["attn.v"]
        assert by_role["attn.q"] or by_role["attn.qkv"]

    def test_comfyui_names_lead_to_the_same_places(self, checkpoint: Checkpoint) -> None:
        _, tensors, layout = checkpoint
        renamed = {key: comfyui(key) for key in tensors}
        theirs = detect({new: replace(tensors[key], key=new) for key, new in renamed.items()})
        assert theirs.arch == layout.arch
        for key, new in renamed.items():
            assert replace(theirs.place(new), key=key) == layout.place(key)


def comfyui(key: str) -> str:
    """The prefixes of ComfyUI's own models, where only the prefix changes."""
    for prefix, new in (
        ("model.diffusion_model.", "diffusion_model."),
        ("text_encoders.", ""),
        ("cond_stage_model.transformer.", "clip_l.transformer."),
        ("conditioner.embedders.0.transformer.", "clip_l.transformer."),
        ("first_stage_model.", "vae."),
    ):
        if key.startswith(prefix):
            return new + key.removeprefix(prefix)
    return key


def detect_only(spec: LayoutSpec, tensors: dict[str, TensorMeta]) -> str:
    """What the file is taken for if of the known architectures only ``spec`` counts."""
    renamed = replace(spec, name="alone")
    arch = detect(tensors, [renamed]).arch
    return "alone" if arch == "alone" else GENERIC


def stacks(
    layout: Layout, part: str, depth_of: dict[tuple[str, str | None], float | None]
) -> Iterator[tuple[str, list[float]]]:
    """The depths of a part's blocks in forward order, tower by tower."""
    towers: dict[str, list[float]] = {}
    for block in layout.blocks(part):
        depth = depth_of[part, block]
        if depth is not None:
            towers.setdefault(block.split(".")[0] if part == "clip" else part, []).append(depth)
    yield from towers.items()


def test_the_blocks_of_sd15_are_those_of_mbw() -> None:
    layout = detect(load("sd15"))
    inputs, outputs = ([f"{side}_blocks.{i}" for i in range(12)] for side in ("input", "output"))
    middle = [f"middle_block.{i}" for i in range(3)]
    assert layout.blocks("unet") == ["time_embed", *inputs, *middle, *outputs, "out"]
    for key in load("sd15"):
        place = layout.place(key)
        if place.part == "unet":
            assert place.name.startswith(f"diffusion_model.{place.block}.")
            assert (place.depth is None) == (place.block == "time_embed")
    assert layout.place("model.diffusion_model.input_blocks.0.0.weight").depth == 0
    assert layout.place("model.diffusion_model.middle_block.1.norm.bias").depth == 13 / 27
    assert layout.place("model.diffusion_model.out.2.bias").depth == 1


def test_the_blocks_of_sdxl_end_at_eight() -> None:
    inputs, outputs = ([f"{side}_blocks.{i}" for i in range(9)] for side in ("input", "output"))
    middle = [f"middle_block.{i}" for i in range(3)]
    layout = detect(load("sdxl"))
    assert layout.blocks("unet") == ["time_embed", "label_emb", *inputs, *middle, *outputs, "out"]
    assert [block for block in layout.blocks("clip") if block.startswith("clip_g.layers.")] == [
        f"clip_g.layers.{i}" for i in range(31)
    ]


def test_block_one_is_not_block_ten() -> None:
    layout = detect(load("sd15"))
    held = Counter(layout.place(key).block for key in load("sd15"))
    for number in (1, 10, 11):
        exact = re.compile(rf"model\.diffusion_model\.input_blocks\.{number}\.")
        assert held[f"input_blocks.{number}"] == sum(bool(exact.match(key)) for key in load("sd15")) > 0


def test_blocks_are_whole_segments() -> None:
    layout = detect(load("sd15"))
    for key in ("outer.0.weight", "input_blocks.1x.0.weight", "input_blocks.1234567890.0.weight", "xout.0.weight"):
        place = layout.place(f"model.diffusion_model.{key}")
        assert (place.part, place.block, place.depth, place.role) == ("unet", None, None, "other")
    assert layout.place("first_stage_model.decoder.up.10.block.0.conv1.weight").block is None
    assert layout.place("model.diffusion_model.input_blocks.1.1.xnorm.weight").role == "other"
    assert layout.place("model.diffusion_model.input_blocks.1.1.normx.weight").role == "other"


def test_the_decoder_of_the_autoencoder_runs_from_its_last_level_to_its_first() -> None:
    blocks = detect(load("flux-dev")).blocks("vae")
    ups = [block for block in blocks if block.startswith("decoder.up.")]
    assert ups == [f"decoder.up.{level}" for level in (3, 2, 1, 0)]
    assert blocks.index("encoder.down.3") < blocks.index("encoder.mid") < blocks.index("decoder.mid")


def test_the_blocks_of_flux_and_of_a_decoder() -> None:
    flux = detect(load("flux-dev"))
    assert flux.blocks("unet")[:3] == ["time_in", "vector_in", "guidance_in"]
    assert flux.place("model.diffusion_model.guidance_in.in_layer.bias").depth is None
    stack = flux.blocks("unet")[5:]
    assert stack == [
        *(f"double_blocks.{i}" for i in range(19)),
        *(f"single_blocks.{i}" for i in range(38)),
        "final_layer",
    ]
    llama = detect(metas(decoder(12)))
    assert llama.blocks("lm") == ["embed_tokens", *(f"layers.{i}" for i in range(12)), "norm", "lm_head"]
    assert llama.place("lm_head.weight").depth == 1


@pytest.mark.parametrize(
    ("name", "key", "block", "role"),
    [
        ("sd15", "model.diffusion_model.input_blocks.1.0.in_layers.0.weight", "input_blocks.1", "norm"),
        ("sd15", "model.diffusion_model.input_blocks.1.0.in_layers.2.weight", "input_blocks.1", "conv"),
        ("sd15", "model.diffusion_model.input_blocks.1.0.emb_layers.1.weight", "input_blocks.1", "time"),
        ("sd15", "model.diffusion_model.input_blocks.1.1.proj_in.weight", "input_blocks.1", "proj"),
        ("sd15", "model.diffusion_model.input_blocks.3.0.op.weight", "input_blocks.3", "resample"),
        ("sd15", "model.diffusion_model.output_blocks.2.1.conv.weight", "output_blocks.2", "resample"),
        ("sd15", "model.diffusion_model.out.0.weight", "out", "norm"),
        ("sd15", "model.diffusion_model.out.2.weight", "out", "head"),
        ("sdxl", "model.diffusion_model.label_emb.0.0.weight", "label_emb", "label"),
        ("sdxl", "conditioner.embedders.1.model.positional_embedding", "clip_g.embeddings", "embed"),
        (
            "sdxl",
            "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_bias",
            "clip_g.layers.3",
            "attn.qkv",
        ),
        ("sdxl-refiner", "conditioner.embedders.0.model.transformer.resblocks.3.ln_1.bias", "clip_g.layers.3", "norm"),
        ("sd2", "cond_stage_model.model.transformer.resblocks.23.mlp.c_fc.bias", "clip_h.layers.23", "ff"),
        ("sd2", "cond_stage_model.model.text_projection", "clip_h.text_projection", "head"),
        ("sd3", "model.diffusion_model.pos_embed", "pos_embed", "embed"),
        ("sd3", "model.diffusion_model.joint_blocks.3.x_block.attn.ln_q.weight", "joint_blocks.3", "attn.norm"),
        ("sd3", "model.diffusion_model.t_embedder.mlp.0.weight", "t_embedder", "time"),
        ("sd3", "model.diffusion_model.final_layer.adaLN_modulation.1.bias", "final_layer", "mod"),
        ("sd3", "text_encoders.t5xxl.logit_scale", None, "scale"),
        ("flux-dev", "model.diffusion_model.single_blocks.7.linear1.weight", "single_blocks.7", "fused"),
        (
            "flux-dev",
            "model.diffusion_model.double_blocks.4.txt_attn.norm.key_norm.scale",
            "double_blocks.4",
            "attn.norm",
        ),
        (
            "flux-dev",
            "text_encoders.t5xxl.transformer.encoder.block.2.layer.0.SelfAttention.o.weight",
            "t5xxl.block.2",
            "attn.out",
        ),
        ("phi-3", "model.layers.4.self_attn.qkv_proj.weight", "layers.4", "attn.qkv"),
        ("phi-3", "model.layers.4.mlp.gate_up_proj.weight", "layers.4", "ff"),
        ("qwen3-tied", "model.layers.4.self_attn.q_norm.weight", "layers.4", "attn.norm"),
        # A scale beside a quantised weight is not that weight's role.
        ("flux-dev", "model.diffusion_model.double_blocks.4.img_attn.qkv.scale_weight", "double_blocks.4", "scale"),
    ],
)
def test_places_of_single_tensors(name: str, key: str, block: str | None, role: str) -> None:
    place = detect(CHECKPOINTS[name][1]).place(key)
    assert (place.block, place.role) == (block, role)


def test_comfyui_names_of_openclip_share_blocks_though_not_tensors() -> None:
    ours = detect(load("sdxl")).place("conditioner.embedders.1.model.transformer.resblocks.30.ln_2.bias")
    comfy = detect(metas({"clip_g.transformer.text_model.encoder.layers.30.layer_norm2.bias": (1280,)}))
    theirs = comfy.place("clip_g.transformer.text_model.encoder.layers.30.layer_norm2.bias")
    assert (ours.part, ours.block, ours.role) == (theirs.part, theirs.block, theirs.role)
    assert ours.name == ours.key
    assert theirs.name == theirs.key


def test_a_comfyui_clip_alone_has_places_and_depths() -> None:
    tensors = {key: meta for key, meta in load("sd3").items() if key.startswith("text_encoders.")}
    comfy = {comfyui(key): meta for key, meta in tensors.items()}
    layout = detect(comfy)
    assert layout.arch == GENERIC
    full = detect(load("sd3"))
    assert all(replace(layout.place(comfyui(key)), key=key) == full.place(key) for key in tensors)


class TestRecognition:
    @pytest.mark.parametrize("latents", [8, 9])
    def test_inpainting_and_pix2pix_are_sd15(self, latents: int) -> None:
        shapes = unet(320, [1, 2, 4, 4], [1, 1, 1, 0], 1, 768, linear=False, latents=latents)
        assert detect(metas(under("model.diffusion_model.", shapes))).arch == "sd15"

    @pytest.mark.parametrize(
        ("shapes", "arch"),
        [(SD15_UNET, "sd15"), (SD2_UNET, "sd2"), (SDXL_UNET, "sdxl"), (REFINER_UNET, "sdxl-refiner")],
    )
    def test_a_bare_unet_has_the_places_and_names_of_a_prefixed_one(self, shapes: Shapes, arch: str) -> None:
        bare, prefixed = detect(metas(shapes)), detect(metas(under("diffusion_model.", shapes)))
        assert bare.arch == prefixed.arch == arch
        for key in shapes:
            assert replace(bare.place(key), key="") == replace(prefixed.place(f"diffusion_model.{key}"), key="")

    def test_a_bare_flux_and_what_does_not_belong_to_it(self) -> None:
        prefix = "model.diffusion_model."
        tensors = {key.removeprefix(prefix): meta for key, meta in load("flux-dev").items() if key.startswith(prefix)}
        layout = detect(tensors)
        assert layout.arch == "flux"
        assert layout.place("single_blocks.37.linear2.bias").name == "diffusion_model.single_blocks.37.linear2.bias"
        stray = layout.place("some.3.thing")
        assert (stray.part, stray.block, stray.name) == ("other", None, "some.3.thing")

    def test_a_root_tensor_beside_a_prefixed_unet_is_no_part_of_it(self) -> None:
        layout = detect(load("sd15"))
        assert layout.place("out.2.weight").part == "other"

    def test_a_bare_decoder(self) -> None:
        shapes = {key.removeprefix("model."): shape for key, shape in decoder(3, tied=True).items()}
        layout = detect(metas(shapes))
        assert layout.arch == "decoder-lm"
        assert layout.blocks("lm") == ["embed_tokens", "layers.0", "layers.1", "layers.2", "norm"]

    def test_a_controlnet_is_no_unet(self) -> None:
        half = {key: shape for key, shape in SD15_UNET.items() if not key.startswith(("out", "output_blocks"))}
        half |= both("zero_convs.0.0", 320, 320, 1, 1)
        for prefix in ("", "control_model."):
            layout = detect(metas(under(prefix, half)))
            assert layout.arch == GENERIC
            assert layout.blocks("unet") == []

    def test_a_video_unet_is_no_sd2(self) -> None:
        shapes = under("model.diffusion_model.", SD2_UNET | both("input_blocks.1.1.time_stack.0.norm1", 320))
        assert detect(metas(shapes)).arch == GENERIC

    def test_a_class_conditional_unet_is_no_sd15(self) -> None:
        shapes = unet(320, [1, 2, 4, 4], [1, 1, 1, 0], 1, 768, linear=False, label=1000)
        assert detect(metas(under("model.diffusion_model.", shapes))).arch == GENERIC

    def test_another_context_width_is_no_guess(self) -> None:
        layout = detect(metas(under("model.diffusion_model.", unet(320, [1, 2], [1, 1], 1, 512))))
        assert layout.arch == GENERIC
        assert layout.place("model.diffusion_model.out.2.bias").part == "unet"

    def test_sd2_as_stability_saved_it_later(self) -> None:
        shapes = under("model.diffusion_model.", SD2_UNET) | under("conditioner.embedders.0.model.", openclip(1024, 24))
        layout = detect(metas(shapes))
        key = "conditioner.embedders.0.model.transformer.resblocks.2.ln_1.bias"
        assert layout.place(key).block == "clip_h.layers.2"

    def test_nothing(self) -> None:
        layout = detect({})
        assert layout.arch == GENERIC
        assert all(layout.blocks(part) == [] for part in PARTS)


class TestGeneric:
    def test_one_family_has_depths(self) -> None:
        keys = [f"model.diffusion_model.blocks.{i}.attn.to_q.weight" for i in range(11)]
        layout = detect(metas(dict.fromkeys([*keys, "model.diffusion_model.head.weight"], (4, 4))))
        assert layout.blocks("unet") == [f"blocks.{i}" for i in range(11)]
        assert [layout.place(key).depth for key in keys] == [i / 10 for i in range(11)]
        assert layout.place(keys[3]).role == "attn.q"
        assert layout.place(keys[3]).name == "diffusion_model.blocks.3.attn.to_q.weight"
        head = layout.place("model.diffusion_model.head.weight")
        assert (head.part, head.block, head.depth, head.role) == ("unet", None, None, "other")

    def test_two_families_have_none(self) -> None:
        keys = [f"{side}.blocks.{i}.weight" for side in ("encoder", "decoder") for i in range(3)]
        layout = detect(metas(dict.fromkeys(keys, (4, 4))))
        assert layout.blocks("other") == [f"{side}.blocks.{i}" for side in ("encoder", "decoder") for i in range(3)]
        assert {layout.place(key).depth for key in keys} == {None}

    def test_families_of_different_parts_do_not_meet(self) -> None:
        layout = detect(metas({"diffusion_model.a.0.w": (1,), "diffusion_model.a.1.w": (1,), "b.0.w": (1,)}))
        assert layout.place("diffusion_model.a.1.w").depth == 1
        assert layout.place("b.0.w").depth == 0

    def test_an_unknown_text_encoder_has_a_part_only(self) -> None:
        """The numbers in its name may be those of encoders, not of blocks."""
        for key in ("conditioner.embedders.3.encoder.weight", "text_encoders.gemma.layers.3.weight"):
            place = detect(metas({key: (1,)})).place(key)
            assert (place.part, place.block) == ("clip", None)

    def test_the_last_segment_is_no_block(self) -> None:
        assert detect({}).place("embedding.3").block is None

    def test_a_block_the_model_does_not_hold_has_no_depth(self) -> None:
        layout = detect(load("sd15"))
        place = layout.place("model.diffusion_model.input_blocks.12.0.weight")
        assert (place.block, place.depth) == ("input_blocks.12", None)

    @given(st.dictionaries(st.text(".0123456789aβ²_", max_size=14) | st.text(max_size=14), st.just(()), max_size=6))
    def test_any_name_has_a_place(self, shapes: Shapes) -> None:
        layout = detect(metas(shapes))
        for key in shapes:
            place = layout.place(key)
            assert place.key == key
            assert place.part in PARTS
            assert place.role in ROLES
            assert place.block is None or place.block in layout.blocks(place.part)
            assert place.depth is None or 0 <= place.depth <= 1
            assert place == detect(metas(shapes)).place(key)

    @given(st.integers(min_value=0, max_value=10**40))
    def test_long_numbers_are_no_trouble(self, number: int) -> None:
        assert detect({}).place(f"blocks.{number}.weight").part == "other"


class TestPlugins:
    SPEC = LayoutSpec(
        name="tiny-dit",
        towers=(
            Tower(
                part="unet",
                prefixes=("model.diffusion_model.", "diffusion_model."),
                bare=True,
                stack=same("patch", "blocks.#.#", "final"),
                aside={"t": "time_in"},
                roles={"blocks.#.0": "attn", "mlp": "ff", "final": "head"},
            ),
        ),
        requires={"patch.weight": (None, 4), "blocks.0.0.weight": None},
        lacks=("not_mine.weight",),
    )
    SHAPES: Shapes = {
        "patch.weight": (8, 4),
        **{f"blocks.{i}.{j}.weight": (8,) for i in (0, 1, 10, 2) for j in (1, 0)},
        "final.weight": (8,),
        "t.weight": (8,),
    }

    def test_a_plugin_adds_an_architecture(self) -> None:
        for prefix in ("model.diffusion_model.", "diffusion_model.", ""):
            layout = detect(metas(under(prefix, self.SHAPES)), [self.SPEC])
            assert layout.arch == "tiny-dit"
            numbers = [f"blocks.{i}.{j}" for i in (0, 1, 2, 10) for j in (0, 1)]
            assert layout.blocks("unet") == ["time_in", "patch", *numbers, "final"]
            place = layout.place(f"{prefix}blocks.0.0.weight")
            assert (place.depth, place.role, place.name) == (1 / 9, "attn", "diffusion_model.blocks.0.0.weight")
            assert layout.place(f"{prefix}blocks.0.1.weight").role == "other"

    @pytest.mark.parametrize("change", [{"patch.weight": (8, 5)}, {"patch.weight": (8, 4, 1)}, {"not_mine.weight": ()}])
    def test_what_does_not_fit_is_not_recognised(self, change: Shapes) -> None:
        assert detect(metas(self.SHAPES | change), [self.SPEC]).arch == GENERIC

    def test_a_plugin_comes_before_what_is_known(self) -> None:
        spec = replace(KNOWN[0], name="my-sd15")
        assert detect(load("sd15"), [spec]).arch == "my-sd15"

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"part": "unett"}, "unknown part"),
            ({"roles": {"to_q": "atn.q"}}, r"unknown role.*attn\.q"),
            ({"stack": {"blocks.#": "blocks"}}, "same number of '#'"),
            ({"stack": same("blocks.#x")}, "malformed"),
            ({"aside": same("a..b")}, "malformed"),
            ({"roles": {"": "ff"}}, "malformed"),
        ],
    )
    def test_mistakes_in_a_tower_are_named(self, change: dict[str, object], match: str) -> None:
        with pytest.raises(CatalogError, match=match):
            replace(self.SPEC.towers[0], **change)

    def test_a_spec_must_be_recognisable(self) -> None:
        with pytest.raises(CatalogError, match="nothing to recognise"):
            replace(self.SPEC, requires={})

    def test_tables_are_frozen(self) -> None:
        with pytest.raises(TypeError):
            KNOWN[0].towers[0].roles["to_q"] = "ff"  # type: ignore[index]


def test_the_documentation_names_every_part_role_and_architecture() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for word in (*PARTS, *ROLES, *(spec.name for spec in KNOWN), GENERIC):
        assert f"`{word}`" in text, word
    for role, meaning in ROLES.items():
        assert f"| `{role}` | {meaning} |" in text


def test_unknown_layout_name() -> None:
    with pytest.raises(KeyError, match="sd15"):
        load("sd14")


@pytest.mark.parametrize(
    ("name", "role"),
    [("add_q_proj", "attn.q"), ("add_k_proj", "attn.k"), ("add_v_proj", "attn.v"), ("to_add_out", "attn.out")],
)
def test_the_text_stream_of_a_joint_attention_in_diffusers_names(name: str, role: str) -> None:
    key = f"transformer_blocks.3.attn.{name}.weight"
    layout = detect({key: TensorMeta(key, "F16", (4, 4))})
    assert layout.place(key).role == role
