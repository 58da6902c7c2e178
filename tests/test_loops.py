"""Loops over plain arrays against the verbs they stand for: the same bits for any dtype, size, offset and mask."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core import MemoryModel, Span, discover, loops, view
from daremerge_core.errors import ComponentError
from daremerge_core.stores import BitMask, SafetensorsFile, write_model
from daremerge_core.stores.tensors import raw_bytes
from daremerge_core.views import CastView

pytestmark = pytest.mark.skipif(not loops.available(), reason="numba is not installed")

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
KEY = "model.diffusion_model.middle_block.1.weight"
METHODS: dict[str, Mapping[str, Any]] = {
    "lerp": {"ratio": 0.3},
    "cosine": {"ratio": 0.8},
    "scaled-add": {"ratio": 0.3},
    "add-difference": {"ratio": 0.4, "alpha": -0.7},
    "dare": {"ratio": 0.25, "seed": 3},
    "task-arithmetic": {"scale": 0.4},
    "dare-linear": {"density": [0.5, 1.0, 0.1], "weights": [1.0, 0.0, -0.5]},
    "dare-ties": {"weights": [0.5, 1.0, 2.0]},
    "ties": {"density": [0.2, 0.6, 1.0], "normalize": "count"},
}
TWO, BASE = {"lerp", "cosine", "scaled-add", "add-difference", "dare"}, {"lerp", "cosine", "scaled-add"}


@contextmanager
def plain() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAREMERGE_FAST", "0")
        yield


def tensors(dtype: str, numel: int, seed: int) -> dict[str, Tensor]:
    """Weights of all sizes, a few of them zero, infinite and subnormal."""
    made = torch.Generator().manual_seed(seed)
    values = torch.randn(numel, generator=made) * 10.0 ** torch.randint(-8, 4, (numel,), generator=made)
    values[torch.rand(numel, generator=made) < 0.1] = 0.0
    values[torch.rand(numel, generator=made) < 0.01] = float("inf")
    return {KEY: values.to(DTYPES[dtype])}


def step(method: str, dtypes: list[str], numel: int, **options: Any) -> Any:
    base, *models = (MemoryModel(tensors(dtype, numel, seed)) for seed, dtype in enumerate(dtypes))
    ports: dict[str, Any] = dict(zip("ab", models, strict=False)) if method in TWO else {"models": models}
    if method not in BASE:
        ports["base"] = base
    return discover().get("merge", method)(**{**ports, **METHODS[method], **options})


def bits(tensor: Tensor) -> bytes:
    """NaN in one pattern: which it is no arithmetic promises."""
    clean = torch.where(tensor.isnan(), torch.full_like(tensor, float("nan")), tensor)
    return bytes(raw_bytes(clean.contiguous()))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_bits_of_the_verb(method: str, data: st.DataObject) -> None:
    dtypes = data.draw(st.lists(st.sampled_from(sorted(DTYPES)), min_size=4, max_size=4))
    numel = data.draw(st.sampled_from([1, 7, 1000, loops.BLOCK - 1, loops.BLOCK, loops.BLOCK + 1, 2 * loops.BLOCK + 5]))
    start = data.draw(st.integers(0, numel - 1))
    span = Span(start, data.draw(st.integers(start, numel)))
    fast, reference = view(step(method, dtypes, numel)), view(step(method, dtypes, numel))
    found, raw = fast.read(KEY, span), bytes(fast.raw(KEY, span))
    assert fast.without_torch(KEY) is False, "a dict in memory is read by torch"
    with plain():
        expected = reference.read(KEY, span)
    assert bits(found) == bits(expected)
    assert raw == bytes(raw_bytes(found))


@pytest.mark.parametrize("method", METHODS)
def test_every_one_of_them_has_a_loop(method: str) -> None:
    merged = view(step(method, ["F16"] * 4, 100))
    merged.read(KEY)
    assert merged._loop(KEY) is not None


@pytest.mark.parametrize("stored", sorted(DTYPES))
@pytest.mark.parametrize("result", sorted(DTYPES))
def test_where_a_mask_selects_and_in_another_dtype(stored: str, result: str) -> None:
    numel = loops.BLOCK + 1000
    chosen = torch.rand(numel, generator=torch.Generator().manual_seed(9)) < 0.5
    mask = BitMask(MemoryModel({KEY: chosen}))

    def merged() -> Tensor:
        return view(step("dare", [stored] * 3, numel, mask=mask), dtype=result).read(KEY, Span(5, numel - 3))

    found = merged()
    with plain():
        expected = merged()
    assert found.dtype == DTYPES[result]
    assert bits(found) == bits(expected)


@pytest.mark.parametrize("chosen", [True, False])
def test_where_a_mask_selects_all_or_nothing(chosen: bool) -> None:
    mask = BitMask(MemoryModel({KEY: torch.full((100,), chosen)}))
    masked, free = view(step("lerp", ["F16"] * 3, 100, mask=mask)), view(step("lerp", ["F16"] * 3, 100))
    assert bits(masked.read(KEY)) == bits(free.read(KEY) if chosen else free.anchor.read(KEY))


@pytest.mark.parametrize("stored", sorted(DTYPES))
@pytest.mark.parametrize("wanted", sorted(DTYPES))
@given(patterns=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_conversions_are_those_of_torch(stored: str, wanted: str, patterns: list[int]) -> None:
    width = np.uint32 if stored == "F32" else np.uint16
    raw = np.array(patterns, np.uint32).astype(width)
    model = MemoryModel({KEY: torch.frombuffer(bytearray(raw), dtype=DTYPES[stored])})
    found = CastView(model, wanted).raw(KEY, Span(0, len(patterns)))
    expected = model.read(KEY).to(DTYPES[wanted])
    again = torch.frombuffer(bytearray(found), dtype=DTYPES[wanted])
    assert bits(again) == bits(expected)


def test_every_half_and_every_bfloat_is_read_exactly() -> None:
    raw = np.arange(1 << 16, dtype=np.uint16)
    for stored in ("F16", "BF16"):
        found = loops.converted(raw.data.cast("B"), stored, "F32")
        expected = torch.from_numpy(raw.view(np.int16).copy()).view(DTYPES[stored]).float()
        assert bits(torch.from_numpy(found)) == bits(expected)


@pytest.mark.parametrize("value", [0.0, 1.0, 65504.0, 65519.9, 65520.0, 1e-8, 2.0**-24, float("inf"), float("nan")])
def test_what_is_not_finite_is_counted(value: float) -> None:
    for dtype, torch_dtype in DTYPES.items():
        tensor = torch.tensor([1.0, value, -value]).to(torch_dtype)
        data = tensor.view(torch.uint8).numpy().data
        assert loops.count_nonfinite(data, dtype) == int((~tensor.isfinite()).sum())


def test_misaligned_data_of_an_old_file_are_read(tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
    path = tmp_path / "odd.safetensors"
    numbers = np.array([1.5, -2.0, 3.25], "<f4")
    path.write_bytes(len(header).to_bytes(8, "little") + header + numbers.tobytes())
    with SafetensorsFile(path) as model:
        assert loops.as_elements(model.raw("x", Span(0, 3)), "F32").tolist() == numbers.tolist()


@pytest.mark.parametrize("command", ["merge lerp a b", "merge dare a b --base base", "merge ties a b --base base"])
def test_a_merge_of_loops_never_loads_torch(tmp_path: Path, command: str) -> None:
    for seed, name in enumerate(("a", "b", "base")):
        finite = {key: tensor.nan_to_num(posinf=1.0) for key, tensor in tensors("F16", 5000, seed).items()}
        write_model(tmp_path / f"{name}.safetensors", finite)
    words = [f"{word}.safetensors" if word in ("a", "b", "base") else word for word in command.split()]
    arguments = [*words, "-o", "out.safetensors"]
    code = (
        "import sys; from daremerge_core.cli import make_cli\n"
        f"make_cli()({arguments!r}, standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.safetensors").exists()


def test_a_model_that_gives_too_few_elements_is_refused_before_a_loop_reads_past_them() -> None:
    class Short(MemoryModel):
        def raw(self, key: str, span: Span) -> memoryview:
            return memoryview(bytearray(6))

    whole = MemoryModel(tensors("F16", 100, 0))
    merged = view(discover().get("merge", "lerp")(a=whole, b=Short(tensors("F16", 100, 1)), ratio=0.3))
    with pytest.raises(ComponentError, match="3 elements where 100 were asked for"):
        merged.raw(KEY, Span(0, 100))
