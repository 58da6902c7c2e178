"""Run a command as a process and see what it took: time, CPU, memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_UNCOMMON = "PYTHONDONTWRITEBYTECODE"
"""Set in some containers. With it Python compiles every module at each start, which is no part of what is measured."""
INTERVAL = 0.05
"""Seconds between two looks at a process's memory."""


class CommandFailed(Exception):
    """A measured command ended with an error; the message holds what it printed."""


@dataclass(frozen=True)
class Measurement:
    """One run of one command. None: this platform does not tell."""

    wall: float
    """Seconds from start to end of the process."""
    cpu: float | None
    """Seconds of user and system time, with those of its children."""
    anonymous: int | None
    """Peak bytes of memory that no file stands behind: what the program itself took. Linux only, sampled."""
    resident: int | None
    """Peak bytes resident. Counts pages of mapped input files, which the system takes back when it needs them. Linux
    only: elsewhere a child's peak counts what this process held when it started the child."""


def measure(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Measurement:
    """Run a command to its end.

    Raises:
        CommandFailed: it ended with an error, or could not be started.
    """
    with tempfile.TemporaryFile() as printed:
        environment = {name: value for name, value in os.environ.items() if name != _UNCOMMON} | dict(env or {})
        started = time.perf_counter()
        try:
            process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, env=environment)
        except OSError as error:
            raise CommandFailed(f"{command[0]}: {error}") from error
        sampler = _Sampler(process.pid)
        sampler.start()
        try:
            cpu = _wait(process)
            wall = time.perf_counter() - started
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
            sampler.stop()
        if process.returncode != 0:
            printed.seek(0)
            text = printed.read().decode(errors="replace").strip()
            raise CommandFailed(f"{' '.join(command)}\nended with {process.returncode}:\n{text}")
    return Measurement(wall, cpu, sampler.peaks.get("RssAnon"), sampler.peaks.get("VmHWM"))


def _wait(process: subprocess.Popen[bytes]) -> float | None:
    """Wait for the end; CPU seconds where the platform tells."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


class _Sampler(threading.Thread):
    """Watches a process's memory; ``peaks`` stays empty where /proc does not tell it."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[str, int] = {}
        self._status = Path(f"/proc/{pid}/status")
        self._done = threading.Event()

    def run(self) -> None:
        while True:
            for name, size in _memory(self._status).items():
                self.peaks[name] = max(size, self.peaks.get(name, 0))
            if self._done.wait(INTERVAL):
                return

    def stop(self) -> None:
        self._done.set()
        self.join()


def _memory(status: Path) -> dict[str, int]:
    """Bytes by name, from a process's status file; empty when it has ended, or there is no /proc."""
    try:
        fields = (line.split() for line in status.read_text().splitlines())
        return {words[0][:-1]: int(words[1]) * 1024 for words in fields if words[0] in ("RssAnon:", "VmHWM:")}
    except OSError:
        return {}
