"""One format into another: the same changes of the same weights, by our account, ComfyUI's and PEFT's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core import MemoryModel, Span
from daremerge_core.dtypes import torch_dtype
from daremerge_core.errors import PlanError
from daremerge_core.testing.layouts import NAMES, HeaderModel
from daremerge_core.values import Model
from daremerge_lora.convert import converted, plan_conversion
from daremerge_lora.formats import WRITABLE, Writable, open_lora, tensor_name
from daremerge_lora.targets import match, module_names

from .files import checkpoint, headers, plain
from .oracles import comfy_module

H = 4
"""Width of the tiny models."""
S = 128
"""Of the tiny SD3: ComfyUI takes it to be 64 for each block."""

_BLOCK = {"attn.qkv": (3 * S, S), "attn.proj": (S, S), "mlp.fc1": (4 * S, S)}
_SIDES = ("0.x_block", "0.context_block", "1.x_block", "1.context_block")
TINY: Mapping[str, dict[str, tuple[int, ...]]] = {
    "flux": {
        "img_in": (H, 3),
        "double_blocks.0.img_attn.qkv": (3 * H, H),
        "double_blocks.0.txt_attn.qkv": (3 * H, H),
        "double_blocks.0.img_attn.proj": (H, H),
        "double_blocks.0.img_mod.lin": (6 * H, H),
        "single_blocks.0.linear1": (7 * H, H),
        "single_blocks.0.linear2": (H, 5 * H),
        "final_layer.adaLN_modulation.1": (2 * H, H),
    },
    "sd3": {
        "x_embedder.proj": (S, 3, 2, 2),
        "context_embedder": (S, 5),
        **{f"joint_blocks.{side}.{name}": shape for side in _SIDES for name, shape in _BLOCK.items()},
        "joint_blocks.0.context_block.adaLN_modulation.1": (6 * S, S),
        "joint_blocks.1.context_block.adaLN_modulation.1": (2 * S, S),
        "final_layer.adaLN_modulation.1": (2 * S, S),
    },
    "sdxl": {
        "input_blocks.0.0": (H, 3, 3, 3),
        "input_blocks.4.1.proj_in": (H, H),
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q": (H, H),
        "input_blocks.4.1.transformer_blocks.0.attn1.to_out.0": (H, H),
        "input_blocks.7.1.transformer_blocks.9.attn1.to_v": (H, H),
        "label_emb.0.0": (H, 5),
        "input_blocks.4.0.skip_connection": (H, 3, 1, 1),
    },
}


@cache
def native(architecture: str) -> HeaderModel:
    """A tiny denoiser with its authors' names."""
    return headers({f"diffusion_model.{name}.weight": shape for name, shape in TINY[architecture].items()}, "F32")


