"""Sending a file to the disk while it is still being written, so that its end need not wait for all of it.

What is on the disk leaves the system's page cache at once: its pages serve for what is written next, and the inputs,
which the next merge reads again, stay.
"""

from __future__ import annotations

import os
from threading import Condition, Thread

__all__ = ["WriteBehind"]

_STEP = 128 << 20
"""Bytes written before they are sent."""


class WriteBehind:
    """Forces what has been written to the disk, step by step, in a thread of its own.

    What it fails at the system reports once, to it: :meth:`stop` raises it, so that the last sync cannot miss it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waiting = 0  # bytes written and not yet sent
        self._stopped = False
        self._changed = Condition()  # guards the two above
        self._error: OSError | None = None
        self._thread = Thread(target=self._follow, name="daremerge-write-behind", daemon=True)
        self._thread.start()

    @staticmethod
    def possible() -> bool:
        """Whether this system can force the bytes of a file alone."""
        return hasattr(os, "fdatasync")

    def written(self, count: int) -> None:
        """So many more bytes are in the file."""
        with self._changed:
            self._waiting += count
            if self._waiting >= _STEP:
                self._changed.notify()

    def stop(self) -> None:
        """Wait for what is under way; raises ``OSError`` when something could not be forced to the disk."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()
        if self._error:
            raise self._error

    def _follow(self) -> None:
        try:
            while self._next():
                os.fdatasync(self._fd)
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            self._error = error

    def _next(self) -> bool:
        """Wait until there is a step to send; False when stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._waiting >= _STEP)
            self._waiting = 0
            return not self._stopped
