"""What the numbers of a benchmark depend on: the machine, and what is installed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["facts"]

PACKAGES = ("daremerge-core", "torch", "numba", "numpy", "safetensors")


def facts(folder: Path) -> dict[str, Any]:
    """Words and figures by name; what the system does not tell is left out. ``folder`` is where the files lie."""
    installed = {one.name: one.version for one in importlib.metadata.distributions()}
    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads per core": _threads_per_core(),
        "memory, GiB": _memory(),
        "file system": _file_system(folder),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: installed.get(name, "missing") for name in PACKAGES},
    }
    return {name: value for name, value in found.items() if value is not None}


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _threads_per_core() -> int | None:
    for line in _lines("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list"):
        return len(line.replace("-", ",").split(","))
    return None


def _memory() -> float | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / (1 << 20), 1)
    return None


def _file_system(folder: Path) -> str | None:
    """Of the mount that holds the folder: the longest of those that lead to it."""
    mounts = [line.split() for line in _lines("/proc/mounts")]
    above = [(len(words[1]), words[2]) for words in mounts if folder.resolve().is_relative_to(words[1])]
    return max(above)[1] if above else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