def small(shapes: Mapping[str, tuple[int, ...]], seed: int, alpha: float) -> dict[str, Tensor]:
    """Whole numbers, few and small: so that sums and products are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.full(shape, alpha)
        if key.endswith(".alpha")
        else torch.randint(-3, 4, shape, generator=generator).float()
        for key, shape in shapes.items()
    }


def some_lora(architecture: str, format: Writable, *, rank: int = 4, alpha: float = 2.0, seed: int = 0) -> MemoryModel:
    """A LoRA over every layer of a tiny denoiser, with the scale ``alpha / rank``."""
    model = native(architecture)
    modules = []
    for name, target in module_names(model, format):
        shape = list(model.meta(target.key).shape)
        shape[0] = target.rows[1] - target.rows[0] if target.rows else shape[0]
        modules.append((name, tuple(shape)))
    return MemoryModel(small(plain(format, modules, rank), seed, alpha))


def changes_of(lora: Model, model: HeaderModel) -> dict[str, Tensor]:
    """What a LoRA of plain factors adds to each tensor of a checkpoint."""
    file = open_lora(lora)
    assert not file.unknown
    matching = match(file, model)
    assert not matching.unmatched
    found = {key: torch.zeros(model.meta(key).shape, dtype=torch.float64) for key in model.keys()}
    for name, target in matching.targets.items():
        module = file.modules[name]
        up, down = (lora.read(module.tensors[slot]).double() for slot in ("up", "down"))
        change = file.scale(module) * up.flatten(1) @ down.flatten(1)
        if target.swapped:
            change = torch.cat(change.chunk(2)[::-1])
        whole = found[target.key]
        rows = slice(*target.rows) if target.rows else slice(None)
        whole[rows] += change.reshape(whole[rows].shape)
    return found


def in_memory(model: Model) -> MemoryModel:
    return MemoryModel({key: model.read(key) for key in model.keys()}, model.metadata)


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key


# --- laws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", WRITABLE)
@pytest.mark.parametrize("source", WRITABLE)
@pytest.mark.parametrize("architecture", TINY)
def test_the_same_changes(architecture: str, source: Writable, target: Writable) -> None:
    lora = some_lora(architecture, source)
    made = converted(open_lora(lora), target)
    assert open_lora(made).format == target
    assert_same(changes_of(lora, native(architecture)), changes_of(made, native(architecture)))


@pytest.mark.parametrize("between", WRITABLE)
@pytest.mark.parametrize("architecture", TINY)
def test_there_and_back(architecture: str, between: Writable) -> None:
    lora = some_lora(architecture, "kohya")
    back = in_memory(converted(open_lora(in_memory(converted(open_lora(lora), between))), "kohya"))
    assert set(back.keys()) == set(lora.keys())
    assert_same(changes_of(lora, native(architecture)), changes_of(back, native(architecture)))
    if between == "comfy":  # nothing is folded, split or fused
        assert_same({key: lora.read(key) for key in lora.keys()}, {key: back.read(key) for key in back.keys()})


@given(
    architecture=st.sampled_from(["flux", "sdxl"]),
    alpha=st.floats(0.01, 64),
    rank=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=20)
def test_any_scale_survives_diffusers(architecture: str, alpha: float, rank: int, seed: int) -> None:
    lora = some_lora(architecture, "kohya", rank=rank, alpha=alpha, seed=seed)
    made = in_memory(converted(open_lora(lora), "diffusers"))
    assert not [key for key in made.keys() if key.endswith("alpha")]
    before, after = changes_of(lora, native(architecture)), changes_of(made, native(architecture))
    for key, change in before.items():
        torch.testing.assert_close(after[key], change, rtol=1e-6, atol=1e-6 * float(change.abs().max()))


@pytest.mark.parametrize("target", WRITABLE)
@pytest.mark.parametrize("layout", NAMES)
def test_every_module_of_a_real_layout(layout: str, target: Writable) -> None:
    model = checkpoint(layout)
    source: Writable = "comfy" if target == "diffusers" else "diffusers"
    modules = []
    for name, where in module_names(model, source):
        shape = list(model.meta(where.key).shape)
        shape[0] = where.rows[1] - where.rows[0] if where.rows else shape[0]
        modules.append((name, tuple(shape)))
    plan = plan_conversion(open_lora(headers(plain(source, modules, alpha=False))), target)
    assert not plan.refused
    made = open_lora(HeaderModel({key: one.meta for key, one in plan.tensors.items()}))
    assert not made.unknown
    found = match(made, model)
    assert not found.unmatched
    assert dict(found.targets) == dict(module_names(model, target))


def test_spans_are_pieces_of_whole_tensors() -> None:
    for target in WRITABLE:
        made = converted(open_lora(some_lora("flux", "diffusers" if target != "diffusers" else "kohya")), target)
        for key in made.keys():
            meta = made.meta(key)
            whole = made.read(key)
            assert (whole.shape, whole.dtype) == (meta.shape, torch.float32)
            for start in range(0, meta.numel, 5):
                span = Span(start, min(start + 5, meta.numel))
                assert torch.equal(made.read(key, span), whole.flatten()[slice(*span)])
            with pytest.raises(IndexError):
                made.read(key, Span(0, meta.numel + 1))
            assert made.working_bytes(key, meta.numel) >= 0
        assert any(made.needs_whole(key) for key in made.keys())


# --- what comes out, in detail ---------------------------------------------------------------------------

W = 3072
"""Flux's width: in diffusers' names its double blocks are those of SD3."""
Q = "transformer.transformer_blocks.0.attn.to_q"
V = "transformer.transformer_blocks.0.attn.to_v"
QKV = "lora_unet_double_blocks_0_img_attn_qkv"


def test_splitting_copies_down_and_cuts_up() -> None:
    up, down = torch.rand(3 * W, 2), torch.rand(2, W)
    lora = open_lora(MemoryModel({f"{QKV}.lora_up.weight": up, f"{QKV}.lora_down.weight": down}))
    made = converted(lora, "diffusers")
    assert torch.equal(made.read(f"{V}.lora_B.weight"), up[2 * W :])
    assert torch.equal(made.read(f"{V}.lora_A.weight"), down)
    assert len(made.keys()) == 6


def two_parts(*dtypes: torch.dtype) -> MemoryModel:
    """LoRA of rank 2 on two of the three parts of a fused weight."""
    shapes = {"A": (2, W), "B": (W, 2)}
    return MemoryModel(
        {
            f"{name}.lora_{factor}.weight": torch.full(shape, 2.0, dtype=dtype)
            for name, dtype in zip((Q, V), dtypes, strict=True)
            for factor, shape in shapes.items()
        }
    )


def test_fusing_some_of_the_parts() -> None:
    made = converted(open_lora(two_parts(torch.float32, torch.float32)), "kohya")
    assert list(made.keys()) == [f"{QKV}.lora_up.weight", f"{QKV}.lora_down.weight", f"{QKV}.alpha"]
    up = made.read(f"{QKV}.lora_up.weight")
    expected = torch.zeros(3 * W, 4)
    expected[:W, :2] = expected[2 * W :, 2:] = 2.0
    assert torch.equal(up, expected)
    assert made.read(f"{QKV}.alpha").item() == 4


def test_parts_of_different_ranks_and_scales_are_fused() -> None:
    q, v = (f"transformer.single_transformer_blocks.0.attn.to_{one}" for one in "qv")
    lora = MemoryModel(small({**plain("comfy", [(q, (H, H))], 2), **plain("comfy", [(v, (H, H))], 3)}, 0, 6.0))
    made = converted(open_lora(lora), "comfy")
    file = open_lora(made)
    module = file.modules["diffusion_model.single_blocks.0.linear1"]
    assert (file.rank(module), file.scale(module)) == (5, 1.0)
    for key, change in changes_of(lora, native("flux")).items():
        torch.testing.assert_close(changes_of(made, native("flux"))[key], change)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [((torch.float16, torch.float16), "F16"), ((torch.float16, torch.bfloat16), "F32")],
)
def test_tensors_keep_their_dtype_and_mixed_parts_become_float32(
    dtypes: tuple[torch.dtype, ...], expected: str
) -> None:
    made = converted(open_lora(two_parts(*dtypes)), "kohya")
    assert {made.meta(key).dtype for key in made.keys() if not key.endswith("alpha")} == {expected}
    assert made.read(f"{QKV}.lora_up.weight").dtype == torch_dtype(expected)


def test_a_scale_that_is_a_power_of_two_changes_no_digit_of_float16() -> None:
    """Even a small one: the factors share it, where in one of them it would fall below float16's range."""
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.rand(4, 4, generator=generator).add(1).mul(2**-8).half() for _ in range(2))
    tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(2.0**-6)}
    made = converted(open_lora(MemoryModel(tensors)), "diffusers")
    new = [made.read(f"unet.down_blocks.0.attentions.0.proj_in.lora_{factor}.weight").double() for factor in "BA"]
    assert torch.equal(new[0] @ new[1], up.double() @ down.double() * 2**-8)


