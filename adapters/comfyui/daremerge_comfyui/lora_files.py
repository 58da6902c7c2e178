"""LoRA files in ComfyUI's ``loras`` folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from daremerge_core import open_model

from .origins import File
from .running import Stopped, explained
from .values import Lora

__all__ = ["lora_names", "read_lora", "stamp"]

FOLDER = "loras"


def lora_names() -> list[str]:
    """The files that a loader offers."""
    import folder_paths

    return list(folder_paths.get_filename_list(FOLDER))


def read_lora(name: str) -> Lora:
    """The LoRA of that name: its tensors mapped into memory, weights alone from a pickle. With its metadata."""
    import folder_paths

    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise Stopped(f"there is no file {name!r} in the loras folder\nPress R to load the lists again, and choose.")
    with explained():
        model = open_model(path)
        return Lora({key: model.read(key) for key in model.keys()}, model.metadata, origin=File(FOLDER, name))


def stamp(inputs: Mapping[str, Any]) -> Any:
    """What changes when the file does: its path, time and size."""
    import folder_paths

    path = folder_paths.get_full_path(FOLDER, inputs.get("lora_name") or "")
    if path is None:
        return None
    found = os.stat(path)
    return path, found.st_mtime_ns, found.st_size
