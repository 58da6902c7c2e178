"""Running a process in little memory: a control group of Linux, in which cached pages of files count too."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cage", "Ended", "NoCage", "dropped_from_cache"]

INTERVAL = 0.02
"""Seconds between two looks at the memory that no file stands behind: of it the system keeps no peak."""


class NoCage(Exception):
    """Why memory cannot be limited on this machine."""


@dataclass(frozen=True)
class Ended:
    """How a process ended in its cage."""

    status: int
    said: str
    peak: int
    """Most bytes at any time, cached pages of files among them; 0 where the system does not tell."""
    anonymous: int
    """Most bytes seen at any time that no file stands behind."""
    killed: int
    """How many processes the system killed for it."""
    seconds: float


@dataclass(frozen=True)
class _Names:
    """What one version of control groups calls its files."""

    limit: str
    swap: str
    peak: str
    anonymous: str
    events: str


_V1 = _Names(
    "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max_usage_in_bytes", "rss", "memory.oom_control"
)
_V2 = _Names("memory.max", "memory.swap.max", "memory.peak", "anon", "memory.events")


class Cage:
    """A control group whose processes get so many bytes of memory, all together. Raises :class:`NoCage`."""

    def __init__(self, folder: Path, names: _Names) -> None:
        self._folder, self._names = folder, names

    @classmethod
    @contextmanager
    def of(cls, limit: int) -> Iterator[Cage]:
        if not sys.platform.startswith("linux"):
            raise NoCage("control groups are Linux's")
        problems = ["no control groups are mounted"]
        for above, names in _mounted():
            folder = above / f"daremerge-test-{os.getpid()}"
            try:
                folder.mkdir()
            except OSError as error:
                problems.append(f"{error.filename}: {error.strerror}")
                continue
            cage = cls(folder, names)
            try:
                try:
                    cage._limit(limit)
                except OSError as error:
                    problems.append(f"{error.filename}: {error.strerror}")
                    continue
                yield cage
                return
            finally:
                cage._remove()
        raise NoCage(f"no control group can be made: {problems[-1]}")

    def _limit(self, limit: int) -> None:
        (self._folder / self._names.limit).write_text(str(limit))
        with suppress(OSError):  # a system without swap may have no such file
            (self._folder / self._names.swap).write_text(str(limit if self._names is _V1 else 0))
        joined = self._start([sys.executable, "-c", ""], None)
        if joined.wait():
            raise OSError(0, "no process can be put into it", str(self._folder))

    def run(self, command: Sequence[str], **environment: str) -> Ended:
        """Run a command to its end. One at a time, once in each cage: peaks are of all that ran in it."""
        started = time.monotonic()
        with tempfile.TemporaryFile() as said:
            process = self._start(command, said.fileno(), environment)
            anonymous = 0
            try:
                while process.poll() is None:
                    anonymous = max(anonymous, self._table("memory.stat").get(self._names.anonymous, 0))
                    time.sleep(INTERVAL)
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            text = said.read().decode(errors="replace")
        seconds = time.monotonic() - started
        killed = self._table(self._names.events).get("oom_kill", 0)
        return Ended(process.returncode, text, self._number(self._names.peak), anonymous, killed, seconds)

    def _start(
        self, command: Sequence[str], said: int | None, environment: Mapping[str, str] = {}
    ) -> subprocess.Popen[bytes]:
        # The shell enters the cage itself, so that nothing of the command runs outside of it.
        enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._folder / "cgroup.procs")]
        output = subprocess.DEVNULL if said is None else said
        return subprocess.Popen([*enter, *command], stdout=output, stderr=output, env={**os.environ, **environment})

    def _table(self, name: str) -> dict[str, int]:
        """A file of lines that are a word and a number."""
        try:
            lines = [line.split() for line in (self._folder / name).read_text().splitlines()]
        except OSError:
            return {}
        return {words[0]: int(words[1]) for words in lines if len(words) == 2}

    def _number(self, name: str) -> int:
        try:
            return int((self._folder / name).read_text())
        except (OSError, ValueError):
            return 0

    def _remove(self) -> None:
        for _ in range(50):  # a process that has ended is counted a moment longer
            with suppress(OSError):
                self._folder.rmdir()
                return
            time.sleep(0.02)


def _mounted() -> Iterator[tuple[Path, _Names]]:
    """Where a control group for memory may be made: version 1 where memory is counted by it, else version 2."""
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, place, kind, options, *_ = line.split()
            if kind == "cgroup" and "memory" in options.split(","):
                yield Path(place), _V1
            elif kind == "cgroup2":
                yield Path(place), _V2


def dropped_from_cache(path: Path) -> None:
    """Have the system forget a file's pages, so that whoever reads them next is charged for them."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
