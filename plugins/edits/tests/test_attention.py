"""Which elements are queries, keys and values: on real checkpoints, and by attentions that are really computed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from daremerge_core import MemoryModel, Place, TensorMeta, view
from daremerge_core.testing import layouts
from daremerge_edits.attention import Section, attention_of, layer_of, sections
from daremerge_edits.normalize import Normalize

Weights = dict[str, Tensor]
Forward = Callable[[Weights], Sequence[Tensor]]

# --- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "layer", "attention"),
    [
        ("input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", "…attn1.to_q", "…attn1"),
        ("input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.bias", "…attn1.to_out.0", "…attn1"),
        ("layers.3.self_attn.k_proj.bias", "…self_attn.k_proj", "…self_attn"),
        ("resblocks.0.attn.in_proj_weight", "…attn.in_proj", "…attn"),
        ("resblocks.0.attn.in_proj_bias", "…attn.in_proj", "…attn"),
        ("joint_blocks.4.x_block.attn.qkv.weight", "…x_block.attn.qkv", "joint_blocks.4.block.attn"),
        ("joint_blocks.4.context_block.attn.qkv.bias", "…context_block.attn.qkv", "joint_blocks.4.block.attn"),
        ("joint_blocks.4.x_block.attn2.qkv.weight", "…x_block.attn2.qkv", "joint_blocks.4.block.attn2"),
        ("double_blocks.0.img_attn.qkv.weight", "…img_attn.qkv", "double_blocks.0.attn"),
        ("double_blocks.0.txt_attn.qkv.weight", "…txt_attn.qkv", "double_blocks.0.attn"),
        ("single_blocks.11.linear1.weight", "…11.linear1", "single_blocks.11"),
        ("qkv.weight", "qkv", ""),
        ("relative_attention_bias.weight", "relative_attention_bias", ""),
    ],
)
def test_names_tell_layer_and_attention(key: str, layer: str, attention: str) -> None:
    assert layer_of(key).endswith(layer.removeprefix("…"))
    assert attention_of(key).endswith(attention.removeprefix("…"))


class Headers:
    """A model of which only the headers are there."""

    metadata: dict[str, str] = {}

    def __init__(self, tensors: dict[str, TensorMeta]) -> None:
        self._tensors = tensors

    def keys(self) -> list[str]:
        return list(self._tensors)

    def meta(self, key: str) -> TensorMeta:
        return self._tensors[key]

    def read(self, key: str, span: object = None) -> Tensor:
        raise AssertionError("planning reads no data")


@pytest.mark.parametrize("name", layouts.NAMES)
def test_on_real_checkpoints_every_query_finds_its_keys_and_every_key_its_queries(name: str) -> None:
    model = Headers(layouts.load(name))
    value = view(Normalize(model=model, like=Headers(layouts.load(name))))
    roles = {key: value.layout.place(key).role for key in model.keys()}
    active = set(value.active_keys())
    assert {key for key, role in roles.items() if role in ("attn.q", "attn.k", "attn.qkv")} <= active
    assert not {key for key, role in roles.items() if role not in ("attn.q", "attn.k", "attn.qkv", "fused")} & active
    for group, keys in value.measurements.groups().items():
        weights = [key for key in keys if key.endswith("weight")]
        found = [s.projection for key in weights for s in sections(value.layout.place(key), model) or ()]
        assert found.count("query") == found.count("key") > 0, group
        shared = {key for key in keys if roles[key] in ("attn.q", "attn.k")}
        assert len(shared) in (0, 2, 4), "one pair of weights, and perhaps of biases"


@pytest.mark.parametrize(
    ("name", "key", "width", "rows"),
    [
        ("sd3", "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", 1536, 1536),
        ("sd3", "model.diffusion_model.joint_blocks.23.context_block.attn.qkv.bias", 1, 1536),
        ("sdxl", "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight", 1280, 1280),
        ("sdxl", "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias", 1, 1280),
        ("flux-dev", "model.diffusion_model.double_blocks.0.txt_attn.qkv.weight", 3072, 3072),
    ],
)
def test_fused_tensors_of_real_checkpoints(name: str, key: str, width: int, rows: int) -> None:
    model = Headers(layouts.load(name))
    found = sections(_place(key, model), model)
    stops = [("query", rows), ("key", 2 * rows), ("value", 3 * rows)]
    assert found == [Section(projection, width * stop) for projection, stop in stops]


def test_fluxs_single_blocks_have_an_mlp_behind_the_values() -> None:
    model = Headers(layouts.load("flux-dev"))
    prefix = "model.diffusion_model.single_blocks.0."
    for parameter, width in (("weight", 3072), ("bias", 1)):
        first = sections(_place(f"{prefix}linear1.{parameter}", model), model)
        assert [(s.projection, s.stop // width // 3072) for s in first or ()] == [
            ("query", 1), ("key", 2), ("value", 3), ("rest", 7)
        ]  # fmt: skip
        assert sections(_place(f"{prefix}linear2.{parameter}", model), model) is None


def test_both_streams_of_a_joint_attention_are_one_group() -> None:
    model = Headers(layouts.load("sd3"))
    groups = view(Normalize(model=model, like=Headers(layouts.load("sd3")), parts=["unet"])).measurements.groups()
    assert len(groups) == 24
    assert all(len(keys) == 4 for keys in groups.values()), "weight and bias of two streams"


@pytest.mark.parametrize(
    ("weight", "output"),
    [((12, 3, 1), (4, 4)), ((12, 4), (4, 5)), ((12, 4), (4, 12)), ((12, 4), (4, 13)), ((2, 1), (1, 2))],
    ids=["a convolution", "an odd rest", "no keys", "too few rows", "queries only"],
)
def test_rows_that_are_not_q_k_and_v_are_not_cut(weight: tuple[int, ...], output: tuple[int, int]) -> None:
    tensors = {"b.0.attn.qkv.weight": torch.ones(weight), "b.0.attn.proj.weight": torch.ones(output)}
    model = MemoryModel(tensors | {"b.0.attn.to_q.weight": torch.ones(2, 2)})
    assert sections(_place("b.0.attn.qkv.weight", model), model) == []
    reason = view(Normalize(model=model, like=model)).decisions["b.0.attn.qkv.weight"].reason
    assert reason == "its rows are not those of queries, keys and values"


def _place(key: str, model: object) -> Place:
    from daremerge_core.decisions import detect_layout

    return detect_layout(model).place(key)  # type: ignore[arg-type]


# --- attentions --------------------------------------------------------------------------------------

HEADS, WIDTH, TOKENS = 4, 16, 6


def attend(q: Tensor, k: Tensor, v: Tensor, size: int) -> Tensor:
    """Attention by heads of ``size``; each head of K and V serves as many of Q as there are more of those."""
    q, k, v = (x.unflatten(-1, (-1, size)).transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))
    return scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)


def inputs(width: int = WIDTH, seed: int = 9) -> Tensor:
    return torch.randn(TOKENS, width, generator=torch.Generator().manual_seed(seed))


def separate(w: Weights) -> Sequence[Tensor]:
    """Cross-attention of a U-Net, here with biases."""
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2"
    q, k, v = (
        linear(x, w[f"{name}.to_{p}.weight"], w[f"{name}.to_{p}.bias"])
        for p, x in (("q", inputs()), ("k", inputs(10, 3)), ("v", inputs(10, 3)))
    )
    return [linear(attend(q, k, v, 4), w[f"{name}.to_out.0.weight"], w[f"{name}.to_out.0.bias"])]


def grouped(w: Weights) -> Sequence[Tensor]:
    """A decoder's grouped-query attention: 4 heads of queries, 2 of keys and values; Qwen2's biases."""
    q, k, v = (linear(inputs(), w[f"l.0.self_attn.{p}_proj.weight"], w[f"l.0.self_attn.{p}_proj.bias"]) for p in "qkv")
    return [linear(attend(q, k, v, 6), w["l.0.self_attn.o_proj.weight"])]


def grouped_fused(w: Weights) -> Sequence[Tensor]:
    """The same in one tensor, as Phi-3 has it; all heads of queries together are wider than the model."""
    q, k, v = linear(inputs(), w["l.0.self_attn.qkv_proj.weight"]).split([24, 12, 12], -1)
    return [linear(attend(q, k, v, 6), w["l.0.self_attn.o_proj.weight"])]


def openclip(w: Weights) -> Sequence[Tensor]:
    """torch's own multi-head attention, whose names OpenCLIP has."""
    attention = torch.nn.MultiheadAttention(WIDTH, HEADS)
    name = "cond_stage_model.model.transformer.resblocks.0.attn."
    attention.load_state_dict({key.removeprefix(name): tensor for key, tensor in w.items()})
    x = inputs()
    with torch.no_grad():
        return list(attention(x, x, x, average_attn_weights=False))


