"""Progress on a terminal (a bar) or in a log (a line now and then)."""

from __future__ import annotations

import threading
import time
from typing import IO, Any

from ..engine import Progress, Quiet
from ..sizes import format_size

__all__ = ["Bar", "Lines", "make_progress"]


def make_progress(stream: IO[str], *, quiet: bool) -> Progress:
    """A bar where ``stream`` is a terminal, plain lines where it is not."""
    if quiet:
        return Quiet()
    return Bar(stream) if stream.isatty() else Lines(stream)


class Bar:
    """Bytes, rate and time left, drawn by rich."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._progress: Any = None
        self._task: Any = None

    def start(self, total: int, what: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(file=self._stream), transient=True)
        self._task = self._progress.add_task(what, total=total)
        self._progress.start()

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def finish(self) -> None:
        if self._progress is not None:
            self._progress.stop()


class Lines:
    """One line every few seconds."""

    def __init__(self, stream: IO[str], *, every: float = 5.0) -> None:
        self._stream = stream
        self._every = every
        self._lock = threading.Lock()
        self._done = 0
        self._total = 0
        self._what = ""
        self._started = self._next = 0.0

    def start(self, total: int, what: str) -> None:
        self._total, self._what = total, what
        self._started = time.monotonic()
        self._next = self._started + self._every

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + self._every
            rate = self._done / (now - self._started)
            left = (self._total - self._done) / rate
            self._stream.write(
                f"{self._what}: {format_size(self._done)} of {format_size(self._total)}, "
                f"{format_size(int(rate))}/s, {left:.0f} s left\n"
            )
            self._stream.flush()

    def finish(self) -> None:
        self._stream.flush()
