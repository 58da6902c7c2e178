"""What is measured: one row a job. Add a method, or another tool, by adding a row to :data:`JOBS`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Words, in which ``{base}``, ``{a}``, ``{b}``, ``{out}``, ``{threads}`` and ``{memory}`` are filled in; so are
    ``{mask}``, ``{gradient}`` and ``{lora}``, for what the commands before it made."""
    before: tuple[tuple[str, ...], ...] = ()
    """Commands that make what it needs, once and unmeasured."""
    ending: str = ".safetensors"
    """Of what it writes."""
    writes_model: bool = True
    """Whether it writes a file of a model's size; the floor of one that does not only reads."""

    def output(self, scratch: Path) -> Path:
        """Where it writes."""
        return scratch / f"merged{self.ending}"

    def argv(self, files: Checkpoints, out: Path, *, threads: int, memory: str) -> list[str]:
        return _filled(self.command, files, out, threads=threads, memory=memory)

    def preparations(self, files: Checkpoints, out: Path) -> list[list[str]]:
        return [_filled(command, files, out, threads=0, memory="1GiB") for command in self.before]


def _filled(command: Sequence[str], files: Checkpoints, out: Path, *, threads: int, memory: str) -> list[str]:
    """``{mask}``, ``{gradient}`` and ``{lora}`` lie beside the output."""
    names = {"mask": "mask.safetensors", "gradient": "gradient.json", "lora": "lora.safetensors"}
    made = {name: out.with_name(file) for name, file in names.items()}
    values = {"base": files.base, "a": files.a, "b": files.b, "out": out, "threads": threads, "memory": memory}
    return [word.format(**values, **made) for word in command]


TUNED = ("{a}", "{b}", "--base", "{base}")
MAGNITUDE = ("mask", "magnitude", "{a}", "--base", "{base}", "--threshold", "0.8")
DEPTH = ("gradient", "depth", "{a}", "--point", "0=0.9", "--point", "1=0.1", "--rest", "0.5")
REPORT: dict[str, Any] = {"ending": ".json", "writes_model": False}
EXTRACT = ("lora", "extract", "{a}", "{base}", "--rank", "32", "--decomposition", "randomised")
WORKFLOW = str(Path(__file__).parent.parent / "examples" / "protect-and-merge.yaml")
MODELS = ("--set", "models.a={a}", "--set", "models.b={b}", "--set", "models.base={base}")

JOBS: tuple[Job, ...] = (
    Job("lerp", ("a", "b"), (*DAREMERGE, "merge", "lerp", "{a}", "{b}", "--ratio", "0.5", *RUN)),
    Job("dare", ("base", "a", "b"), (*DAREMERGE, "merge", "dare", "{a}", "{b}", "--base", "{base}", *RUN)),
    Job("ties", ("base", "a", "b"), (*DAREMERGE, "merge", "ties", *TUNED, *RUN)),
    Job("dare-ties", ("base", "a", "b"), (*DAREMERGE, "merge", "dare-ties", *TUNED, *RUN)),
    Job("magnitude-mask", ("base", "a"), (*DAREMERGE, *MAGNITUDE, *RUN)),
    Job(
        "masked-dare",
        ("base", "a", "b"),
        (
            *(*DAREMERGE, "merge", "dare", "{a}", "{b}", "--base", "{base}"),
            *("--mask", "{mask}", "--gradient", "{gradient}", *RUN),
        ),
        before=(
            (*DAREMERGE, *MAGNITUDE, "-o", "{mask}", "--overwrite", "--quiet"),
            (*DAREMERGE, *DEPTH, "-o", "{gradient}", "--overwrite"),
        ),
    ),
    Job("workflow", ("base", "a", "b"), (*DAREMERGE, "run", WORKFLOW, *MODELS, *RUN)),
    Job("diff", ("a", "b"), (*DAREMERGE, "report", "diff", "{a}", "{b}", *RUN), **REPORT),
    Job("conflict", ("base", "a", "b"), (*DAREMERGE, "report", "conflict", "{base}", "{a}", "{b}", *RUN), **REPORT),
    Job("lora-extract", ("base", "a"), (*DAREMERGE, *EXTRACT, *RUN), writes_model=False),
    Job(
        "lora-apply",
        ("a",),
        (*DAREMERGE, "lora", "apply", "{b}", "{lora}:0.8", *RUN),
        before=((*DAREMERGE, *EXTRACT, "-o", "{lora}", "--overwrite", "--quiet"),),
    ),
)

STARTUP: dict[str, Sequence[str]] = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "daremerge --help": (*DAREMERGE, "--help"),
    "daremerge merge dare --help": (*DAREMERGE, "merge", "dare", "--help"),
}
"""How long it takes until something can be read; the first row is the interpreter alone."""


def floor(job: Job, files: Checkpoints, out: Path) -> list[str]:
    """What any tool must do at least: read the job's inputs and, if it makes a model, write a file of that size."""
    inputs = [str(files[name]) for name in job.inputs]
    if not job.writes_model:
        return ["sh", "-c", 'out="$1"; shift; cat "$@" > /dev/null', "sh", str(out), *inputs]
    return ["sh", "-c", 'out="$1"; shift; cat "$@" > /dev/null && cp "$1" "$out"', "sh", str(out), *inputs]