def joint(w: Weights) -> Sequence[Tensor]:
    """SD3's: text and image tokens, each with projections of their own, attend to all."""
    streams = [("context_block", inputs(seed=4)), ("x_block", inputs(seed=5))]
    names = [f"model.diffusion_model.joint_blocks.0.{stream}.attn" for stream, _ in streams]
    parts = [
        linear(x, w[f"{name}.qkv.weight"], w[f"{name}.qkv.bias"]).chunk(3, -1)
        for name, (_, x) in zip(names, streams, strict=True)
    ]
    q, k, v = (torch.cat(both) for both in zip(*parts, strict=True))
    mixed = attend(q, k, v, 4).chunk(2)
    return [linear(one, w[f"{name}.proj.weight"]) for name, one in zip(names, mixed, strict=True)]


def single_block(w: Weights) -> Sequence[Tensor]:
    """Flux's single block, without its norm of queries and keys, which would hide what scaling does."""
    name = "single_blocks.0.linear"
    qkv, mlp = linear(inputs(), w[f"{name}1.weight"], w[f"{name}1.bias"]).split([3 * WIDTH, 2 * WIDTH], -1)
    mixed = torch.cat([attend(*qkv.chunk(3, -1), 4), gelu(mlp)], -1)
    return [linear(mixed, w[f"{name}2.weight"], w[f"{name}2.bias"])]


