"""The SHA-256 of a file taken while it is being written, in any order, by other threads."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from threading import Condition, Thread

__all__ = ["FollowingDigest"]

_BLOCK = 4 << 20


class FollowingDigest:
    """Reads a file behind its writers: always up to the first byte that is still missing.

    SHA-256 takes bytes in order and one thread only, so for a large file it takes longer than most of what is computed;
    beside the writing it costs next to nothing. What it reads, the system still has in memory.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._reached = 0  # every byte before it has been written
        self._ahead: dict[int, int] = {}  # start → stop of what has been written beyond
        self._stopped = False
        self._changed = Condition()  # guards the three above
        self._digest = sha256()
        self._error: OSError | None = None
        self._thread = Thread(target=self._follow, name="daremerge-sha256", daemon=True)
        self._thread.start()

    def written(self, start: int, stop: int) -> None:
        """Bytes ``[start, stop)`` are in the file now; each byte is told once."""
        if start == stop:
            return
        with self._changed:
            self._ahead[start] = stop
            while self._reached in self._ahead:
                self._reached = self._ahead.pop(self._reached)
            self._changed.notify()

    def hexdigest(self) -> str:
        """Wait for the end of the file; its SHA-256. Raises ``OSError`` when it could not be read back."""
        self._thread.join()
        if self._error:
            raise self._error
        return self._digest.hexdigest()

    def stop(self) -> None:
        """Give up."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _follow(self) -> None:
        block = memoryview(bytearray(min(_BLOCK, self._size)))
        at = 0
        try:
            with self._path.open("rb", buffering=0) as file:
                while at < self._size and (limit := self._next(at)) is not None:
                    while at < limit:
                        count = file.readinto(block[: limit - at])
                        if not count:
                            raise OSError(f"{self._path} became shorter while it was written")
                        self._digest.update(block[:count])
                        at += count
        except OSError as error:
            self._error = error

    def _next(self, at: int) -> int | None:
        """Wait until there is something after ``at``; how far it goes, or None when stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._reached > at)
            return None if self._stopped else self._reached
