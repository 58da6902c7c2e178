"""Files of every format: what belongs to which module, and the scale, rank and shape of each."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daremerge_core import MemoryModel
from daremerge_core.errors import ModelFileError
from daremerge_lora.formats import FORMATS, WRITABLE, LoraFile, open_lora, tensor_name
from daremerge_lora.formats.slots import split
from daremerge_lora.modules import SLOTS

from .files import headers, numbers
from .oracles import comfy_module

KOHYA = "lora_unet_down_blocks_0_attentions_0_proj_in"
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"

# Format, the module's name, the spelling of up and of down.
PLAIN = [
    ("kohya", KOHYA, ".lora_up.weight", ".lora_down.weight"),
    ("kohya", "lora_te_text_model_encoder_layers_0_mlp_fc1", ".lora_up.weight", ".lora_down.weight"),
    ("kohya", "lora_te2_text_model_encoder_layers_31_mlp_fc1", ".lora_up.weight", ".lora_down.weight"),
    ("kohya", "lora_te3_encoder_block_0_layer_0_SelfAttention_q", ".lora_up.weight", ".lora_down.weight"),
    ("kohya", "lora_transformer_transformer_blocks_0_attn_to_q", ".lora_up.weight", ".lora_down.weight"),
    ("kohya", "lycoris_transformer_blocks_0_attn_to_q", ".lora_up.weight", ".lora_down.weight"),
    ("diffusers", f"unet.{ATTENTION}.to_q", ".lora_B.weight", ".lora_A.weight"),
    ("diffusers", f"unet.{ATTENTION}.to_q", ".lora_B.default.weight", ".lora_A.default.weight"),
    ("diffusers", "transformer.transformer_blocks.0.attn.to_q", ".lora_B.weight", ".lora_A.weight"),
    ("diffusers", f"text_encoder.{TEXT}", ".lora_B.weight", ".lora_A.weight"),
    ("diffusers", f"text_encoder_2.{TEXT}", ".lora_B.weight", ".lora_A.weight"),
    ("diffusers-old", f"unet.{ATTENTION}.processor.to_q", "_lora.up.weight", "_lora.down.weight"),
    ("diffusers-old", f"{ATTENTION}.processor.to_out", "_lora.up.weight", "_lora.down.weight"),
    ("diffusers-old", f"unet.{ATTENTION}.to_q", ".lora.up.weight", ".lora.down.weight"),
    ("diffusers-old", f"text_encoder.{TEXT}", ".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    ("peft", f"base_model.model.{ATTENTION}.to_q", ".lora_B.weight", ".lora_A.weight"),
    ("peft", f"base_model.model.{ATTENTION}.to_q", ".lora_B.default.weight", ".lora_A.default.weight"),
    ("peft", "transformer_blocks.0.attn.to_q", ".lora_B.weight", ".lora_A.weight"),
    ("comfy", "diffusion_model.input_blocks.1.1.proj_in", ".lora_up.weight", ".lora_down.weight"),
    ("comfy", "diffusion_model.double_blocks.0.img_attn.qkv", ".lora_B.weight", ".lora_A.weight"),
    ("comfy", f"text_encoders.clip_l.transformer.{TEXT}", ".lora_up.weight", ".lora_down.weight"),
    ("other", "blocks.0.q", ".lora_up.weight", ".lora_down.weight"),
]


@pytest.mark.parametrize(("format", "name", "up", "down"), PLAIN)
def test_plain_lora(format: str, name: str, up: str, down: str) -> None:
    lora = open_lora(numbers({name + up: (6, 2), name + down: (2, 5), f"{name}.alpha": ()}, alpha=3.0))
    assert lora.format == format
    assert format in FORMATS
    assert list(lora.modules) == [name]
    module = lora.modules[name]
    assert (module.family, module.is_dora) == ("lora", False)
    assert dict(module.tensors) == {"up": name + up, "down": name + down, "alpha": f"{name}.alpha"}
    assert (lora.shape(module), lora.rank(module), lora.scale(module)) == ((6, 5), 2, 1.5)
    assert lora.unknown == ()


FAMILIES: dict[str, tuple[str, dict[str, tuple[int, ...]], tuple[int, ...], int | None]] = {
    "linear": ("lora", {"lora_up.weight": (6, 2), "lora_down.weight": (2, 5)}, (6, 5), 2),
    "conv": ("lora", {"lora_up.weight": (6, 2, 1, 1), "lora_down.weight": (2, 5, 3, 3)}, (6, 5, 3, 3), 2),
    "conv, up a matrix": ("lora", {"lora_up.weight": (6, 2), "lora_down.weight": (2, 5, 3, 3)}, (6, 5, 3, 3), 2),
    "conv, Tucker": (
        "lora",
        {"lora_up.weight": (6, 2, 1, 1), "lora_down.weight": (2, 5, 1, 1), "lora_mid.weight": (2, 2, 3, 3)},
        (6, 5, 3, 3),
        2,
    ),
    "DoRA": ("lora", {"lora_up.weight": (6, 2), "lora_down.weight": (2, 5), "dora_scale": (6, 1)}, (6, 5), 2),
    "LoHa": (
        "loha",
        {"hada_w1_a": (6, 3), "hada_w1_b": (3, 5), "hada_w2_a": (6, 3), "hada_w2_b": (3, 5)},
        (6, 5),
        3,
    ),
    "LoHa, Tucker": (
        "loha",
        {
            "hada_w1_a": (3, 6),
            "hada_w1_b": (3, 5),
            "hada_w2_a": (3, 6),
            "hada_w2_b": (3, 5),
            "hada_t1": (3, 3, 3, 3),
            "hada_t2": (3, 3, 3, 3),
        },
        (6, 5, 3, 3),
        3,
    ),
    "LoKr": ("lokr", {"lokr_w1": (2, 3), "lokr_w2": (5, 7)}, (10, 21), None),
    "LoKr, second factored": ("lokr", {"lokr_w1": (2, 3), "lokr_w2_a": (5, 4), "lokr_w2_b": (4, 7)}, (10, 21), 4),
    "LoKr, first factored": ("lokr", {"lokr_w1_a": (2, 4), "lokr_w1_b": (4, 3), "lokr_w2": (5, 7)}, (10, 21), 4),
    "LoKr, Tucker": (
        "lokr",
        {"lokr_w1": (2, 3), "lokr_w2_a": (4, 5), "lokr_w2_b": (4, 7), "lokr_t2": (4, 4, 3, 3)},
        (10, 21, 3, 3),
        4,
    ),
    "LoKr, conv": ("lokr", {"lokr_w1": (2, 3), "lokr_w2": (5, 7, 3, 3)}, (10, 21, 3, 3), None),
    "full": ("full", {"diff": (6, 5), "diff_b": (6,)}, (6, 5), None),
    "bias alone": ("full", {"diff_b": (6,)}, (), None),
    "norm": ("full", {"w_norm": (6,), "b_norm": (6,)}, (6,), None),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str) -> None:
    family, tensors, shape, rank = FAMILIES[name]
    lora = open_lora(numbers({f"{KOHYA}.{slot}": size for slot, size in tensors.items()} | {f"{KOHYA}.alpha": (1,)}))
    module = lora.modules[KOHYA]
    assert module.family == family
    assert set(module.tensors) <= SLOTS[module.family] | {"alpha", "dora_scale", "diff_b"}
    assert (lora.shape(module), lora.rank(module)) == (shape, rank)
    assert lora.scale(module) == (4.0 / rank if rank else 1.0)
    assert module.is_dora == ("dora_scale" in tensors)
    assert lora.unknown == ()


# The others are a bias, and what ComfyUI 0.3.75 fails at: it logs an error and leaves the weight as it is.
@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"bias alone", "LoKr, Tucker"}))
def test_comfyui_computes_a_change_of_that_shape_and_scale(name: str) -> None:
    """Its result is linear in alpha, by the factor that the scale says; a wrong shape would not reshape."""
    _, tensors, shape, _ = FAMILIES[name]
    tensors = {slot: size for slot, size in tensors.items() if slot != "dora_scale"}
    computed = {}
    for alpha in (1.0, 4.0):
        model = numbers({f"x.{slot}": size for slot, size in tensors.items()} | {"x.alpha": ()}, alpha=alpha)
        state = {key: model.read(key) for key in model.keys()}
        patches = comfy_module("comfy.lora").load_lora(state, {"x": "x.weight"}, log_missing=False)
        patch = [(1.0, patches["x.weight"], 1.0, None, None)]
        computed[alpha] = comfy_module("comfy.lora").calculate_weight(patch, torch.zeros(shape), "x.weight")
        lora = open_lora(model)
        computed[alpha] /= lora.scale(lora.modules["x"])
    assert computed[4.0].abs().sum() > 0
    torch.testing.assert_close(computed[1.0], computed[4.0])


def test_peft_spellings_of_dora() -> None:
    for suffix in ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"):
        name = "unet.conv_in"
        shapes = {f"{name}.lora_A.weight": (2, 4), f"{name}.lora_B.weight": (6, 2), f"{name}.{suffix}": (6,)}
        module = open_lora(headers(shapes)).modules[name]
        assert module.tensors["dora_scale"] == f"{name}.{suffix}"


class TestUnknown:
    def test_what_is_not_understood_is_listed_in_the_files_order(self) -> None:
        shapes = {
            "a.a1.weight": (2, 2),  # GLoRA
            f"{KOHYA}.lora_up.weight": (6, 2),
            "b.oft_blocks": (4, 2, 2),
            f"{KOHYA}.lora_down.weight": (2, 5),
            "c.lora_up.weight": (6, 2),  # no down
            "d.alpha": (),  # alpha of nothing
            "e.hada_w1_a": (6, 2),
            "f.reshape_weight": (2,),
            ".lora_up.weight": (6, 2),  # of a module without a name
        }
        lora = open_lora(headers(shapes))
        assert list(lora.modules) == [KOHYA]
        assert lora.unknown == tuple(key for key in shapes if not key.startswith(KOHYA))

    def test_a_second_adapter_of_a_layer(self) -> None:
        shapes = {f"unet.x.lora_{one}.{name}.weight": (2, 2) for name in ("first", "second") for one in "AB"}
        lora = open_lora(headers(shapes))
        assert list(lora.modules) == ["unet.x"]
        assert lora.unknown == ("unet.x.lora_A.second.weight", "unet.x.lora_B.second.weight")

    def test_a_second_family_of_a_layer(self) -> None:
        lora = open_lora(headers({"x.lora_up.weight": (2, 2), "x.lora_down.weight": (2, 2), "x.diff": (2, 2)}))
        assert (lora.modules["x"].family, lora.unknown) == ("lora", ("x.diff",))

    def test_a_file_without_a_module(self) -> None:
        lora = open_lora(headers({"first_stage_model.conv.weight": (2, 2)}))
        assert (len(lora.modules), lora.format, lora.unknown) == (0, "other", ("first_stage_model.conv.weight",))

    @given(
        names=st.lists(
            st.sampled_from(
                [f"{module}{suffix}" for module in ("a", "unet.b", KOHYA) for _, _, *both in PLAIN for suffix in both]
                + [f"{module}.{slot}" for module in ("a", KOHYA) for _, one, *_ in FAMILIES.values() for slot in one]
                + ["a.alpha", "", ".", "alpha", ".lora_up.weight", "_lora.up.weight", "a.b.oft_blocks"]
            ),
            unique=True,
        )
    )
    def test_every_tensor_is_in_one_module_or_unknown(self, names: list[str]) -> None:
        lora = open_lora(headers(dict.fromkeys(names, (2, 2))))
        placed = [key for module in lora.modules.values() for key in module.tensors.values()]
        assert sorted([*placed, *lora.unknown]) == sorted(names)


class TestScale:
    def lora(self, metadata: dict[str, Any] | None = None, *, field: str = "lora_adapter_metadata") -> LoraFile:
        text = {} if metadata is None else {field: json.dumps(metadata)}
        names = [f"unet.{ATTENTION}.to_q", f"text_encoder.{TEXT}"]
        shapes = {f"{name}.lora_{one}.weight": (4, 4) for name in names for one in "AB"}
        return open_lora(numbers(shapes, text))

    def scales(self, lora: LoraFile) -> list[float]:
        return [lora.scale(module) for module in lora.modules.values()]

    def test_one_where_nothing_says_otherwise(self) -> None:
        assert self.scales(self.lora()) == [1.0, 1.0]

    def test_alpha_of_the_configuration_by_component(self) -> None:
        assert self.scales(self.lora({"unet.lora_alpha": 8, "text_encoder.lora_alpha": 2, "unet.r": 4})) == [2.0, 0.5]

    def test_a_component_without_a_configuration(self) -> None:
        assert self.scales(self.lora({"unet.lora_alpha": 8})) == [2.0, 1.0]

    @pytest.mark.parametrize("pattern", ["to_q", f"{ATTENTION}.to_q", f"^{ATTENTION}.to_q", "attn1\\.to_q$"])
    def test_alpha_of_a_pattern(self, pattern: str) -> None:
        config = {"unet.lora_alpha": 8, "unet.alpha_pattern": {"o_q": 99, pattern: 4, "to_k": 99}}
        assert self.scales(self.lora(config)) == [1.0, 1.0]

    def test_rslora(self) -> None:
        assert self.scales(self.lora({"unet.lora_alpha": 8, "unet.use_rslora": True})) == [4.0, 1.0]

    def test_pefts_own_configuration(self) -> None:
        assert self.scales(self.lora({"lora_alpha": 2, "r": 4}, field="adapter_config")) == [0.5, 0.5]

    def test_an_alpha_tensor_comes_first(self) -> None:
        model = numbers(
            {"unet.x.lora_A.weight": (4, 4), "unet.x.lora_B.weight": (4, 4), "unet.x.alpha": (1,)},
            {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 32})},
        )
        lora = open_lora(model)
        assert lora.scale(lora.modules["unet.x"]) == 1.0

    def test_alpha_is_read_only_when_asked_for(self) -> None:
        lora = open_lora(headers({"x.lora_up.weight": (4, 4), "x.lora_down.weight": (4, 4), "x.alpha": ()}))
        assert lora.rank(lora.modules["x"]) == 4
        with pytest.raises(AssertionError, match="only headers"):
            lora.scale(lora.modules["x"])

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            "[" * 100_000,
            '{"unet.lora_alpha": "8"}',
            '{"unet.lora_alpha": true}',
            '{"unet.lora_alpha": NaN}',
            '{"unet.lora_alpha": 1e999}',
            '{"unet.alpha_pattern": [1]}',
            '{"unet.alpha_pattern": {"to_q": null}}',
            '{"unet.alpha_pattern": {"(a+)+b": 1}}',
            '{"unet.use_rslora": "yes"}',
        ],
    )
    def test_a_configuration_that_says_nonsense_is_an_error(self, text: str) -> None:
        model = numbers({f"unet.x.lora_{one}.weight": (4, 4) for one in "AB"}, {"lora_adapter_metadata": text})
        lora = open_lora(model, name="my.safetensors")
        with pytest.raises(ModelFileError, match=r"my\.safetensors: metadata 'lora_adapter_metadata'"):
            lora.scale(lora.modules["unet.x"])

    @pytest.mark.parametrize("alpha", [torch.tensor(math.nan), torch.tensor(math.inf), torch.ones(2), torch.ones(0)])
    def test_an_alpha_that_is_no_number_is_an_error(self, alpha: torch.Tensor) -> None:
        ones = torch.ones(2, 2)
        lora = open_lora(MemoryModel({"x.lora_up.weight": ones, "x.lora_down.weight": ones, "x.alpha": alpha}))
        with pytest.raises(ModelFileError, match=r"'x\.alpha' must be one finite number"):
            lora.scale(lora.modules["x"])


@pytest.mark.parametrize(
    "tensors",
    [
        {"lora_up.weight": (6, 2), "lora_down.weight": (3, 5)},
        {"lora_up.weight": (6,), "lora_down.weight": (2, 5)},
        {"lora_up.weight": (6, 2), "lora_down.weight": ()},
        {"lora_up.weight": (6, 2, 3, 3), "lora_down.weight": (2, 5, 1, 1)},
        {"lora_up.weight": (6, 2, 1, 1), "lora_down.weight": (2, 5, 1, 1), "lora_mid.weight": (3, 2, 3, 3)},
        {"hada_w1_a": (6, 3), "hada_w1_b": (3, 5), "hada_w2_a": (6, 3), "hada_w2_b": (3, 4)},
        {"hada_w1_a": (6, 3), "hada_w1_b": (2, 5), "hada_w2_a": (6, 3), "hada_w2_b": (3, 5)},
        {"lokr_w1": (2,), "lokr_w2": (5, 7)},
        {"lokr_w1": (2, 3), "lokr_w2_a": (4, 5), "lokr_w2_b": (4, 7), "lokr_t2": (2, 4, 3, 3)},
    ],
)
def test_tensors_that_do_not_fit_together(tensors: dict[str, tuple[int, ...]]) -> None:
    lora = open_lora(headers({f"x.{slot}": shape for slot, shape in tensors.items()}), name="broken.safetensors")
    with pytest.raises(ModelFileError, match=r"broken\.safetensors: module 'x'"):
        lora.shape(lora.modules["x"])


@given(
    format=st.sampled_from(WRITABLE),
    module=st.lists(st.sampled_from(["unet", "lora_unet_x", "0", "to_q", "default", "lora"]), min_size=1).map(".".join),
    family=st.sampled_from(sorted(SLOTS)),
    data=st.data(),
)
def test_a_written_name_is_read_as_it_was_meant(format: Any, module: str, family: Any, data: st.DataObject) -> None:
    slot = data.draw(st.sampled_from(sorted(SLOTS[family] | {"alpha", "dora_scale", "diff_b"})))
    try:
        key = tensor_name(format, module, slot, family)
    except ValueError:
        assert format == "diffusers"
        return
    spelling = split(key)
    assert spelling is not None
    assert (spelling.module, spelling.slot) == (module, slot)
    assert spelling.family in (None, family)
