"""The change each family makes, against ComfyUI's own weight adapters and PEFT's layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daremerge_core import MemoryModel, Span
from daremerge_lora import deltas, kernels
from daremerge_lora.modules import Family, Module

from .oracles import comfy_module, peft_at_work

OUT, IN, K, RANK = 12, 8, 3, 4
STRENGTH, ALPHA = 0.7, 2.5


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parts(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {slot: randn(*shape, seed=seed) for seed, (slot, shape) in enumerate(shapes.items())}


Case = tuple[Family, tuple[int, ...], dict[str, torch.Tensor], int]
"""Family, shape of the weight, tensors by slot, and what alpha is divided by."""

CASES: dict[str, Case] = {
    "linear": ("lora", (OUT, IN), parts(up=(OUT, RANK), down=(RANK, IN)), RANK),
    "convolution": ("lora", (OUT, IN, K, K), parts(up=(OUT, RANK, 1, 1), down=(RANK, IN, K, K)), RANK),
    "tucker": (
        "lora",
        (OUT, IN, K, K),
        parts(up=(OUT, RANK, 1, 1), down=(RANK, IN, 1, 1), mid=(RANK, RANK, K, K)),
        RANK,
    ),
    "loha": (
        "loha",
        (OUT, IN),
        parts(w1_a=(OUT, RANK), w1_b=(RANK, IN), w2_a=(OUT, RANK), w2_b=(RANK, IN)),
        RANK,
    ),
    "loha convolution": (
        "loha",
        (OUT, IN, K, K),
        parts(w1_a=(OUT, RANK), w1_b=(RANK, IN * K * K), w2_a=(OUT, RANK), w2_b=(RANK, IN * K * K)),
        RANK,
    ),
    "loha tucker": (
        "loha",
        (OUT, IN, K, K),
        parts(
            t1=(RANK, RANK, K, K),
            t2=(RANK, RANK, K, K),
            w1_a=(RANK, OUT),
            w1_b=(RANK, IN),
            w2_a=(RANK, OUT),
            w2_b=(RANK, IN),
        ),
        RANK,
    ),
    "lokr full": ("lokr", (OUT, IN), parts(w1=(3, 2), w2=(4, 4)), 0),
    "lokr first": ("lokr", (OUT, IN), parts(w1_a=(3, 2), w1_b=(2, 2), w2=(4, 4)), 2),
    "lokr second": ("lokr", (OUT, IN), parts(w1=(3, 2), w2_a=(4, 3), w2_b=(3, 4)), 3),
    "lokr both": ("lokr", (OUT, IN), parts(w1_a=(3, 3), w1_b=(3, 2), w2_a=(4, 3), w2_b=(3, 4)), 3),
    "lokr convolution": ("lokr", (OUT, IN, K, K), parts(w1=(3, 2), w2=(4, 4, K, K)), 0),
    "lokr convolution second": ("lokr", (OUT, IN, K, K), parts(w1=(3, 2), w2_a=(4, 3), w2_b=(3, 4 * K * K)), 3),
    "lokr tucker": ("lokr", (OUT, IN, K, K), parts(w1=(3, 2), t2=(3, 3, K, K), w2_a=(3, 4), w2_b=(3, 4)), 3),
    "full": ("full", (OUT, IN, K, K), parts(diff=(OUT, IN, K, K)), 0),
}


def lora_of(
    family: Family, tensors: Mapping[str, torch.Tensor], divisor: int = 0, *, names: Mapping[str, str] = {}
) -> tuple[Any, Module]:
    """A file of one module, as far as :mod:`deltas` looks at it."""
    module = Module("m", family, {slot: names.get(slot, f"m.{slot}") for slot in tensors})
    model = MemoryModel({module.tensors[slot]: tensor for slot, tensor in tensors.items()})
    return SimpleNamespace(model=model, scale=lambda module: ALPHA / divisor if divisor else 1.0), module


def adapter(family: Family, tensors: Mapping[str, torch.Tensor], dora: torch.Tensor | None = None) -> Any:
    """ComfyUI's adapter of these tensors."""
    get = dict(tensors).get
    found = comfy_module("comfy.weight_adapter")
    if family == "lora":
        weights = (get("up"), get("down"), ALPHA, get("mid"), dora, None)
        return found.LoRAAdapter(set(), weights)
    if family == "loha":
        order = ("w1_a", "w1_b", None, "w2_a", "w2_b", "t1", "t2")
        return found.LoHaAdapter(set(), (*(ALPHA if slot is None else get(slot) for slot in order), dora))
    order = ("w1", "w2", None, "w1_a", "w1_b", "w2_a", "w2_b", "t2")
    return found.LoKrAdapter(set(), (*(ALPHA if slot is None else get(slot) for slot in order), dora))


