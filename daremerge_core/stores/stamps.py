"""Whether files are still those that were opened: by what the system knows of them, without reading them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Stamps", "changed", "stamps"]

Stamps = Mapping[Path, "tuple[int, int, int, int] | None"]
"""Device, inode, size and time of the last change in nanoseconds; None where there is no file."""


def stamps(path: Path) -> Stamps:
    """Of a file, or of the files in a folder."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
    except OSError:
        files = [path]
    return {file: _stamp(file) for file in files}


def changed(before: Stamps) -> list[Path]:
    """Those that are gone, are other files now, or were written to."""
    return [path for path, stamp in before.items() if _stamp(path) != stamp]


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