SHAPES: dict[Forward, dict[str, tuple[int, ...]]] = {
    separate: {
        f"diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.{name}": shape
        for name, shape in {
            "to_q.weight": (16, 16), "to_q.bias": (16,), "to_k.weight": (16, 10), "to_k.bias": (16,),
            "to_v.weight": (16, 10), "to_v.bias": (16,), "to_out.0.weight": (16, 16), "to_out.0.bias": (16,),
        }.items()
    },
    grouped: {
        "l.0.self_attn.q_proj.weight": (24, 16), "l.0.self_attn.q_proj.bias": (24,),
        "l.0.self_attn.k_proj.weight": (12, 16), "l.0.self_attn.k_proj.bias": (12,),
        "l.0.self_attn.v_proj.weight": (12, 16), "l.0.self_attn.v_proj.bias": (12,),
        "l.0.self_attn.o_proj.weight": (16, 24),
    },
    grouped_fused: {"l.0.self_attn.qkv_proj.weight": (48, 16), "l.0.self_attn.o_proj.weight": (16, 24)},
    openclip: {
        f"cond_stage_model.model.transformer.resblocks.0.attn.{name}": shape
        for name, shape in {
            "in_proj_weight": (48, 16), "in_proj_bias": (48,), "out_proj.weight": (16, 16), "out_proj.bias": (16,),
        }.items()
    },
    joint: {
        f"model.diffusion_model.{name}": shape
        for name, shape in {
            "x_embedder.proj.weight": (1, 1, 1, 1), "context_embedder.weight": (1, 1),
            "joint_blocks.0.context_block.attn.qkv.weight": (48, 16),
            "joint_blocks.0.context_block.attn.qkv.bias": (48,),
            "joint_blocks.0.context_block.attn.proj.weight": (16, 16),
            "joint_blocks.0.x_block.attn.qkv.weight": (48, 16), "joint_blocks.0.x_block.attn.qkv.bias": (48,),
            "joint_blocks.0.x_block.attn.proj.weight": (16, 16),
        }.items()
    },
    single_block: {
        "img_in.weight": (1, 1), "time_in.in_layer.weight": (1, 1), "vector_in.in_layer.weight": (1, 1),
        "double_blocks.0.img_attn.qkv.weight": (48, 16),
        "single_blocks.0.linear1.weight": (80, 16), "single_blocks.0.linear1.bias": (80,),
        "single_blocks.0.linear2.weight": (16, 48), "single_blocks.0.linear2.bias": (16,),
    },
}  # fmt: skip
KINDS = pytest.mark.parametrize("forward", list(SHAPES), ids=lambda forward: forward.__name__)


