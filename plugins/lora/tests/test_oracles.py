"""The oracles load, and leave nothing behind."""

from __future__ import annotations

import sys

from .oracles import comfy_module, peft_module


def test_comfyui_loads_and_leaves_no_trace() -> None:
    before = dict(sys.modules)
    assert callable(comfy_module("comfy.lora").calculate_weight)
    assert comfy_module("comfy.weight_adapter").adapters
    assert not any(name.partition(".")[0] == "comfy" for name in sys.modules.keys() - before.keys())


def test_peft_loads_and_leaves_no_trace() -> None:
    before = dict(sys.modules)
    assert issubclass(peft_module("peft.tuners.lora.layer").Linear, object)
    assert not sys.modules.keys() - before.keys() & {"transformers", "accelerate", "peft"}
