"""Two paths of one file system changing places at once: a path that is being replaced is never missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["exchange"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(one: Path, other: Path) -> bool:
    """What stands at each path then stands at the other (renameat2(2)); False where the system cannot do that.

    Raises ``OSError`` where it can and fails.
    """
    if sys.platform != "linux":
        return False
    import ctypes
    import errno

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # a C library of before 2018
        return False
    if not renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):  # this file system, or this kernel, does not know how
        return False
    raise OSError(code, os.strerror(code), str(other))
