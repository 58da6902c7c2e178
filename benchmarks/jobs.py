"""What is measured: one row a job. Add a method by adding a row to :data:`JOBS`, another tool in ``peers.py``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from checkpoints import Checkpoints
from measure import measure

DAREMERGE = (sys.executable, "-m", "daremerge_core.cli")
RUN = ("-o", "{out}", "--threads", "{threads}", "--memory", "{memory}", "--overwrite", "--quiet")


@dataclass(frozen=True)
class Job:
    """One merge, as a command line that runs as a process of its own."""

    name: str
    inputs: tuple[str, ...]
    """Which of the checkpoints it reads, such as ``base``, ``a`` and ``b``; its floor reads the same."""
    command: tuple[str, ...]
    """Words, in which the names of checkpoints, ``{out}``, ``{threads}`` and ``{memory}`` are filled in; so are
    ``{mask}``, ``{gradient}`` and ``{lora}``, for what the commands before it made, and the names of ``texts``."""
    before: tuple[tuple[str, ...], ...] = ()
    """Commands that make what it needs, once and unmeasured."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Files that it needs: their text, filled in as the words are but with paths alone."""
    ending: str = ".safetensors"
    """Of what it writes; empty for a folder."""
    writes_model: bool = True
    """Whether it writes a file of a model's size; the floor of one that does not only reads."""
    tool: str = "daremerge"

    def output(self, scratch: Path) -> Path:
        """Where it writes."""
        return scratch / f"merged{self.ending}"

    def into_folder(self) -> Job:
        """The same, of sharded folders."""
        return replace(self, ending="")

    def argv(self, files: Checkpoints, out: Path, *, threads: int, memory: str) -> list[str]:
        return [_filled(word, files, out, threads=threads, memory=memory) for word in self.command]

    def preparations(self, files: Checkpoints, out: Path) -> list[list[str]]:
        return [[_filled(word, files, out, threads=0, memory="1GiB") for word in command] for command in self.before]


MADE = {"mask": "mask.safetensors", "gradient": "gradient.json", "lora": "lora.safetensors", "config": "config.yaml"}
"""What lies beside the output."""


def _filled(word: str, files: Checkpoints, out: Path, **values: Any) -> str:
    # Not str.format: a text may hold braces of its own.
    known = {**files, "out": out, **{name: out.with_name(file) for name, file in MADE.items()}, **values}
    for name, value in known.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word


def prepare(job: Job, files: Checkpoints, scratch: Path) -> None:
    """Make what a job needs beside its inputs."""
    out = job.output(scratch)
    for name, text in job.texts.items():
        out.with_name(MADE[name]).write_text(_filled(text, files, out), encoding="utf-8")
    for command in job.preparations(files, out):
        measure(command)


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
    """What any tool must do at least: read the job's inputs and, if it makes a model, write files of that size."""
    each = [[str(part) for part in parts(files[name])] for name in job.inputs]
    every = [part for one in each for part in one]
    if not job.writes_model:
        return ["sh", "-c", 'cat "$@" > /dev/null', "sh", *every]
    copied = " ".join(f'"${{{number}}}"' for number in range(1, len(each[0]) + 1))
    return ["sh", "-c", f'out="$0"; cat "$@" > /dev/null && cat {copied} > "$out"', str(out), *every]


def parts(model: Path) -> list[Path]:
    """The files that a model is in."""
    return sorted(model.glob("*.safetensors")) if model.is_dir() else [model]