class TestDora:
    @pytest.mark.parametrize("shape", [(6, 1), (6,)])
    def test_magnitudes_by_row_of_a_matrix(self, shape: tuple[int, ...]) -> None:
        name = "unet.time_embedding.linear_1"
        tensors = {"lora_unet_time_embedding_linear_1.dora_scale": torch.arange(6.0).reshape(shape)}
        tensors |= {
            f"lora_unet_time_embedding_linear_1.lora_{one}.weight": torch.ones(size)
            for one, size in (("up", (6, 2)), ("down", (2, 5)))
        }
        made = converted(open_lora(MemoryModel(tensors)), "diffusers")
        assert torch.equal(made.read(f"{name}.lora_magnitude_vector"), torch.arange(6.0))
        back = converted(open_lora(in_memory(made)), "kohya")
        assert torch.equal(back.read("lora_unet_time_embedding_linear_1.dora_scale"), torch.arange(6.0).reshape(6, 1))

    def test_magnitudes_by_row_of_a_convolution(self) -> None:
        scale = torch.arange(6.0).reshape(6, 1, 1, 1)
        tensors = {"lora_unet_conv_in.dora_scale": scale, "lora_unet_conv_in.lora_up.weight": torch.ones(6, 2, 1, 1)}
        tensors["lora_unet_conv_in.lora_down.weight"] = torch.ones(2, 4, 3, 3)
        made = converted(open_lora(MemoryModel(tensors)), "diffusers")
        assert torch.equal(made.read("unet.conv_in.lora_magnitude_vector"), scale.reshape(1, 6, 1, 1))
        back = converted(open_lora(in_memory(made)), "kohya")
        assert torch.equal(back.read("lora_unet_conv_in.dora_scale"), scale)

    def test_magnitudes_of_a_fused_weight(self) -> None:
        scale = torch.rand(3 * W, 1)
        tensors = {f"{QKV}.dora_scale": scale, f"{QKV}.lora_up.weight": torch.ones(3 * W, 2)}
        tensors[f"{QKV}.lora_down.weight"] = torch.ones(2, W)
        made = in_memory(converted(open_lora(MemoryModel(tensors)), "diffusers"))
        assert torch.equal(made.read(f"{V}.lora_magnitude_vector"), scale[2 * W :].flatten())
        back = converted(open_lora(made), "kohya")
        assert torch.equal(back.read(f"{QKV}.dora_scale"), scale)
        some = MemoryModel({key: made.read(key) for key in made.keys() if "to_k" not in key})
        assert "not all of the parts are DoRA" in plan_conversion(open_lora(some), "kohya").refused[V]

    def test_magnitudes_by_column(self) -> None:
        shapes = {"lora_unet_conv_in.lora_up.weight": (6, 2), "lora_unet_conv_in.lora_down.weight": (2, 5)}
        lora = open_lora(headers({**shapes, "lora_unet_conv_in.dora_scale": (1, 5)}))
        assert plan_conversion(lora, "diffusers").refused == {
            "lora_unet_conv_in": "its DoRA magnitudes do not go by row"
        }
        made = converted(lora, "comfy")
        assert made.meta("diffusion_model.input_blocks.0.0.dora_scale").shape == (1, 5)


