"""What is measured: one row a job. Add a method, or another tool, by adding a row to :data:`JOBS`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpoints import Checkpoints

DAREMERGE = (sys.executable, "-m", "daremerge_core.cli")
RUN = ("-o", "{out}", "--threads", "{threads}", "--memory", "{memory}", "--overwrite", "--quiet")


@dataclass(frozen=True)
class Job:
    """One merge, as a command line that runs as a process of its own."""

    name: str
    inputs: tuple[str, ...]
    """Which of ``base``, ``a`` and ``b`` it reads; its floor reads the same."""
    command: tuple[str, ...]
    """Words, in which ``{base}``, ``{a}``, ``{b}``, ``{out}``, ``{threads}`` and ``{memory}`` are filled in."""

    def argv(self, files: Checkpoints, out: Path, *, threads: int, memory: str) -> list[str]:
        values = {"base": files.base, "a": files.a, "b": files.b, "out": out, "threads": threads, "memory": memory}
        return [word.format(**values) for word in self.command]


JOBS: tuple[Job, ...] = (
    Job("lerp", ("a", "b"), (*DAREMERGE, "merge", "lerp", "{a}", "{b}", "--ratio", "0.5", *RUN)),
    Job("dare", ("base", "a", "b"), (*DAREMERGE, "merge", "dare", "{a}", "{b}", "--base", "{base}", *RUN)),
)

STARTUP: dict[str, Sequence[str]] = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "daremerge --help": (*DAREMERGE, "--help"),
    "daremerge merge dare --help": (*DAREMERGE, "merge", "dare", "--help"),
}
"""How long it takes until something can be read; the first row is the interpreter alone."""


def floor(job: Job, files: Checkpoints, out: Path) -> list[str]:
    """What any tool must do at least: read the job's inputs and write a file of the same size."""
    inputs = [str(files[name]) for name in job.inputs]
    return ["sh", "-c", 'out="$1"; shift; cat "$@" > /dev/null && cp "$1" "$out"', "sh", str(out), *inputs]
