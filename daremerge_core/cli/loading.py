"""What a command loads stays to its end, and Python need not look for garbage among it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ends", "has_the_process", "loading"]

_alone = False


def has_the_process() -> None:
    """Say that this process runs one command and nothing else; until then, its garbage is not ours to see to."""
    global _alone
    _alone = True


@contextmanager
def loading() -> Iterator[None]:
    """Modules are loaded here: a hundred thousand objects, which Python would look through again and again.

    What they leave behind is never given back. What a command computes with them is, as ever.
    """
    if not _alone:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def ends() -> None:
    """The command is done, and the process ends: a last look for garbage takes longer than all else that is left."""
    if _alone:
        gc.freeze()