LYCORIS = {
    "loha": {"hada_w1_a": (8, 3), "hada_w1_b": (3, 4), "hada_w2_a": (8, 3), "hada_w2_b": (3, 4), "alpha": ()},
    "lokr": {"lokr_w1": (2, 2), "lokr_w2": (4, 2)},
    "full": {"diff": (8, 4), "diff_b": (8,)},
}


@pytest.mark.parametrize("family", LYCORIS)
def test_lycoris_families_are_renamed_and_have_no_place_in_diffusers(family: str) -> None:
    name = "lora_unet_time_embedding_linear_1"
    lora = open_lora(MemoryModel(small({f"{name}.{slot}": shape for slot, shape in LYCORIS[family].items()}, 0, 1.0)))
    made = converted(lora, "comfy")
    assert set(made.keys()) == {f"diffusion_model.time_embed.0.{slot}" for slot in LYCORIS[family]}
    for slot in LYCORIS[family]:
        assert torch.equal(made.read(f"diffusion_model.time_embed.0.{slot}"), lora.model.read(f"{name}.{slot}"))
    with pytest.raises(PlanError, match=f"diffusers has no {family} modules"):
        converted(lora, "diffusers")


def test_a_full_change_is_cut_and_turned_too() -> None:
    """Of SimpleTuner's LyCORIS, which names layers as diffusers does: the last modulation changes halves."""
    diff, bias = torch.arange(32.0).reshape(8, 4), torch.arange(8.0)
    name = "lycoris_norm_out_linear"
    other = {
        "lycoris_transformer_blocks_0_attn_to_q.diff": torch.ones(4, 4),
        "lycoris_single_transformer_blocks_0_proj_out.diff": torch.ones(4, 20),
    }
    lora = open_lora(MemoryModel({f"{name}.diff": diff, f"{name}.diff_b": bias, **other}))
    plan = plan_conversion(lora, "kohya")
    assert set(plan.refused) == {"lycoris_transformer_blocks_0_attn_to_q"}
    made = converted(lora, "kohya", allow=True)
    new = "lora_unet_final_layer_adaLN_modulation_1"
    assert torch.equal(made.read(f"{new}.diff"), torch.cat([diff[4:], diff[:4]]))
    assert torch.equal(made.read(f"{new}.diff_b"), torch.cat([bias[4:], bias[:4]]))


