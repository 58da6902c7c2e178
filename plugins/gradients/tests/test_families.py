"""Every family covers the tensors that it says, on every architecture; the oracles are patterns over names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daremerge_core import DaremergeError, GradientFamily, Layout, MemoryModel, view
from daremerge_core.layout import detect
from daremerge_core.testing import tiny_model
from daremerge_core.testing.layouts import NAMES, load
from daremerge_gradients.attention import AttentionGradient
from daremerge_gradients.depth import DepthGradient, curve
from daremerge_gradients.tables import PartsGradient, PatternGradient
from daremerge_gradients.unet import BlockGradient, ShellGradient

Shapes = dict[str, tuple[int, ...]]
UNET = r"model\.diffusion_model\."
CLIP = r"(cond_stage_model|conditioner|text_encoders)\."


def with_width(shapes: Shapes, width: int) -> Shapes:
    """Cross-attention from another text encoder, by which the U-Nets are told apart."""
    return {key: (shape[0], width) if "attn2.to_k" in key else shape for key, shape in shapes.items()}


def decoder(layers: int) -> Shapes:
    found: Shapes = {"model.embed_tokens.weight": (9, 4), "model.norm.weight": (4,), "lm_head.weight": (9, 4)}
    linear = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj")
    norms = ("self_attn.q_norm", "input_layernorm", "post_attention_layernorm")
    for i in range(layers):
        found |= {f"model.layers.{i}.{name}.weight": (4, 4) for name in linear}
        found |= {f"model.layers.{i}.{name}.weight": (4,) for name in norms}
    return found


@cache
def model(name: str) -> MemoryModel:
    """A model's names and shapes: real ones, and those of relatives made from them."""
    if name in NAMES:
        shapes = {key: meta.shape for key, meta in load(name).items()}
    elif name == "sd2":
        shapes = with_width({key: meta.shape for key, meta in load("sd15").items()}, 1024)
    elif name == "sdxl-refiner":
        kept = {k: meta.shape for k, meta in load("sd15").items() if not re.search(r"input_blocks\.[12]\.1\.", k)}
        shapes = with_width(kept, 1280) | {"model.diffusion_model.label_emb.0.0.weight": (4, 4)}
    else:
        shapes = decoder(12)
    zero = torch.zeros(())
    return MemoryModel({key: zero.expand(shape) for key, shape in shapes.items()}, {})


UNETS = ("sd15", "sd2", "sdxl", "sdxl-refiner")
MODELS = (*UNETS, "sd3", "flux-dev", "decoder-lm")


@cache
def layout(of: MemoryModel) -> Layout:
    return detect({key: of.meta(key) for key in of.keys()})


def ratios(component: GradientFamily) -> Mapping[str, float]:
    """What a family gives each tensor of its model that it covers."""
    ratio_at = component.for_layout(layout(component.model))
    return {place.key: ratio for place in layout(component.model).places() if (ratio := ratio_at(place)) is not None}


def matching(name: str, pattern: str) -> set[str]:
    return {key for key in model(name).keys() if re.search(pattern, key)}


def test_the_relatives_are_recognised() -> None:
    for name in MODELS:
        assert layout(model(name)).arch == name.removesuffix("-dev")


