"""Merge block weighted: names, lists, presets and dialects, against tables of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daremerge_core import DaremergeError, Layout, MemoryModel, view
from daremerge_core.layout import detect
from daremerge_core.testing import tiny_model
from daremerge_core.testing.layouts import NAMES, load
from daremerge_gradients.block_names import summary
from daremerge_gradients.mbw import MbwGradient
from daremerge_gradients.presets import PRESETS, canonical_preset

UNET = "model.diffusion_model."
DIALECTS = ("supermerger", "sd-mecha")


@cache
def model(name: str) -> MemoryModel:
    zero = torch.zeros(())
    if name == "llm":
        keys = [f"model.layers.{i}.{w}.weight" for i in range(12) for w in ("self_attn.o_proj", "mlp.up_proj")]
        keys += ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
        return MemoryModel({key: zero.expand(2, 2) for key in keys}, {})
    return MemoryModel({key: zero.expand(meta.shape) for key, meta in load(name).items()}, {})


@cache
def layout(name: str) -> Layout:
    return detect({key: model(name).meta(key) for key in model(name).keys()})


def ratios(name: str, **options: Any) -> Mapping[str, float]:
    ratio_at = MbwGradient(model=model(name), **options).for_layout(layout(name))
    return {place.key: ratio for place in layout(name).places() if (ratio := ratio_at(place)) is not None}


def see(name: str, **options: Any) -> Any:
    """The gradient as a step of a recipe has it, with its errors."""
    return view(MbwGradient(model=model(name), **options))


def matching(name: str, pattern: str) -> set[str]:
    return {key for key in model(name).keys() if re.search(pattern, key)}


def spelled_block(key: str, levels: int, dialect: str) -> str | None:
    """Which of IN00 … OUT11 and BASE a tensor of a Stable Diffusion checkpoint belongs to."""
    if not key.startswith(UNET):
        return None if dialect == "sd-mecha" and key.startswith("first_stage_model.") else "BASE"
    kind, _, rest = key.removeprefix(UNET).partition(".")
    if kind in ("time_embed", "label_emb"):
        return "IN00" if dialect == "supermerger" else "BASE"
    if kind == "out":
        return f"OUT{levels - 1:02}"
    if kind == "middle_block":
        return "M00"
    return f"{ {'input_blocks': 'IN', 'output_blocks': 'OUT'}[kind] }{int(rest.split('.')[0]):02}"


def spelled_names(levels: int) -> list[str]:
    return [f"IN{i:02}" for i in range(levels)] + ["M00"] + [f"OUT{i:02}" for i in range(levels)]


LEVELS = {"sd15": 12, "sdxl": 9}


class TestWeights:
    @pytest.mark.parametrize("dialect", DIALECTS)
    @pytest.mark.parametrize("name", LEVELS)
    @pytest.mark.parametrize("with_base", [False, True])
    def test_a_list_gives_each_tensor_its_blocks_value(self, name: str, dialect: str, with_base: bool) -> None:
        names = ["BASE"] * with_base + spelled_names(LEVELS[name])
        values = {block: (index + 1) / 32 for index, block in enumerate(names)}
        found = ratios(name, weights=", ".join(map(str, values.values())), dialect=dialect)
        blocks = {key: spelled_block(key, LEVELS[name], dialect) for key in model(name).keys()}
        assert found == {key: values[block] for key, block in blocks.items() if block in values}

    @pytest.mark.parametrize("text", ["0.5 0.25\n1", "0.5,0.25,1", " 0.5 , 0.25;1, ", "5e-1\t.25 1."])
    def test_commas_blanks_and_lines(self, text: str) -> None:
        zero = torch.zeros(2, 2)
        small = MemoryModel({f"blocks.{i}.weight": zero for i in range(3)}, {})
        value: Any = view(MbwGradient(model=small, weights=text))
        assert [value.ratio(key) for key in value.keys()] == [0.5, 0.25, 1.0]

    def test_flux_goes_through_its_blocks_in_forward_order(self) -> None:
        blocks = ["img_in", "txt_in", *(f"double_blocks.{i}" for i in range(19))]
        blocks += [*(f"single_blocks.{i}" for i in range(38)), "final_layer"]
        found = ratios("flux-dev", weights=" ".join(str(i / 64) for i in range(len(blocks))))
        for index, block in enumerate(blocks):
            keys = matching("flux-dev", rf"^{re.escape(UNET + block)}\.")
            assert {found.pop(key) for key in keys} == {index / 64}
        assert not found

    def test_of_other_architectures_base_is_all_beside_the_blocks(self) -> None:
        found = ratios("flux-dev", weights=" ".join(["0.75"] + ["0.25"] * 60))
        beside = matching("flux-dev", rf"^{UNET}(time_in|vector_in|guidance_in)\.|^vae\.|^text_encoders\.")
        assert {key for key, ratio in found.items() if ratio == 0.75} == beside
        assert found.keys() == set(model("flux-dev").keys())

    def test_a_decoder(self) -> None:
        found = ratios("llm", weights=",".join(str(i / 16) for i in range(15)))
        assert found["model.embed_tokens.weight"] == 0.0
        assert found["model.layers.1.mlp.up_proj.weight"] == 2 / 16
        assert found["model.layers.11.mlp.up_proj.weight"] == 12 / 16
        assert found["lm_head.weight"] == 14 / 16

    @pytest.mark.parametrize("text", ["", " , ", "0.5,x", "0.5,nan", "0.5 inf"])
    def test_what_is_no_list(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"weights is empty|value 2 of weights"):
            MbwGradient(model=model("sd15"), weights=text)

    def test_a_wrong_count_says_how_many_and_for_what(self) -> None:
        with pytest.raises(DaremergeError, match=r"3 values.* 25 blocks: IN00–11, M00, OUT00–11 \(one more, for BASE"):
            see("sd15", weights="1,2,3")
        with pytest.raises(DaremergeError, match=r"28 blocks: x_embedder, .*, joint_blocks\.0–23, final_layer"):
            see("sd3", weights="1,2,3")

    @pytest.mark.parametrize("base", [(), (0.5,)])
    def test_a_list_for_sd15_is_converted_for_sdxl_as_supermerger_does(self, base: tuple[float, ...]) -> None:
        w = [i / 100 for i in range(25)]
        with pytest.raises(DaremergeError) as error:
            see("sdxl", weights=",".join(map(str, [*base, *w])))
        text = str(error.value).rpartition("the list is ")[2]
        assert [float(one) for one in text.split(",")] == [*base, *w[:9], *w[12:22]]
        ratios("sdxl", weights=text)

    @pytest.mark.parametrize(("share_of_b", "keep_a"), [(False, 1.0), (True, 0.0)])
    def test_a_list_for_sdxl_keeps_a_where_only_sd15_has_blocks(self, share_of_b: bool, keep_a: float) -> None:
        w = [i / 100 for i in range(20)]
        with pytest.raises(DaremergeError) as error:
            see("sd15", weights=",".join(map(str, w)), share_of_b=share_of_b)
        text = str(error.value).rpartition("the list is ")[2]
        assert [float(one) for one in text.split(",")] == [*w[:10], *[keep_a] * 3, *w[10:], *[keep_a] * 3]
        ratios("sd15", weights=text)


class TestBlocks:
    @pytest.mark.parametrize("dialect", DIALECTS)
    @pytest.mark.parametrize("name", LEVELS)
    def test_each_spelled_name_covers_its_tensors(self, name: str, dialect: str) -> None:
        for block in [*spelled_names(LEVELS[name]), "BASE"]:
            expected = {key for key in model(name).keys() if spelled_block(key, LEVELS[name], dialect) == block}
            assert ratios(name, blocks={block.lower(): 0.25}, dialect=dialect) == dict.fromkeys(expected, 0.25)

    @pytest.mark.parametrize("name", NAMES)
    def test_each_name_of_the_layout_covers_its_tensors(self, name: str) -> None:
        blocks = {"sd15": "input_blocks.1", "sdxl": "output_blocks.1", "sd3": "joint_blocks.1"}
        block = blocks.get(name, "single_blocks.1")
        assert ratios(name, blocks={block: 0.0}).keys() == matching(name, rf"^{re.escape(UNET + block)}\.")
        found = ratios(name, blocks={"clip_l.layers.1": 0.0})
        assert found.keys() == matching(name, r"(cond_stage_model|embedders\.0|clip_l)\..*\.layers\.1\.")

    @pytest.mark.parametrize(
        ("text", "pattern"),
        [
            ("input_blocks.{0-3}", r"input_blocks\.[0-3]\."),
            ("middle_block", r"middle_block\."),
            ("time_embed", r"time_embed\."),
            ("out", r"out\."),
            ("input_blocks.*, !input_blocks.1", r"input_blocks\.(0|[2-9]|1[01])\."),
            ("IN{01-03}", r"input_blocks\.[1-3]\."),
            ("IN01, m00, OUT{01,03}", r"(input_blocks\.1|middle_block\.\d|output_blocks\.[13])\."),
            ("IN*, !IN00", r"input_blocks\.([1-9]|1[01])\."),
            ("OUT1?", r"(output_blocks\.1[01]|out)\."),
        ],
    )
    def test_selectors_over_names(self, text: str, pattern: str) -> None:
        assert ratios("sd15", blocks={text: 0.5}).keys() == matching("sd15", f"^{re.escape(UNET)}{pattern}")

    def test_the_tiny_checkpoint_of_no_known_architecture(self) -> None:
        value: Any = view(MbwGradient(model=tiny_model(), blocks={"input_blocks.1": 0.0, "BASE": 0.25}, rest=0.5))
        for key in value.keys():
            expected = 0.0 if "input_blocks.1." in key else 0.5 if key.startswith(UNET) else 0.25
            assert value.ratio(key) == expected

    @pytest.mark.parametrize(
        ("name", "text", "match"),
        [
            (
                "sd15",
                "input_blocks.12",
                r"Did you mean input_blocks.*Its blocks are .*input_blocks\.0–11.*IN00–11, M00",
            ),
            ("sd15", "IN12", "Did you mean IN1"),
            ("sd15", "IN1", "Did you mean IN.*IN01"),
            ("sdxl", "IN09", r"Did you mean IN0.*IN00–08, M00, OUT00–08, BASE"),
            ("flux-dev", "IN00", r"Its blocks are time_in.*double_blocks\.0–18, single_blocks\.0–37.*also BASE"),
            ("flux-dev", "double_block.1", r"Did you mean double_blocks\.1"),
            ("sd15", "IN00, time_embed", "make two entries"),
            ("sd15", "input_blocks.{3-1}", "runs backwards"),
            ("sd15", "", "empty"),
        ],
    )
    def test_an_unknown_block_is_told_of_the_known(self, name: str, text: str, match: str) -> None:
        with pytest.raises(DaremergeError, match=match):
            see(name, blocks={text: 0.5})


class TestOrder:
    def test_later_ones_win(self) -> None:
        found = ratios(
            "sd15",
            rest=0.125,
            preset="ALL_B",
            weights=",".join(["0.5"] * 25),
            blocks={"input_blocks": 0.25, "IN01": 0.75, "time_embed": 1.0},
            dialect="sd-mecha",
        )
        for key, ratio in found.items():
            block = spelled_block(key, 12, "sd-mecha")
            if ".time_embed." in key:
                expected = 1.0
            elif block is None:
                expected = 0.125
            elif block == "BASE":
                expected = 0.0
            elif block == "IN01":
                expected = 0.75
            else:
                expected = 0.25 if block.startswith("IN") else 0.5
            assert ratio == expected, key

    def test_a_step_gives_what_its_family_says(self) -> None:
        options = {"preset": "GRAD_A", "blocks": {"M00": 0.25}, "dialect": "sd-mecha"}
        value, found = see("sd15", **options), ratios("sd15", **options)
        assert {key: value.ratio(key) for key in value.keys()} == {key: found.get(key) for key in model("sd15").keys()}

    def test_the_order_of_blocks_counts_and_survives_json(self) -> None:
        component = MbwGradient(model=model("sd15"), blocks={"out": 0.0, "IN00": 0.5, "*": 1.0})
        again = MbwGradient(model=model("sd15"), **component.options())
        assert list(again.blocks) == ["out", "IN00", "*"]
        value: Any = view(again)
        assert {value.ratio(key) for key in value.keys()} == {1.0}

    def test_without_a_rest_the_others_are_left_alone(self) -> None:
        found = ratios("sd15", weights=",".join(["0.5"] * 25))
        assert found.keys() == matching("sd15", f"^{re.escape(UNET)}")

    @given(st.lists(st.floats(0, 1), min_size=26, max_size=26))
    @settings(max_examples=25)
    def test_shares_of_b_are_1_minus_the_ratio(self, shares: list[float]) -> None:
        tiny = MemoryModel({f"blocks.{i}.weight": torch.zeros(2, 2) for i in range(24)}, {})
        weights, (block, rest) = shares[:24], shares[24:]
        options = {"weights": " ".join(map(repr, weights)), "blocks": {"blocks.3": block}, "rest": rest}
        counted: Any = view(MbwGradient(model=tiny, share_of_b=True, **options))
        plain: Any = view(MbwGradient(model=tiny, **options))
        for key in counted.keys():
            assert counted.ratio(key) == 1.0 - plain.ratio(key)

    def test_a_preset_is_the_same_however_numbers_are_counted(self) -> None:
        assert ratios("sd15", preset="COSINE", share_of_b=True) == ratios("sd15", preset="COSINE")

    def test_nothing_given(self) -> None:
        with pytest.raises(ValueError, match="at least one of blocks, weights, preset, rest"):
            MbwGradient(model=model("sd15"))


KNOWN = {
    # Shares of B at some of the 25 blocks, as supermerger's list of presets has them.
    "GRAD_V": {0: 1, 1: 0.9166666667, 11: 0.0833333333, 12: 0, 13: 0.0833333333, 24: 1},
    "GRAD_A": {0: 0, 3: 0.25, 12: 1, 23: 0.0833333333},
    "FLAT_25": {0: 0.25, 24: 0.25},
    "FLAT_75": {0: 0.75, 12: 0.75},
    "WRAP08": {3: 1, 4: 0, 20: 0, 21: 1},
    "WRAP12": {5: 1, 6: 0, 18: 0, 19: 1},
    "WRAP14": {6: 1, 7: 0, 17: 0, 18: 1},
    "WRAP16": {7: 1, 8: 0, 16: 0, 17: 1},
    "MID12_50": {4: 0, 5: 0.5, 18: 0.5, 19: 0},
    "OUT07": {17: 0, 18: 1, 24: 1},
    "OUT12": {12: 0, 13: 1},
    "OUT12_5": {11: 0, 12: 0.5, 13: 1},
    "RING08_SOFT": {4: 0, 5: 0.5, 6: 1, 8: 1, 9: 0.5, 10: 0, 14: 0, 15: 0.5, 16: 1, 18: 1, 19: 0.5, 20: 0},
    "RING08_5": {5: 0, 6: 1, 9: 1, 10: 0, 14: 0, 15: 1, 18: 1, 19: 0},
    "RING10_5": {4: 0, 5: 1, 9: 1, 10: 0, 14: 0, 15: 1, 19: 1, 20: 0},
    "RING10_3": {5: 0, 6: 1, 10: 1, 11: 0, 13: 0, 14: 1, 18: 1, 19: 0},
    "SMOOTHSTEP": {1: 0.00506365740740741, 6: 0.15625, 12: 0.5, 23: 0.994936342592593},
    "REVERSE-SMOOTHSTEP": {0: 1, 2: 0.980324074074074, 24: 0},
    "SMOOTHSTEP*2": {1: 0.0101273148148148, 12: 1, 13: 0.875289351851852, 24: 0},
    "R_SMOOTHSTEP*2": {1: 0.989872685185185, 12: 0},
    "SMOOTHSTEP*3": {9: 0.94921875, 10: 0.871527777777778, 15: 0.0507812500000004, 24: 1},
    "R_SMOOTHSTEP*3": {9: 0.05078125, 24: 0},
    "SMOOTHSTEP*4": {8: 0.962962962962963, 12: 0, 16: 0.962962962962963},
    "R_SMOOTHSTEP*4": {8: 0.0370370370370372, 12: 1},
    "SMOOTHSTEP/2": {1: 0.0196759259259259, 12: 1, 18: 0.5},
    "R_SMOOTHSTEP/2": {12: 0, 18: 0.5},
    "SMOOTHSTEP/3": {4: 0.5, 8: 1, 16: 0, 24: 1},
    "R_SMOOTHSTEP/3": {8: 0, 16: 1},
    "SMOOTHSTEP/4": {2: 0.259259259259259, 6: 1, 12: 0, 18: 1},
    "R_SMOOTHSTEP/4": {6: 0, 12: 1},
    "COSINE": {0: 1, 1: 0.995722430686905, 8: 0.75, 12: 0.5, 24: 0},
    "REVERSE_COSINE": {0: 0, 9: 0.308658283817455, 16: 0.75},
    "TRUE_CUBIC_HERMITE": {0: 0, 1: 0.199031876929012, 12: 0.520833333333333, 24: 1},
    "TRUE_REVERSE_CUBIC_HERMITE": {0: 1, 1: 0.800968123070988, 24: 0},
    "FAKE_CUBIC_HERMITE": {1: 0.157576195987654, 12: 0.5, 16: 0.432098765432099, 24: 1},
    "FAKE_REVERSE_CUBIC_HERMITE": {1: 0.842423804012346, 24: 0},
    "ALL_A": {0: 0, 12: 0},
    "ALL_B": {0: 1, 12: 1},
}


class TestPresets:
    def test_every_preset_is_known_here(self) -> None:
        assert {canonical_preset(name) for name in KNOWN} == set(PRESETS)

    @pytest.mark.parametrize("name", KNOWN)
    def test_on_sd15_a_preset_has_the_values_it_is_known_for(self, name: str) -> None:
        found = ratios("sd15", preset=name)
        blocks = {block: index for index, block in enumerate(spelled_names(12))}
        for key, ratio in found.items():
            block = spelled_block(key, 12, "supermerger")
            if block == "BASE":
                assert ratio == (0.0 if name == "ALL_B" else 1.0)
            elif block and blocks[block] in KNOWN[name]:
                assert ratio == pytest.approx(1.0 - KNOWN[name][blocks[block]], abs=1e-9)

    @given(st.sampled_from(sorted(PRESETS)), st.floats(0, 1))
    def test_a_share_is_from_0_to_1_anywhere(self, name: str, position: float) -> None:
        assert 0.0 <= PRESETS[name](position) <= 1.0

    @pytest.mark.parametrize("name", ["sdxl", "flux-dev", "sd3", "llm"])
    def test_other_numbers_of_blocks_take_the_curve_at_their_own_positions(self, name: str) -> None:
        for preset in PRESETS:
            assert set(ratios(name, preset=preset)) == set(model(name).keys())
        first, last = {
            "sdxl": ("input_blocks.0.", "out.2."),
            "flux-dev": ("img_in.", "final_layer."),
            "sd3": ("x_embedder.", "final_layer."),
            "llm": ("embed_tokens.", "lm_head."),
        }[name]
        cosine = ratios(name, preset="COSINE")
        assert {cosine[key] for key in model(name).keys() if f".{first}" in key} == {0.0}
        assert {cosine[key] for key in model(name).keys() if f".{last}" in f".{key}"} == {1.0}

    def test_sdxl_keeps_the_middle_in_the_middle(self) -> None:
        found = ratios("sdxl", preset="GRAD_V")
        assert {found[key] for key in matching("sdxl", r"middle_block\.")} == {1.0}
        rings = ratios("sdxl", preset="WRAP08")
        taken = {spelled_block(key, 9, "supermerger") for key, ratio in rings.items() if ratio == 0.0}
        assert taken == {"IN00", "IN01", "IN02", "OUT06", "OUT07", "OUT08"}

    @pytest.mark.parametrize(
        ("spelling", "name"),
        [
            ("grad_v", "GRAD_V"),
            (" Reverse-Cosine ", "REVERSE_COSINE"),
            ("REVERSE-SMOOTHSTEP", "REVERSE_SMOOTHSTEP"),
            ("2SMOOTHSTEP", "SMOOTHSTEP*2"),
            ("4R_SMOOTHSTEP", "R_SMOOTHSTEP*4"),
            ("HALF_SMOOTHSTEP", "SMOOTHSTEP/2"),
            ("one_third_r_smoothstep", "R_SMOOTHSTEP/3"),
            ("ONE_FOURTH_SMOOTHSTEP", "SMOOTHSTEP/4"),
        ],
    )
    def test_spellings(self, spelling: str, name: str) -> None:
        assert MbwGradient(model=model("sd15"), preset=spelling).preset == name

    def test_an_unknown_preset_is_told_of_the_known(self) -> None:
        with pytest.raises(ValueError, match=r"no preset 'GRADV'. Did you mean GRAD_V.*WRAP08.*ALL_B"):
            MbwGradient(model=model("sd15"), preset="GRADV")

    @pytest.mark.parametrize("options", [{"preset": "GRAD_V"}, {"weights": "0.5,0.5"}])
    def test_without_a_known_order_blocks_have_to_be_named(self, options: dict[str, Any]) -> None:
        with pytest.raises(DaremergeError, match="name its blocks instead"):
            view(MbwGradient(model=tiny_model(), **options))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["IN08", "IN09", "IN10", "M00", "OUT00"], "IN08–10, M00, OUT00"),
        (["a.0", "a.1", "b.2", "b.4", "out", "out2"], "a.0–1, b.2, b.4, out, out2"),
        (["up.3", "up.2"], "up.3, up.2"),
        ([], ""),
    ],
)
def test_a_summary_joins_neighbours(names: list[str], text: str) -> None:
    assert summary(names) == text