class TestRefused:
    def test_lists_what_cannot_be(self) -> None:
        shapes = plain("kohya", [("lora_unet_conv_in", (4, 4)), ("lora_unet_nonsense", (4, 4))])
        lora = open_lora(headers({**shapes, "x.oft_blocks": (2, 2, 2)}), name="my.safetensors")
        with pytest.raises(PlanError) as error:
            converted(lora, "comfy")
        text = str(error.value)
        assert "my.safetensors: 2 modules or tensors cannot be written as comfy" in text
        assert "lora_unet_nonsense: Stable Diffusion 1.5 has no layer of this name" in text
        assert "x.oft_blocks: it belongs to no module" in text
        made = converted(lora, "comfy", allow=True)
        assert len(made.keys()) == 3

    def test_no_architecture(self) -> None:
        with pytest.raises(PlanError, match="none of its modules"):
            converted(open_lora(headers(plain("kohya", [("blocks_0_q", (4, 4))]))), "comfy")

    def test_one_layer_twice(self) -> None:
        names = ["lora_unet_input_blocks_4_1_proj_in", "lora_unet_down_blocks_1_attentions_0_proj_in"]
        lora = open_lora(headers(plain("kohya", [(name, (4, 4)) for name in names])))
        refused = plan_conversion(lora, "comfy").refused
        assert refused == dict.fromkeys(names, "several modules of the file change the same layer")

    def test_parts_that_do_not_fit_together(self) -> None:
        lora = open_lora(headers(plain("diffusers", [(Q, (4, 4)), (V, (6, 4))])))
        assert all("do not fit together" in reason for reason in plan_conversion(lora, "kohya").refused.values())

    def test_tucker(self) -> None:
        shapes = {"up": (6, 2, 1, 1), "down": (2, 4, 1, 1), "mid": (2, 2, 3, 3)}
        lora = open_lora(headers({f"lora_unet_conv_in.lora_{slot}.weight": shape for slot, shape in shapes.items()}))
        assert "lora modules with mid" in plan_conversion(lora, "diffusers").refused["lora_unet_conv_in"]


