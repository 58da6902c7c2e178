"""Keeping the C library from giving scratch memory back between spans.

glibc returns freed blocks of a span's size to the system at once, and every next span pays for having the pages
mapped and zeroed again: measured, most of a merge's time. Nothing here changes a result.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["freed_memory_kept"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_DEFAULT = 128 << 10
_BLOCK = 32 << 20  # the largest threshold that glibc takes


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While open, blocks up to 32 MiB are reused; after that, what is unused goes back. Does nothing without glibc."""
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _BLOCK)
    libc.mallopt(_M_TRIM_THRESHOLD, 4 * _BLOCK)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _DEFAULT)
        libc.mallopt(_M_TRIM_THRESHOLD, _DEFAULT)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
