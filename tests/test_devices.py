"""Other devices: verbs there, in spans of another size, give the bytes of the CPU.

``cpu:0`` is the CPU by a name that the engine takes for a device: the code for devices runs, without one.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_engine import STEPS, run

from daremerge_core import devices, engine

FOUND = ["cpu:0"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()


@pytest.mark.parametrize("device", FOUND)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step['op']}-{step.get('ties', '')}")
def test_a_device_gives_the_bytes_of_the_cpu(models: SimpleNamespace, step: dict[str, Any], device: str) -> None:
    if device != "cpu:0" and step["op"] not in ("merge.dare", "merge.halfway"):
        pytest.skip("this method does not promise it")
    expected = run(models, step, device="cpu")
    assert run(models, step, device=device) == expected
    assert run(models, step, device=device, threads=3, memory=1 << 16) == expected


@pytest.mark.parametrize("device", FOUND)
def test_masks_and_chains_on_a_device(models: SimpleNamespace, device: str) -> None:
    from daremerge_core.api import merge_recipe
    from daremerge_core.engine import Settings

    recipe = {
        "models": {name: f"{name}.safetensors" for name in ("a", "b", "base")},
        "steps": {
            "some": {"op": "mask.random", "model": "a", "probability": 0.5, "seed": 3},
            "first": {"op": "merge.lerp", "a": "a", "b": "b", "ratio": 0.25},
            "second": {"op": "merge.dare", "a": "first", "b": "b", "base": "base", "mask": "some", "seed": 7},
        },
        "output": "second",
    }
    written = []
    for where in ("cpu", device):
        path = models.folder / "out.safetensors"
        merge_recipe(recipe, path, folder=models.folder, overwrite=True, settings=Settings(device=where))
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_spans_are_of_the_devices_size(models: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def span_on(name: str, per_element: int, workers: int) -> int:
        asked.append((name, workers))
        return 16

    spans = []
    whole = engine._write
    monkeypatch.setattr(engine, "span_on", span_on)
    monkeypatch.setattr(engine, "_write", lambda *args: spans.extend(args[2].spans) or whole(*args))
    run(models, STEPS[0], device="cpu:0", threads=2)
    assert set(asked) == {("cpu:0", 2)}
    assert max(span.numel for span in spans) == 16


def test_half_of_what_is_free_on_a_device_is_shared_by_the_workers() -> None:
    assert devices._span_within(80 << 30, per_element=40, workers=16) == devices.DEVICE_SPAN
    assert devices._span_within(1 << 30, per_element=64, workers=4) == (1 << 29) // 256
    assert devices._span_within(0, per_element=64, workers=4) == 1


def test_workers_do_their_jobs_in_an_order_of_the_device(
    models: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager
    from threading import get_ident

    inside: set[int] = set()

    @contextmanager
    def in_order(name: str) -> Any:
        inside.add(get_ident())
        yield
        inside.discard(get_ident())

    seen = []
    whole = engine._write
    monkeypatch.setattr(engine, "in_order", in_order)
    monkeypatch.setattr(engine, "_write", lambda *args: seen.append(get_ident() in inside) or whole(*args))
    run(models, STEPS[0], device="cpu:0", threads=2)
    assert seen
    assert all(seen)
    assert not inside


def test_copies_are_whole() -> None:
    values = torch.arange(10, dtype=torch.float16)
    for device in map(torch.device, FOUND):
        there = devices.to_device(values, device)
        assert torch.equal(devices.to_cpu(there), values)
    assert devices.to_device(values, values.device) is values
    assert devices.to_cpu(values) is values
    assert devices._page_locked_like(values).shape == values.shape  # also where the system locks no pages