class TestMetadata:
    METADATA = {
        "ss_tag_frequency": "{}",
        "ss_network_dim": "4",
        "ss_network_alpha": "2.0",
        "modelspec.title": "Mine",
        "modelspec.hash_sha256": "0",
        "sshs_model_hash": "1",
        "sshs_legacy_hash": "2",
        "format": "pt",
    }

    def made(self, format: Writable) -> Mapping[str, str]:
        lora = some_lora("flux", "kohya")
        return converted(
            open_lora(MemoryModel({key: lora.read(key) for key in lora.keys()}, self.METADATA)), format
        ).metadata

    def test_hashes_of_other_bytes_are_dropped(self) -> None:
        assert set(self.made("comfy")) == {
            "ss_tag_frequency",
            "ss_network_dim",
            "ss_network_alpha",
            "modelspec.title",
            "format",
        }

    def test_ranks_and_alphas_that_are_no_longer_so_are_dropped(self) -> None:
        assert set(self.made("diffusers")) == {"ss_tag_frequency", "modelspec.title", "format"}

    def test_a_configuration_where_ranks_differ(self) -> None:
        """diffusers without one gives every module the scale: rank of the first / its own rank."""
        shapes = {
            **plain("kohya", [("lora_unet_conv_in", (6, 4, 3, 3))], 2),
            **plain("kohya", [("lora_unet_conv_out", (4, 6, 3, 3)), ("lora_unet_time_embedding_linear_1", (6, 6))], 3),
        }
        made = converted(open_lora(MemoryModel(small(shapes, 0, 6.0))), "diffusers")
        config = json.loads(made.metadata["lora_adapter_metadata"])
        assert config == {
            "unet.r": 3,
            "unet.lora_alpha": 3,
            "unet.rank_pattern": {"conv_in": 2},
            "unet.alpha_pattern": {"conv_in": 2},
            "unet.target_modules": ["conv_in", "conv_out", "time_embedding.linear_1"],
            "unet.use_dora": False,
        }
        file = open_lora(in_memory(made))
        assert [file.scale(module) for module in file.modules.values()] == [1.0, 1.0, 1.0]

    def test_a_configuration_that_was_read_is_not_kept(self) -> None:
        tensors = {f"unet.conv_in.lora_{one}.weight": torch.ones(2, 2) for one in "AB"}
        model = MemoryModel(tensors, {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8})})
        made = converted(open_lora(model), "kohya")
        assert dict(made.metadata) == {}
        assert made.read("lora_unet_conv_in.alpha").item() == 8
        again = converted(open_lora(model), "diffusers")
        assert dict(again.metadata) == {}
        product = again.read("unet.conv_in.lora_B.weight") @ again.read("unet.conv_in.lora_A.weight")
        assert torch.equal(product, torch.full((2, 2), 8.0))


# --- ComfyUI ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", WRITABLE)
@pytest.mark.parametrize("architecture", ["flux", "sd3"])
def test_comfyui_applies_every_format_alike(architecture: str, format: Writable) -> None:
    """It is given the tiny checkpoint and the converted file, and does all the rest by itself."""
    lora = some_lora(architecture, "kohya")
    model = native(architecture)
    made = converted(open_lora(lora), format)
    kind, config = {
        "flux": ("Flux", {"depth": 1, "depth_single_blocks": 1, "hidden_size": H}),
        "sd3": ("SD3", {"depth": 2}),
    }[architecture]
    live = getattr(comfy_module("comfy.model_base"), kind)()
    live.state_dict = lambda: dict.fromkeys(model.keys())
    live.model_config = SimpleNamespace(unet_config=config)
    comfy = comfy_module("comfy.lora")
    state = {key: made.read(key) for key in made.keys()}
    patches = comfy.load_lora(state, comfy.model_lora_keys_unet(live, {}), log_missing=False)
    results = {key: torch.zeros(model.meta(key).shape) for key in model.keys()}
    for where, patch in patches.items():
        key, offset, function = (*where, None, None)[:3] if isinstance(where, tuple) else (where, None, None)
        results[key] = comfy.calculate_weight([(1.0, patch, 1.0, offset, function)], results[key], key)
    assert_same(changes_of(lora, model), {key: tensor.double() for key, tensor in results.items()})


def test_names_written_are_those_of_the_format() -> None:
    made = converted(open_lora(some_lora("flux", "comfy")), "diffusers")
    assert tensor_name("diffusers", "transformer.single_transformer_blocks.0.proj_mlp", "up") in made.keys()