def comfy_weight(weight: torch.Tensor, patch: Any, strength: float) -> torch.Tensor:
    calculate_weight = comfy_module("comfy.lora").calculate_weight
    found: torch.Tensor = calculate_weight([(strength, patch, 1.0, None, None)], weight.clone(), "key")
    return found


@pytest.mark.parametrize("case", CASES)
class TestComfyUI:
    def test_adds_the_same(self, case: str) -> None:
        if case == "lokr tucker":
            pytest.skip("ComfyUI's own fails: torch.kron refuses the strides of its einsum")
        family, shape, tensors, divisor = CASES[case]
        weight = randn(*shape, seed=50)
        patch = ("diff", (tensors["diff"],)) if family == "full" else adapter(family, tensors)
        expected = comfy_weight(weight, patch, STRENGTH)
        lora, module = lora_of(family, tensors, divisor)
        change = deltas.read_change(lora, module)
        assert change.size == (OUT, weight.numel() // OUT)
        found = weight + change.rows(0, OUT, STRENGTH).reshape(shape)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_decomposes_the_same_by_input_channels(self, case: str) -> None:
        family, shape, tensors, divisor = CASES[case]
        if case in ("full", "lokr tucker"):
            pytest.skip("ComfyUI has no DoRA of a full difference, and fails at this LoKr")
        weight, scale = randn(*shape, seed=50), randn(1, IN, *[1] * (len(shape) - 2), seed=60).abs()
        expected = comfy_weight(weight, adapter(family, tensors, scale), 1.0)
        lora, module = lora_of(family, {**tensors, "dora_scale": scale}, divisor)
        magnitude, per_row = deltas.magnitude(lora, module, OUT)
        assert not per_row
        delta = deltas.read_change(lora, module).dense().reshape(shape)
        found = kernels.decompose(weight, delta, magnitude, per_row=per_row)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
class TestChange:
    """What holds of every family."""

    def change(self, case: str) -> deltas.Change:
        family, _, tensors, divisor = CASES[case]
        lora, module = lora_of(family, tensors, divisor)
        assert deltas.has_weight(module)
        return deltas.read_change(lora, module)

    @given(ends=st.tuples(st.integers(0, OUT * IN - 1), st.integers(0, OUT * IN - 1)).map(sorted))
    @settings(max_examples=15)
    def test_spans_are_cut_from_the_whole(self, case: str, ends: list[int]) -> None:
        change = self.change(case)
        span = Span(ends[0], ends[1] + 1)
        whole = change.rows(0, OUT, STRENGTH).reshape(-1)
        assert torch.equal(change.span(span, STRENGTH), whole[span.start : span.stop])

    def test_a_strength_scales(self, case: str) -> None:
        change = self.change(case)
        torch.testing.assert_close(change.rows(0, OUT, -2.0), -2.0 * change.dense())

    def test_transposed_is_the_transpose(self, case: str) -> None:
        change = self.change(case)
        torch.testing.assert_close(change.transposed().dense(), change.dense().T)

    def test_half_precision_factors_are_computed_in_float32(self, case: str) -> None:
        family, _, tensors, divisor = CASES[case]
        half = {slot: tensor.half() for slot, tensor in tensors.items()}
        wide = {slot: tensor.float() for slot, tensor in half.items()}
        one, two = (deltas.read_change(*lora_of(family, found, divisor)).dense() for found in (half, wide))
        assert one.dtype == torch.float32
        assert torch.equal(one, two)


def peft_layer(name: str, layer: torch.nn.Module, *, alpha: float = ALPHA, **options: Any) -> Any:
    """PEFT's layer around ``layer``, its random tensors drawn anew so that none is zero."""
    with peft_at_work() as peft:
        module = getattr(peft.tuners, name.lower()).layer
        config = getattr(peft, f"{name}Config")(**options)
        scale = {"lora_alpha": alpha} if name == "Lora" else {"alpha": alpha}
        wrapped = getattr(module, type(layer).__name__)(layer, "default", config=config, r=config.r, **scale)
    generator = torch.Generator().manual_seed(1)
    for key, value in wrapped.named_parameters():
        if "base_layer" not in key:
            value.data = torch.randn(value.shape, generator=generator)
    return wrapped


LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "linear": lambda: torch.nn.Linear(IN, OUT, bias=False),
    "convolution": lambda: torch.nn.Conv2d(IN, OUT, K, bias=False),
}


