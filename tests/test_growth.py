"""Reading a file takes steps in proportion to its size: twice the file, about twice the steps.

Lines of Python are counted rather than seconds, so that a busy machine changes nothing. What a line takes that is not
Python's is not seen here; the fuzzer's limit of seconds is for that.
"""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

targets = pytest.importorskip("fuzz.targets", reason="needs the folder tests on the path").TARGETS

SMALL = 150
"""Of what is doubled. Limits on how much of a thing a file may have lie above twice that, but for depth."""

MOST = 2.3
"""Times the steps, of twice as much."""

Make = Callable[[int], bytes]


def _safetensors(tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    position, header = 0, {"__metadata__": metadata} if metadata else {}
    for key, shape in tensors.items():
        size = 4
        for length in shape:
            size *= length
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [position, position + size]}  # type: ignore[dict-item]
        position += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(position)


def _pickled(size: int) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save({f"layer.{number}.weight": torch.zeros(2) for number in range(size)}, file)
    return file.getvalue()


def _values(size: int) -> bytes:
    """A pickle of plain values, which the program looks through opcode by opcode."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([("a", [number, "b"]) for number in range(size)], protocol=2))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def _recipe(**fields: Any) -> bytes:
    models = {"a": "a.safetensors", "b": "b.safetensors"}
    steps = {"s0": {"op": "merge.lerp", "a": "a", "b": "b", "ratio": 0.5}}
    return json.dumps({"models": models, "steps": steps, "output": "s0", **fields}).encode()


def _as_yaml(content: bytes) -> bytes:
    import yaml

    return yaml.safe_dump(json.loads(content)).encode()


def _steps(size: int) -> bytes:
    steps: dict[str, Any] = {"s0": {"op": "merge.lerp", "a": "a", "b": "b", "ratio": 0.5}}
    for number in range(1, size):
        steps[f"s{number}"] = {"op": "merge.lerp", "a": f"s{number // 2}", "b": "b", "ratio": 0.5}
    return _recipe(steps=steps, output=f"s{size - 1}")


def _mergekit(size: int) -> bytes:
    models = [{"model": f"m{number}.safetensors", "parameters": {"weight": 0.1}} for number in range(size)]
    return json.dumps({"merge_method": "linear", "models": models, "dtype": "float16"}).encode()


def _slices(size: int) -> bytes:
    return "\n".join(
        ["merge_method: passthrough", "slices:"]
        + [f"  - sources: [{{model: a, layer_range: [{number}, {number + 1}]}}]" for number in range(size)]
    ).encode()


GROWING: dict[str, tuple[str, Make]] = {
    "tensors": ("header", lambda size: _safetensors({f"layer.{number}.weight": [2] for number in range(size)})),
    "a model": ("model", lambda size: _safetensors({f"layer.{number}.weight": [2] for number in range(size)})),
    "blocks": (
        "model",
        lambda size: _safetensors(
            {f"model.diffusion_model.input_blocks.{number}.0.weight": [2, 2] for number in range(size)}
        ),
    ),
    "metadata": ("model", lambda size: _safetensors({"a": [2]}, {f"key {number}": "x" for number in range(size)})),
    "a long name": ("header", lambda size: _safetensors({"a." * size: [2]})),
    "masks": ("mask", lambda size: _safetensors({f"layer.{number}": [2] for number in range(size)})),
    "an index": (
        "index",
        lambda size: json.dumps(
            {"weight_map": {f"layer.{number}": "model-00001-of-00002.safetensors" for number in range(size)}}
        ).encode(),
    ),
    "a gradient": (
        "gradient",
        lambda size: json.dumps({"gradient": {f"layer.{number}": 0.5 for number in range(size)}}).encode(),
    ),
    "a configuration": (
        "config",
        lambda size: json.dumps({f"key{number}": {"dtype": "float32"} for number in range(size)}).encode(),
    ),
    "LoRA modules": (
        "lora",
        lambda size: _safetensors(
            {
                f"lora_unet_down_blocks_{number}_attentions_0_proj_in.lora_{side}.weight": [2, 2]
                for number in range(size)
                for side in ("down", "up")
            }
        ),
    ),
    "LoRA tags": (
        "lora",
        lambda size: _safetensors(
            {"lora_unet_a.lora_down.weight": [2, 2], "lora_unet_a.lora_up.weight": [2, 2]},
            {"ss_tag_frequency": json.dumps({"set": {f"tag {number}": 1 for number in range(size)}})},
        ),
    ),
    "a pickle": ("pickle", _pickled),
    "values of a pickle": ("pickle", _values),
    "models of a recipe": (
        "recipe",
        lambda size: _recipe(models={"a": "a", "b": "b", **{f"m{number}": "a" for number in range(size)}}),
    ),
    "steps of a recipe": ("recipe", _steps),
    "steps in YAML": ("recipe", lambda size: _as_yaml(_steps(size))),
    "brackets in YAML": ("recipe", lambda size: b"a: " + b"[" * size),
    "a list in YAML": ("recipe", lambda size: b"models: [" + b"x, " * size + b"]"),
    "lines in YAML": ("recipe", lambda size: b"models:\n" + b"  # nothing\n\n" * size),
    "folded text in YAML": ("recipe", lambda size: b'output: "' + b"word\n  " * size + b'"'),
    "models of mergekit": ("mergekit", _mergekit),
    "slices of mergekit": ("mergekit", _slices),
    "what a report says": (
        "render",
        lambda size: json.dumps({"title": "t", "text": "| a |\n" * size, "data": {"x": ["\x1b[31m"] * size}}).encode(),
    ),
}


@contextmanager
def _counted() -> Any:
    """The lines that run meanwhile, in a list of one number."""
    lines = [0]

    def count(frame: FrameType, event: str, argument: object) -> Any:
        lines[0] += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield lines
    finally:
        sys.settrace(before)


def _lines(name: str, content: bytes, folder: Path) -> int:
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with _counted() as lines:
            targets[name](content, folder)
    return int(lines[0])


@pytest.mark.parametrize("what", GROWING)
def test_twice_as_much_takes_about_twice_the_steps(what: str, tmp_path: Path) -> None:
    name, make = GROWING[what]
    for number, size in enumerate((SMALL, 2 * SMALL)):  # imports, and fills caches
        _lines(name, make(size), tmp_path / f"warm-up {number}")
    once, twice, fourfold = (_lines(name, make(SMALL * by), tmp_path / f"{by}") for by in (1, 2, 4))
    # What it takes at any size is left out.
    assert fourfold - twice <= MOST * max(twice - once, SMALL)


def test_the_test_can_fail(tmp_path: Path) -> None:
    with _counted() as lines:
        for _ in range(10):
            with nullcontext():
                pass
    assert lines[0] > 10