def weights(forward: Forward, seed: int) -> Weights:
    """Every tensor at a norm of its own, so that no two factors are the same."""
    generator = torch.Generator().manual_seed(seed)
    scales = defaultdict(lambda: float(torch.rand((), generator=generator)) + 0.3)
    return {
        key: torch.randn(shape, generator=generator) * scales[key] / math.sqrt(shape[-1])
        for key, shape in SHAPES[forward].items()
    }


def normalized(forward: Forward, **options: object) -> tuple[Weights, Weights, Weights]:
    """A, B and A normalised to B."""
    a, b = weights(forward, 0), weights(forward, 1)
    value = view(Normalize.model_validate({"model": MemoryModel(a), "like": MemoryModel(b), **options}))
    return a, b, {key: value.read(key) for key in a}


def query_norm(forward: Forward, w: Weights) -> float:
    """Norm of the query weights, which are cut out by hand."""
    rows = {separate: 16, grouped: 24, grouped_fused: 24, openclip: 16, joint: 16, single_block: 16}[forward]
    names = ("to_q.weight", "q_proj.weight", "qkv_proj.weight", "in_proj_weight", "attn.qkv.weight", "linear1.weight")
    found = [tensor[:rows] for key, tensor in w.items() if key.endswith(names) and "img_attn" not in key]
    assert len(found) == (2 if forward is joint else 1)
    return float(torch.cat(found).norm())


@KINDS
@pytest.mark.parametrize("magnify", [False, True])
def test_attn_only_changes_the_queries_norm_and_not_what_is_computed(forward: Forward, magnify: bool) -> None:
    a, b, done = normalized(forward, magnify=magnify)
    before, wanted, after = (query_norm(forward, w) for w in (a, b, done))
    assert after == pytest.approx(before * (before / wanted if magnify else wanted / before), rel=1e-6)
    assert abs(after / before - 1) > 0.05, "a test of two alike models would show nothing"
    for one, other in zip(forward(a), forward(done), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@KINDS
@given(ratio=st.floats(-1, 2))
@settings(max_examples=8)
def test_at_any_ratio(forward: Forward, ratio: float) -> None:
    a, _, done = normalized(forward, ratio=ratio)
    for one, other in zip(forward(a), forward(done), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=2e-6)


@KINDS
def test_attn_only_touches_nothing_else(forward: Forward) -> None:
    a, _, done = normalized(forward)
    place = view(Normalize(model=MemoryModel(a), like=MemoryModel(a))).layout.place
    changed = 0
    for key in a:
        start = 0
        for name, stop in sections(place(key), MemoryModel(a)) or [("rest", a[key].numel())]:
            one, other = (w[key].reshape(-1)[start:stop] for w in (a, done))
            assert torch.equal(one, other) == (name not in ("query", "key")), f"{name} of {key}"
            changed += name in ("query", "key")
            start = stop
    assert changed


def test_a_split_that_is_off_by_a_row_would_show() -> None:
    """The oracle's own sensitivity: scale one row too few, and the outputs differ."""
    a, _, done = normalized(grouped_fused)
    key = "l.0.self_attn.qkv_proj.weight"
    wrong = {**done, key: torch.cat([done[key][:23], a[key][23:24], done[key][24:]])}
    assert not torch.allclose(grouped_fused(a)[0], grouped_fused(wrong)[0], rtol=1e-3, atol=1e-4)