def state(layer: Any, **slots: str) -> dict[str, torch.Tensor]:
    """A PEFT layer's tensors by our slots: ``up="lora_B"``."""
    found: dict[str, torch.Tensor] = {}
    for slot, attribute in slots.items():
        holder = getattr(layer, attribute)
        if "default" in holder:
            value = holder["default"]
            found[slot] = (value if isinstance(value, torch.Tensor) else value.weight).detach()
    return found


class TestPeft:
    @pytest.mark.parametrize("kind", LAYERS)
    def test_lora(self, kind: str) -> None:
        layer = peft_layer("Lora", LAYERS[kind](), r=RANK)
        lora, module = lora_of("lora", state(layer, up="lora_B", down="lora_A"), RANK)
        expected = layer.get_delta_weight("default").detach()
        torch.testing.assert_close(deltas.read_change(lora, module).dense().reshape(expected.shape), expected)

    @pytest.mark.parametrize("kind", LAYERS)
    @pytest.mark.parametrize("effective", [False, True])
    def test_loha(self, kind: str, effective: bool) -> None:
        layer = peft_layer("LoHa", LAYERS[kind](), r=RANK, use_effective_conv2d=effective, init_weights=False)
        slots = {slot: f"hada_{slot}" for slot in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")}
        tensors = state(layer, **slots)
        assert ("t1" in tensors) == (effective and kind == "convolution")
        lora, module = lora_of("loha", tensors, RANK)
        expected = layer.get_delta_weight("default").detach()
        torch.testing.assert_close(deltas.read_change(lora, module).dense().reshape(expected.shape), expected)

    @pytest.mark.parametrize("kind", LAYERS)
    @pytest.mark.parametrize("options", [{}, {"decompose_both": True}, {"use_effective_conv2d": True}], ids=str)
    def test_lokr(self, kind: str, options: dict[str, bool]) -> None:
        layer = peft_layer("LoKr", LAYERS[kind](), r=1, init_weights=False, **options)
        slots = {slot: f"lokr_{slot}" for slot in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")}
        tensors = state(layer, **slots)
        lora, module = lora_of("lokr", tensors, 1)
        expected = layer.get_delta_weight("default").detach()
        torch.testing.assert_close(deltas.read_change(lora, module).dense().reshape(expected.shape), expected)

    @pytest.mark.parametrize("kind", LAYERS)
    @pytest.mark.parametrize("name", ["m.lora_magnitude_vector", "m.lora_magnitude_vector.weight"])
    def test_dora(self, kind: str, name: str) -> None:
        """The weight that PEFT's own merge leaves in the layer."""
        layer = peft_layer("Lora", LAYERS[kind](), r=RANK, use_dora=True)
        weight = layer.base_layer.weight.detach().clone()
        tensors = state(layer, up="lora_B", down="lora_A", dora_scale="lora_magnitude_vector")
        lora, module = lora_of("lora", tensors, RANK, names={"dora_scale": name})
        magnitude, per_row = deltas.magnitude(lora, module, OUT)
        assert per_row
        delta = deltas.read_change(lora, module).dense().reshape(weight.shape)
        found = kernels.decompose(weight, delta, magnitude, per_row=per_row)
        with peft_at_work():
            layer.merge()
        torch.testing.assert_close(found, layer.base_layer.weight.detach(), rtol=1e-5, atol=1e-6)


class TestMagnitude:
    @pytest.mark.parametrize(
        ("shape", "per_row"),
        [((OUT, 1), True), ((1, IN), False), ((OUT, 1, 1, 1), True), ((1, IN, 1, 1), False), ((OUT,), True)],
    )
    def test_is_told_by_its_shape(self, shape: tuple[int, ...], per_row: bool) -> None:
        lora, module = lora_of("lora", {"dora_scale": randn(*shape)})
        found, of_rows = deltas.magnitude(lora, module, OUT)
        assert (found.shape, of_rows) == ((OUT if per_row else IN,), per_row)

    def test_of_one_row_is_of_it(self) -> None:
        lora, module = lora_of("lora", {"dora_scale": randn(1, 1)})
        assert deltas.magnitude(lora, module, 1)[1]


def test_a_bias_is_a_column() -> None:
    lora, module = lora_of("full", {"diff_b": randn(5)})
    assert not deltas.has_weight(module)
    assert torch.equal(deltas.bias_change(lora, module).dense(), randn(5)[:, None])
