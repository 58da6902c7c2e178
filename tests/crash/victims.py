"""Run as ``python victims.py``: forks one merge for each line of JSON on its input, and answers how it ended.

All that a merge imports is imported once, before the first fork, so that a merge takes a twentieth of a second and a
test can afford hundreds. A step is a call to the system that changes what is on the disk; the program knows nothing of
this, its ``os`` is replaced in the child.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = ("mkdir", "open", "posix_fallocate", "pwrite", "fdatasync", "fsync", "rename", "replace", "unlink", "rmdir")
"""Of :mod:`os`. Beside them there is ``exchange``."""


class Steps:
    """Counts the steps of this process, and kills it at one of them."""

    def __init__(self, log: Path, die_at: int | None, *, after: bool, slow: float) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        self._die_at, self._after, self._slow = die_at, after, slow
        self._count = 0

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        real_write = os.write

        def step(*args: Any, **options: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return call(*args, **options)
            number, self._count = self._count, self._count + 1
            real_write(self._log, f"{name}\n".encode())
            fatal = number == self._die_at
            if fatal and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "pwrite" and self._slow:
                time.sleep(self._slow)
            if fatal and name == "pwrite":
                args = (args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])  # half of it got there
            try:
                return call(*args, **options)
            finally:
                if fatal:
                    os.kill(os.getpid(), signal.SIGKILL)

        return step


def _merge(job: dict[str, Any]) -> None:
    """In the child: the command line, until it ends or is ended."""
    from daremerge_core.cli.main import main
    from daremerge_core.stores import sharded_writer

    steps = Steps(Path(job["log"]), job.get("die_at"), after=job.get("after", False), slow=job.get("slow", 0.0))
    for name in STEPS:
        setattr(os, name, steps.wrap(name, getattr(os, name)))
    real = sharded_writer.exchange if job.get("exchanges", True) else lambda one, other: False
    sharded_writer.exchange = steps.wrap("exchange", real)  # type: ignore[assignment]
    null = os.open(os.devnull, os.O_RDWR)
    said = os.open(job["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for here, there in ((0, null), (1, said), (2, said)):
        os.dup2(there, here)
    sys.argv = ["daremerge", *job["arguments"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


def serve() -> None:
    import numpy  # noqa: F401

    from daremerge_core import engine, loops  # noqa: F401
    from daremerge_core.catalog import discover
    from daremerge_core.cli import output, step  # noqa: F401
    from daremerge_core.task_sum import TASK_SUM

    discover().names("merge")
    TASK_SUM.load()
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            try:
                _merge(job)
            except SystemExit as done:
                sys.stdout.flush()
                os._exit(done.code if isinstance(done.code, int) else 0)
            os._exit(0)
        if "kill_after" in job:
            time.sleep(job["kill_after"])
            os.kill(child, signal.SIGKILL)
        if "signal" in job:
            writes = job.get("after_writes", 1)
            while not Path(job["log"]).exists() or Path(job["log"]).read_bytes().count(b"pwrite") < writes:
                time.sleep(0.01)
            os.kill(child, job["signal"])
        started = time.monotonic()
        _, status = os.waitpid(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - started]), flush=True)


if __name__ == "__main__":
    serve()