class TestBlock:
    PATTERNS = {
        "time": r"time_embed\.",
        "label": r"label_emb\.",
        "input": r"input_blocks\.\d+\.",
        "middle": r"middle_block\.\d\.",
        "output": r"output_blocks\.\d+\.",
        "out": r"out\.",
    }

    @pytest.mark.parametrize("name", UNETS)
    @pytest.mark.parametrize("field", PATTERNS)
    def test_covers_one_kind_of_block(self, name: str, field: str) -> None:
        expected = matching(name, f"^{UNET}{self.PATTERNS[field]}")
        if not expected:
            assert (name, field) in {("sd15", "label"), ("sd2", "label")}
            with pytest.raises(DaremergeError, match="touches none"):
                view(BlockGradient(model=model(name), **{field: 0.25}))
            return
        assert ratios(BlockGradient(model=model(name), **{field: 0.25})) == dict.fromkeys(expected, 0.25)

    @pytest.mark.parametrize("name", UNETS)
    def test_all_of_them_are_the_unet(self, name: str) -> None:
        given = {field: index / 10 for index, field in enumerate(self.PATTERNS)}
        found = ratios(BlockGradient(model=model(name), **given))
        assert found.keys() == matching(name, f"^{UNET}")
        for field, pattern in self.PATTERNS.items():
            assert {found[key] for key in matching(name, f"^{UNET}{pattern}")} <= {given[field]}

    def test_a_bare_unet_has_the_same_blocks(self) -> None:
        shapes = {k.removeprefix("model.diffusion_model."): m.shape for k, m in load("sd15").items() if ".diff" in k}
        bare = MemoryModel({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, {})
        found = ratios(BlockGradient(model=bare, middle=0.5))
        assert found.keys() == {key for key in shapes if key.startswith("middle_block.")}


SHELLS_OF_12 = {
    "exterior": r"(input_blocks\.[0-3]|output_blocks\.([89]|1[01]))\.",
    "interior": r"(input_blocks\.[4-7]|output_blocks\.[4-7])\.",
    "core": r"(input_blocks\.([89]|1[01])|middle_block\.\d|output_blocks\.[0-3])\.",
}
SHELLS_OF_9 = {
    "exterior": r"(input_blocks\.[0-2]|output_blocks\.[678])\.",
    "interior": r"(input_blocks\.[3-5]|output_blocks\.[345])\.",
    "core": r"(input_blocks\.[678]|middle_block\.\d|output_blocks\.[0-2])\.",
}


class TestShell:
    @pytest.mark.parametrize("name", UNETS)
    @pytest.mark.parametrize("shell", SHELLS_OF_12)
    def test_covers_one_shell(self, name: str, shell: str) -> None:
        table = SHELLS_OF_9 if name == "sdxl" else SHELLS_OF_12
        expected = matching(name, f"^{UNET}{table[shell]}")
        assert ratios(ShellGradient(model=model(name), **{shell: 0.25})) == dict.fromkeys(expected, 0.25)

    @pytest.mark.parametrize("name", UNETS)
    def test_all_of_them_are_the_unet_without_its_ends(self, name: str) -> None:
        found = ratios(ShellGradient(model=model(name), exterior=0.0, interior=0.5, core=1.0))
        assert found.keys() == matching(name, f"^{UNET}") - matching(name, f"^{UNET}(time_embed|label_emb|out)\\.")
        assert set(found.values()) == {0.0, 0.5, 1.0}

    @pytest.mark.parametrize("blocks", range(3, 14))
    def test_any_number_of_blocks_is_parted_evenly_and_symmetrically(self, blocks: int) -> None:
        ends = ("input_blocks.0.0.weight", "out.2.weight")
        told_by = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
        shapes: Shapes = {**dict.fromkeys(ends, (1, 1, 1, 1)), told_by: (1, 768), "middle_block.0.weight": (1,)}
        shapes |= {f"{side}_blocks.{i}.1.weight": (1,) for side in ("input", "output") for i in range(blocks)}
        unet = MemoryModel({f"diffusion_model.{key}": torch.zeros(shape) for key, shape in shapes.items()}, {})
        found = ratios(ShellGradient(model=unet, exterior=0.0, interior=0.5, core=1.0))
        inputs = [found[f"diffusion_model.input_blocks.{i}.1.weight"] for i in range(blocks)]
        outputs = [found[f"diffusion_model.output_blocks.{i}.1.weight"] for i in range(blocks)]
        assert inputs == sorted(inputs)
        assert outputs == inputs[::-1], "a skip connection joins two blocks of one shell"
        assert all(inputs.count(ratio) - blocks // 3 in (0, 1) for ratio in (0.0, 0.5, 1.0))


@pytest.mark.parametrize("family", [BlockGradient, ShellGradient])
@pytest.mark.parametrize("name", ["sd3", "flux-dev", "decoder-lm"])
def test_other_architectures_are_told_what_works(family: type[GradientFamily], name: str) -> None:
    field = "input" if family is BlockGradient else "core"
    with pytest.raises(DaremergeError, match="use depth, mbw, pattern or parts"):
        view(family(model=model(name), **{field: 0.5}))


T_BLOCK = UNET + r".*transformer_blocks\.\d+\."
ATTENTION = {
    **{
        name: {"norm": T_BLOCK + r"norm[123]\.", "attn": T_BLOCK + r"attn[12]\.", "ff": T_BLOCK + r"ff\.net\."}
        for name in UNETS
    },
    "sd3": {"norm": "(?!)", "attn": UNET + r".*\.attn2?\.(qkv|proj)\.", "ff": UNET + r"joint_blocks\..*\.mlp\."},
    "flux-dev": {
        "norm": UNET + r".*\.(query|key)_norm\.",
        "attn": UNET + r".*\.(img|txt)_attn\.(qkv|proj)\.",
        "ff": UNET + r".*\.(img|txt)_mlp\.",
        "fused": UNET + r"single_blocks\.\d+\.linear[12]\.",
    },
    "decoder-lm": {
        "norm": r"layers\.\d+\.(input_layernorm|post_attention_layernorm|self_attn\.q_norm)\.",
        "attn": r"layers\.\d+\.self_attn\.[qkvo]_proj\.",
        "ff": r"layers\.\d+\.mlp\.",
    },
}
TEXT_ENCODERS = {
    "norm": r"layers\.\d+\.layer_norm[12]\.|resblocks\.\d+\.ln_[12]\.|block\.\d+\.layer\.[01]\.layer_norm\.",
    "attn": r"\.self_attn\.|resblocks\.\d+\.attn\.|\.SelfAttention\.",
    "ff": r"\.mlp\.|\.DenseReluDense\.",
}


class TestAttention:
    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize("field", ["norm", "attn", "ff", "fused"])
    def test_covers_what_it_says_in_the_denoiser_or_decoder(self, name: str, field: str) -> None:
        expected = matching(name, ATTENTION[name].get(field, "(?!)"))
        component = AttentionGradient(model=model(name), **{field: 0.25})
        if expected:
            assert ratios(component) == dict.fromkeys(expected, 0.25)
        else:
            with pytest.raises(DaremergeError, match="touches none"):
                view(component)

    @pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux-dev"])
    @pytest.mark.parametrize("field", TEXT_ENCODERS)
    def test_covers_text_encoders_when_asked(self, name: str, field: str) -> None:
        expected = matching(name, CLIP) & matching(name, TEXT_ENCODERS[field])
        assert ratios(AttentionGradient(model=model(name), parts=["clip"], **{field: 0.5})).keys() == expected

    def test_the_autoencoders_attention_has_a_norm_right_before_it(self) -> None:
        found = ratios(AttentionGradient(model=model("sd15"), parts=["vae"], norm=0.5))
        assert found.keys() == matching("sd15", r"first_stage_model\..*\.attn_1\.norm\.")

    def test_fields_do_not_meet(self) -> None:
        given = {"norm": 0.1, "attn": 0.2, "ff": 0.3, "fused": 0.4}
        found = ratios(AttentionGradient(model=model("flux-dev"), **given))
        for field, pattern in ATTENTION["flux-dev"].items():
            assert {found[key] for key in matching("flux-dev", pattern)} == {given[field]}
        assert len(found) == sum(len(matching("flux-dev", pattern)) for pattern in ATTENTION["flux-dev"].values())


def points(*pairs: tuple[float, float]) -> dict[str, float]:
    return {str(depth): ratio for depth, ratio in pairs}


curves = st.dictionaries(st.floats(0, 1), st.floats(0, 1), min_size=1, max_size=6)


class TestDepth:
    def test_runs_along_the_blocks_of_sd15(self) -> None:
        found = ratios(DepthGradient(model=model("sd15"), points=points((0, 0), (1, 1)), parts=["unet"]))
        assert found.keys() == matching("sd15", f"^{UNET}") - matching("sd15", "time_embed")
        order = [f"input_blocks.{i}" for i in range(12)] + [f"middle_block.{i}" for i in range(3)]
        order += [f"output_blocks.{i}" for i in range(12)] + ["out"]
        for index, block in enumerate(order):
            for key in matching("sd15", f"^{UNET}{re.escape(block)}\\."):
                assert found[key] == pytest.approx(index / 27)

    @pytest.mark.parametrize("name", MODELS)
    def test_any_architecture_in_all_parts(self, name: str) -> None:
        found = ratios(DepthGradient(model=model(name), points=points((0, 1), (0.5, 0), (1, 1)), rest=0.25))
        assert found.keys() == set(model(name).keys())
        assert set(found.values()) >= {1.0}
        assert min(found.values()) < 0.1

    def test_along_layers_only_numbered_blocks_have_a_depth(self) -> None:
        keys = ["embed_tokens.weight", *(f"layers.{i}.mlp.up_proj.weight" for i in (0, 1, 2, 10)), "norm.weight"]
        decoder = MemoryModel({f"model.{key}": torch.zeros(2, 2) for key in keys})
        found = ratios(DepthGradient(model=decoder, points=points((0, 0), (1, 1)), along="layers", rest=0.5))
        assert list(found.values()) == [0.5, 0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0, 0.5]
        alone = MemoryModel({"layers.3.weight": torch.zeros(2)})
        assert ratios(DepthGradient(model=alone, points=points((0, 0), (1, 1)), along="layers")) == {
            "layers.3.weight": 1.0
        }

    def test_parts_limit_the_rest_too(self) -> None:
        found = ratios(DepthGradient(model=model("sd15"), points=points((0, 1)), rest=0.25, parts=["unet"]))
        assert found.keys() == matching("sd15", f"^{UNET}")
        assert {found[key] for key in matching("sd15", "time_embed")} == {0.25}

    def test_yaml_may_write_numbers(self) -> None:
        component = DepthGradient(model=model("sd15"), points={0: 1, 0.5: 0.2, 1: 1})
        assert component.points == {"0": 1.0, "0.5": 0.2, "1": 1.0}

    @given(curves, st.sampled_from(["linear", "cosine", "step"]))
    def test_a_curve_goes_through_its_points_and_stays_between_them(self, given: dict[float, float], how: Any) -> None:
        heights = sorted(given.items())
        for depth, height in heights:
            assert curve(heights, depth, how) == height
        for (start, low), (stop, high) in pairwise(heights):
            for t in (0.25, 0.5, 0.75):
                between = curve(heights, start + (stop - start) * t, how)
                assert min(low, high) - 1e-12 <= between <= max(low, high) + 1e-12

    @given(curves, st.floats(0, 1))
    def test_a_line_is_numpys(self, given: dict[float, float], depth: float) -> None:
        import numpy as np

        heights = sorted(given.items())
        expected = np.interp(depth, *zip(*heights, strict=True))
        assert curve(heights, depth, "linear") == pytest.approx(float(expected), abs=1e-9)

    def test_a_step_keeps_the_ratio_until_the_next_point(self) -> None:
        heights = [(0.25, 0.5), (0.75, 1.0)]
        found = [curve(heights, depth, "step") for depth in (0.0, 0.25, 0.5, 0.7499, 0.75, 1.0)]
        assert found == [0.5, 0.5, 0.5, 0.5, 1.0, 1.0]

    def test_a_cosine_is_flat_at_its_points_and_half_way_in_the_middle(self) -> None:
        heights = [(0.0, 1.0), (1.0, 0.0)]
        assert curve(heights, 0.5, "cosine") == pytest.approx(0.5)
        assert curve(heights, 0.01, "cosine") > 0.999

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"1.5": 0.0}, "runs from 0"),
            ({"-0.1": 0.0}, "runs from 0"),
            ({"half": 0.0}, "not a depth"),
            ({"nan": 0.0}, "not a depth"),
            ({"0": 0.0, "0.0": 1.0}, "one depth"),
            ({}, "at least 1"),
            ({None: 1.0}, "string"),
        ],
    )
    def test_what_is_no_depth(self, given: dict[Any, float], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            DepthGradient(model=model("sd15"), points=given)

    def test_an_unknown_order_is_said(self) -> None:
        with pytest.raises(DaremergeError, match=r"order of the blocks is not known.*gradient\.mbw"):
            view(DepthGradient(model=tiny_model(), points=points((0, 1)), rest=0.5, parts=["unet"]))


class TestPattern:
    def test_the_first_that_matches_counts(self) -> None:
        layers = {"*.attn2.*": 0.0, "input_blocks.1": 0.25, "*": 1.0}
        found = ratios(PatternGradient(model=model("sd15"), layers=layers))
        assert found.keys() == set(model("sd15").keys())
        for key, ratio in found.items():
            expected = 0.0 if ".attn2." in key else 0.25 if re.search(r"\binput_blocks\.1\.", key) else 1.0
            assert ratio == expected

    def test_the_order_survives_json(self) -> None:
        import json

        component = PatternGradient(model=model("sd15"), layers={"*.weight": 0.5, "*": 1.0})
        again = PatternGradient(model=model("sd15"), **json.loads(json.dumps(component.options())))
        assert list(again.layers) == ["*.weight", "*"]

    def test_the_rest(self) -> None:
        without = ratios(PatternGradient(model=model("sd15"), layers={"out": 0.0}))
        assert without.keys() == matching("sd15", f"^{UNET}out\\.")
        found = ratios(PatternGradient(model=model("sd15"), layers={"out": 0.0}, rest=0.75))
        assert found == dict.fromkeys(model("sd15").keys(), 0.75) | without

    def test_each_selector_must_match(self) -> None:
        with pytest.raises(DaremergeError, match="matches none") as error:
            view(PatternGradient(model=model("sd15"), layers={"*": 1.0, "input_block.1": 0.0}))
        assert "input_blocks" in str(error.value)


class TestParts:
    PREFIXES = {
        "unet": f"^{UNET}",
        "clip": f"^{CLIP}",
        "vae": r"^(first_stage_model|vae)\.",
        "lm": r"^(model\.(layers|norm|embed_tokens)|lm_head)\b",
        "other": r"^model\.model_sampling\.",
    }

    @pytest.mark.parametrize("name", MODELS)
    def test_cover_their_prefixes(self, name: str) -> None:
        given = {part: index / 10 for index, part in enumerate(self.PREFIXES)}
        found = ratios(PartsGradient(model=model(name), **given))
        assert found.keys() == set(model(name).keys())
        for part, prefix in self.PREFIXES.items():
            assert {found[key] for key in matching(name, prefix)} <= {given[part]}

    def test_the_others_are_left_alone(self) -> None:
        assert ratios(PartsGradient(model=model("sdxl"), clip=0.5)).keys() == matching("sdxl", f"^{CLIP}")


@pytest.mark.parametrize(
    ("family", "match"),
    [
        (BlockGradient, "time, label, input, middle, output, out"),
        (ShellGradient, "exterior, interior, core"),
        (AttentionGradient, "norm, attn, ff, fused"),
        (PartsGradient, "unet, clip, vae, lm, other"),
    ],
)
def test_nothing_given_is_an_error(family: type[GradientFamily], match: str) -> None:
    with pytest.raises(ValueError, match=f"at least one of {match}"):
        family(model=model("sd15"))


@pytest.mark.parametrize("outside", ["error", "clamp", "allow"])
def test_ratios_outside_0_to_1(outside: str) -> None:
    component = BlockGradient(model=model("sd15"), input=1.5, middle=-0.5, out=0.5, outside=outside)
    if outside == "error":
        with pytest.raises(DaremergeError, match="Set `outside` to clamp"):
            view(component)
        return
    value: Any = view(component)
    assert {value.ratio(key) for key in value.keys()} - {None} == (
        {1.0, 0.0, 0.5} if outside == "clamp" else {1.5, -0.5, 0.5}
    )


def test_no_block_reaches_its_longer_namesakes() -> None:
    """Block 1 is never 10 or 11, whatever family names it, on every layout."""
    numbered = ("input_blocks.1", "output_blocks.1", "joint_blocks.1", "double_blocks.1", "single_blocks.1", "layers.1")
    for name in MODELS:
        for block in numbered:
            expected = matching(name, rf"(^|\.){re.escape(block)}\.")
            if expected:
                assert ratios(PatternGradient(model=model(name), layers={block: 0.5})).keys() == expected
