"""What must hold of every case, whatever the bytes."""

from __future__ import annotations

import os
import signal
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["Breach", "bounded_memory", "time_limit", "watched"]


class Breach(BaseException):
    """A promise broken. Not an ``Exception``, so that no handler in the program takes it for its own."""


_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "os.startfile",
    "socket.", "ctypes.dlopen", "pty.spawn", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.link", "os.symlink",
    "os.truncate", "shutil.", "pickle.find_class", "urllib.", "webbrowser.",
)  # fmt: skip
"""Beginnings of the names of audit events that no reader may cause."""

_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.")
"""Of these: what one that changes files may do in its folder."""


class _Watch:
    """The audit hook of this process: Python never lets go of one, so it is added once and switched on and off."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.anywhere = False
        self.changes = False
        self.breaches: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "open":
            path, mode = str(arguments[0]), arguments[1]
            library = path.startswith((sys.prefix, sys.base_prefix)) or path.endswith((".py", ".pyc", ".so"))
            reads = mode is None or not set("wax+") & set(mode)
            if path.isdigit() or path.startswith(self.folder) or (reads and (library or self.anywhere)):
                return
            if not Path(path).is_absolute():
                return  # relative to the folder of the case, which is the working one
            self._breach(f"opened {path!r}")
        elif event == "ctypes.dlopen" and arguments[0] is None:
            return  # the process itself, which is loaded
        elif event.startswith(_FORBIDDEN):
            if self.changes and event.startswith(_CHANGES) and all(map(self._is_within, _places(event, arguments))):
                return
            self._breach(f"{event}{arguments!r:.200}")

    def _is_within(self, path: str) -> bool:
        return self.folder is not None and (path == self.folder or path.startswith(self.folder + os.sep))

    def _breach(self, what: str) -> None:
        self.breaches.append(what)  # kept, should somebody swallow the exception
        raise Breach(what)


def _places(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """Real paths of what an event changes: folders above by way of no link, the last name as it is."""
    changed = arguments[1:2] if event in ("os.symlink", "os.link") else arguments
    paths = [one for one in changed if isinstance(one, (str, bytes, Path))]
    opened = [one for one in arguments if type(one) is int and one >= 0 and not event.startswith("shutil.")]
    # The number of an open file, or that of the folder that a name is in.
    above = Path(os.readlink(f"/proc/self/fd/{opened[0]}") if opened else "")
    places = [above / os.fsdecode(path) for path in paths] or [above]
    return [str(Path(os.path.realpath(place.parent)) / place.name) for place in places]


_watch: _Watch | None = None


@contextmanager
def watched(folder: Path, *, reads_anywhere: bool = False, changes: bool = False) -> Iterator[None]:
    """Nothing is run, nothing is opened but in ``folder``. Raises :class:`Breach` otherwise, here if not there.

    With ``reads_anywhere``, files elsewhere may be read; with ``changes``, files in the folder made and removed.
    """
    global _watch  # one for the process: see _Watch
    _watch = _watch or _Watch()
    _watch.folder, _watch.breaches = str(folder), []
    _watch.anywhere, _watch.changes = reads_anywhere, changes
    try:
        yield
    finally:
        _watch.folder = None
    if _watch.breaches:
        raise Breach(_watch.breaches[0])


@contextmanager
def bounded_memory(most: int) -> Iterator[None]:
    """At most so many bytes of Python's memory at any time. Raises :class:`Breach` for more."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > most:
        raise Breach(f"{peak:,} bytes of memory, and {most:,} are the most for a file of that size")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`Breach` in a case that hangs. Where the system has no timers, do nothing."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Breach(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
