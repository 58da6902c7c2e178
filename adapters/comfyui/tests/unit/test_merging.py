"""A merge on live models: what it patches, that it can be run again, kept on disk, cancelled, helped out of memory."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import BIAS, CONV, TO_K, TO_Q, live, loaded, randn, unet, with_lora
from test_weights import kohya, read

from daremerge_comfyui import running
from daremerge_comfyui.generated import merged_output
from daremerge_comfyui.graph import Source, Step, flatten
from daremerge_comfyui.made import made_of
from daremerge_comfyui.running import Stopped, compute, plan_of, report_of_merge
from daremerge_comfyui.values import LayerGradient, ModelMask, gradient_value, mask_value
from daremerge_core.engine import Settings
from daremerge_core.errors import DeviceMemoryError


def lerp(a: Any, b: Any, **options: Any) -> Step:
    return Step("merge.lerp", {"ratio": 0.5, **options}, {"a": Source(a), "b": Source(b)})


def dare(a: Any, b: Any, **inputs: Any) -> Step:
    options = {"drop_rate": 0.5, "ties": "sum", "seed": 3}
    return Step("merge.dare", options, {"a": Source(a), "b": Source(b), **inputs})


def merged(a: Any, step: Step, keep: running.Keep = "memory") -> Any:
    return merged_output(a, step, keep)


def test_half_stays_half_however_often_and_whatever_is_loaded() -> None:
    a, b = unet(1), unet(2)
    first = merged(a, lerp(a, b))
    wanted = read(first)
    assert torch.equal(wanted[TO_Q], ((read(a)[TO_Q].float() + read(b)[TO_Q].float()) / 2).half())
    loaded(first)
    second = merged(a, lerp(a, b))
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in read(second).items())


def test_neither_model_changes() -> None:
    a, b = unet(1), with_lora(unet(2), kohya())
    before = live(a), live(b), dict(a.patches), b.patches_uuid
    merged(a, dare(a, b))
    assert (live(a), live(b), dict(a.patches), b.patches_uuid) == before


def test_only_what_changed_is_patched_once_and_as_stored() -> None:
    a, b = unet(1), unet(2)
    result = merged(a, lerp(a, b, include="*.attn1.*"))
    assert set(result.patches) == {key for key in read(a) if ".attn1." in key}
    for patches in result.patches.values():
        [(strength, (kind, (tensor,)), strength_model, offset, function)] = patches
        assert (strength, kind, strength_model, offset, function) == (1.0, "set", 1.0, None, None)
        assert tensor.dtype == torch.float16
        assert tensor.is_contiguous()
        assert tensor.device.type == "cpu"


def test_patches_of_changed_weights_go_and_others_stay() -> None:
    a, b = with_lora(unet(1), kohya()), unet(2)
    clone = a.clone()
    clone.add_patches({CONV: (randn(32, 32, 3, 3),)}, 1.0)
    result = merged(clone, lerp(clone, b, include="*.attn1.*"))
    assert len(result.patches[TO_Q]) == 1  # the LoRA is in the merge
    assert result.patches[CONV] == clone.patches[CONV]
    wanted = (read(clone)[TO_Q].float() + read(b)[TO_Q].float()) / 2
    assert torch.equal(read(result)[TO_Q], wanted.half())


def test_a_lora_after_a_merge_works_on_the_merge() -> None:
    a, b = unet(1), unet(2)
    result = with_lora(merged(a, lerp(a, b)), kohya())
    plain = with_lora(unet(1), kohya())
    change = read(plain)[TO_Q].float() - read(unet(1))[TO_Q].float()
    assert torch.allclose(read(result)[TO_Q].float(), read(merged(a, lerp(a, b)))[TO_Q].float() + change, atol=2e-3)


def test_fp8_is_merged_and_attached_in_bf16() -> None:
    a, b = unet(1, torch.float8_e4m3fn), unet(2, torch.float8_e4m3fn)
    result = merged(a, lerp(a, b))
    [(_, (_, (tensor,)), *_)] = result.patches[TO_Q]
    assert tensor.dtype == torch.bfloat16
    assert torch.equal(tensor, ((read(a)[TO_Q].float() + read(b)[TO_Q].float()) / 2).bfloat16())


def test_not_a_number_stays_where_it_is() -> None:
    a, b = unet(1), unet(2)
    with torch.no_grad():
        dict(a.model.named_parameters())[BIAS][0] = torch.nan
    result = read(merged(a, lerp(a, b)))[BIAS]
    assert result.isnan().tolist() == [True] + [False] * 31


def test_memory_and_disk_hold_the_same(tmp_path: Path) -> None:
    a, b = unet(1), unet(2)
    memory, disk = (compute(dare(a, b), keep=keep).tensors for keep in ("memory", "disk"))
    assert memory.keys() == disk.keys()
    assert all(torch.equal(memory[key], tensor) for key, tensor in disk.items())
    assert not list((tmp_path / "temp").iterdir())  # it is mapped, and goes with the last tensor


def test_a_result_as_large_as_memory_goes_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import psutil

    step = lerp(unet(1), unet(2))
    assert "in memory" in compute(step).summary
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 10))
    assert "on disk" in compute(step).summary


@pytest.mark.parametrize("failures", [1, 2])
def test_where_the_device_is_full_smaller_pieces_then_the_cpu(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management as management

    a, b = unet(1), unet(2)
    wanted = compute(dare(a, b), keep="memory").tensors
    tried: list[Settings] = []
    computed = running._computed

    def on_a_small_device(plan: Any, settings: Settings, **rest: Any) -> Any:
        tried.append(settings)
        if len(tried) <= failures:
            raise DeviceMemoryError("the device ran out of memory")
        return computed(plan, Settings(memory=settings.memory), **rest)

    monkeypatch.setattr(management, "get_torch_device", lambda: torch.device("cuda:0"))
    monkeypatch.setattr(management, "free_memory", lambda *_: None)
    monkeypatch.setattr(running, "_computed", on_a_small_device)
    found = compute(dare(a, b), keep="memory").tensors
    assert [one.device for one in tried] == ["cuda:0", "cuda:0", "cpu"][: failures + 1]
    assert tried[1].memory < tried[0].memory
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def test_cancel_ends_the_work_and_leaves_nothing(tmp_path: Path) -> None:
    import comfy.model_management as management

    a, b = unet(1), unet(2)
    step = Step("merge.dare", {"iterations": 100, "ties": "sum"}, {"a": Source(a), "b": Source(b)})
    timer = threading.Timer(0.2, management.interrupt_current_processing)
    timer.start()
    started = time.monotonic()
    with pytest.raises(management.InterruptProcessingException):
        _again_and_again(step)  # the models are small
    assert time.monotonic() - started < 20
    assert not management.processing_interrupted()  # the next run is not cancelled too
    assert not a.patches
    assert not [path for path in (tmp_path / "temp").iterdir() if path.stat().st_size]


def _again_and_again(step: Step) -> None:
    for _ in range(200):
        compute(step, keep="disk")


def test_nodes_run_under_inference_mode() -> None:
    a, b = unet(1), unet(2)
    outside = compute(dare(a, b), keep="memory").tensors
    with torch.inference_mode():
        inside = compute(dare(a, b), keep="memory").tensors
    assert all(torch.equal(inside[key], tensor) for key, tensor in outside.items())


def test_errors_are_in_the_canvas_words() -> None:
    a, b = unet(1), unet(2)
    with pytest.raises(Stopped, match=r"nothing\.like\.this") as stopped:
        compute(lerp(a, b, include="nothing.like.this"))
    assert "--" not in str(stopped.value)
    with pytest.raises(Stopped, match="greater than or equal to 0"):
        compute(Step("merge.dare", {"drop_rate": -1.0}, {"a": Source(a), "b": Source(b)}))


# --- masks and gradients --------------------------------------------------------------------------------------


def random_mask(model: Any, probability: float = 0.5) -> Step:
    return Step("mask.random", {"probability": probability, "seed": 1}, {"model": Source(model)})


def test_a_mask_serves_other_packs_too() -> None:
    mask = ModelMask(random_mask(unet(1)))
    layer = mask.get_layer_mask(TO_Q)
    assert layer is not None
    assert (layer.dtype, tuple(layer.shape)) == (torch.bool, (32, 32))
    assert mask.get_layer_mask("nothing") is None
    assert set(mask.state_dict) == set(read(unet(1)))


def test_a_mask_of_another_pack_is_taken() -> None:
    class Foreign:
        def __init__(self) -> None:
            self.state_dict = {TO_Q: torch.ones(32, 32)}

        def get_layer_mask(self, key: str) -> torch.Tensor | None:
            return self.state_dict.get(key)

    a, b = unet(1), unet(2)
    step = Step("merge.lerp", {"ratio": 0.0}, {"a": Source(a), "b": Source(b), "mask": mask_value(Foreign())})
    assert set(compute(step).tensors) == {TO_Q}


def test_a_gradient_is_a_dict_and_may_be_written_into() -> None:
    a, b = unet(1), unet(2)
    gradient = LayerGradient(Step("gradient.pattern", {"layers": {"*": 0.25}}, {"model": Source(a)}))
    assert gradient[TO_Q] == 0.25
    assert isinstance(gradient_value(gradient), Step)
    gradient[TO_Q] = 1.0
    del gradient[TO_K]
    value = gradient_value(gradient)
    tensors = compute(Step("merge.lerp", {}, {"a": Source(a), "b": Source(b), "gradient": value})).tensors
    assert {TO_Q, TO_K}.isdisjoint(tensors)
    assert CONV in tensors


def test_a_mask_reads_the_models_as_they_are_when_it_is_used() -> None:
    """A cached mask outlives runs in which its models are loaded, patched and unloaded."""
    a, base = unet(1), unet(0)
    inputs = {"model": Source(a), "base": Source(base)}
    mask = ModelMask(Step("mask.magnitude", {"threshold": 0.5}, inputs))
    before = mask.get_layer_mask(TO_Q)
    loaded(with_lora(a, kohya()))
    after = mask.get_layer_mask(TO_Q)
    assert before is not None
    assert after is not None
    assert torch.equal(before, after)


# --- what a result remembers ------------------------------------------------------------------------------------


def test_a_result_remembers_its_making_without_holding_its_models() -> None:
    import gc
    import weakref

    a, b = unet(1), unet(2)
    result = merged(a, lerp(a, b))
    made, patched = made_of(result)
    assert made is not None
    assert not patched
    found = report_of_merge(made.graph(), "merge", {})
    assert found.data
    gone = weakref.ref(b)
    del b, found
    gc.collect()
    assert gone() is None
    with pytest.raises(Stopped, match="no longer in memory"):
        made.graph()


def test_another_nodes_patch_is_noticed() -> None:
    a, b = unet(1), unet(2)
    made, patched = made_of(with_lora(merged(a, lerp(a, b)), kohya()))
    assert made is not None
    assert patched
    assert made_of(a) == (None, False)


def test_one_model_on_two_sockets_is_read_once() -> None:
    a, b = unet(1), unet(2)
    step = dare(a, b, mask=random_mask(a), base=Source(a))
    _, flat = flatten(step)
    assert sorted(flat.sources) == ["a", "b"]
    assert plan_of(step).decisions
