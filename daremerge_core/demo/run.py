"""The story the demo tells: what a fine-tune's delta is made of, and what each merge keeps of it.

Every merge is the command line itself, run as a process of its own, so that each printed command is what ran and can
be run again. What a command takes and gives are files; this module reads only the results.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from ..catalog import discover
from ..cli.show import table
from ..errors import DaremergeError, OutputError
from ..stores import open_model, write_model

if TYPE_CHECKING:
    from .digits import Weights

__all__ = ["DemoResult", "Row", "run_demo"]

RECIPE = "three.yaml"
MARK = "# Written by `daremerge demo`"
"""How the recipe begins; a folder that holds it is the demo's to overwrite."""

RECIPE_TEXT = f"""\
{MARK}: three fine-tunes added to their base, one DARE after another.
# Each step has a seed of its own. With one seed all three would keep the same tenth of the elements and collide there.
models:
  base: base.safetensors
  rotated: rotated.safetensors
  negative: negative.safetensors
  mirrored: mirrored.safetensors
steps:
  first: {{op: merge.dare, a: base, b: rotated, base: base, ratio: 0, drop_rate: 0.9, seed: 1}}
  second: {{op: merge.dare, a: first, b: negative, base: base, ratio: 0, drop_rate: 0.9, seed: 2}}
  third: {{op: merge.dare, a: second, b: mirrored, base: base, ratio: 0, drop_rate: 0.9, seed: 3}}
output: third
"""


@dataclass(frozen=True)
class Row:
    """One line of the table: test accuracy in percent, by task, and what to make of it."""

    title: str
    accuracy: Mapping[str, float]
    reading: str

    @property
    def mean(self) -> float:
        """Over the tasks, equally weighted."""
        return fmean(self.accuracy.values())


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    ``rows`` is keyed by ``base``, ``fine-tuned`` (each on its own task), ``dare`` (drop rate 0.9, each on its own
    task), ``drop-only`` (the same without rescaling), and, for one file measured on every task, ``average``,
    ``dare-three`` and ``sum-three``.
    """

    folder: Path
    rows: Mapping[str, Row]

    def mean(self, name: str) -> float:
        """Mean accuracy in percent over the three tasks, for one of ``rows``."""
        return self.rows[name].mean


@dataclass(frozen=True)
class Stage:
    """One line of the table and the commands that make its files."""

    name: str
    title: str
    reading: str
    files: Mapping[str, str]
    """Task → the file, without its suffix, whose accuracy on that task is shown."""
    commands: Sequence[Sequence[str]] = ()
    """Each is what follows ``daremerge``."""


def _stages(folder: Path, tasks: Sequence[str]) -> list[Stage]:
    def file(name: str) -> str:
        return str(folder / f"{name}.safetensors")

    def to(name: str) -> list[str]:
        return ["-o", file(name), "--overwrite"]

    def dare(task: str) -> list[str]:
        return ["merge", "dare", file("base"), file(task), "--base", file("base"), "--drop-rate", "0.9", "--ratio", "0"]

    recipe = str(folder / RECIPE)
    drop_nothing = [word for step in ("first", "second", "third") for word in ("--set", f"{step}.drop_rate=0")]
    return [
        Stage("base", "base", "reads upright digits, and none of these", dict.fromkeys(tasks, "base")),
        Stage("fine-tuned", "fine-tuned", "each knows its own task", {task: task for task in tasks}),
        Stage(
            "dare",
            "DARE, drop rate 0.9",
            "9 of 10 changes dropped, the rest × 10: still knows it",
            {task: f"{task}-dare" for task in tasks},
            [[*dare(task), *to(f"{task}-dare")] for task in tasks],
        ),
        Stage(
            "drop-only",
            "the same, --no-rescale",
            "the same 1 of 10, not × 10: forgot it",
            {task: f"{task}-drop-only" for task in tasks},
            [[*dare(task), "--no-rescale", *to(f"{task}-drop-only")] for task in tasks],
        ),
        Stage(
            "average",
            "average of three",
            "every skill diluted to a third",
            dict.fromkeys(tasks, "average"),
            [
                ["merge", "lerp", file("rotated"), file("negative"), "--ratio", "0.5", *to("average-two")],
                ["merge", "lerp", file("average-two"), file("mirrored"), "--ratio", "0.667", *to("average")],
            ],
        ),
        Stage(
            "dare-three",
            "DARE of three",
            "three skills in one file, from 1 of 10 changes of each",
            dict.fromkeys(tasks, "dare-three"),
            [["run", recipe, *to("dare-three")]],
        ),
        Stage(
            "sum-three",
            "the same, drop rate 0",
            "task arithmetic: dropping nothing is better still",
            dict.fromkeys(tasks, "sum-three"),
            [["run", recipe, *drop_nothing, *to("sum-three")]],
        ),
    ]


def run_demo(folder: Path, *, seed: int = 0, echo: Callable[[str], None] = print) -> DemoResult:
    """Train a base and three fine-tunes into ``folder``, merge them through the command line, measure every file.

    Args:
        folder: made when missing; the files of an earlier demo in it are replaced.
        seed: of the split and the training, and so of every number; the merges' own seeds are in what they run.
        echo: called with each line of the story.

    Raises:
        DaremergeError: scikit-learn or a plugin is missing, or a command failed.
        OutputError: ``folder`` holds files that are not the demo's.
    """
    for method in ("dare", "lerp"):
        discover().get("merge", method)
    started = time.monotonic()
    from . import digits

    data = digits.load_digits(seed)
    _claim(folder)
    echo(f"Training on {len(data.train.labels)} handwritten digits: a base network, and three fine-tunes of it …")
    models = {"base": digits.pretrain(data, seed=seed)}
    models |= {task: digits.fine_tune(models["base"], data, task, seed=seed) for task in digits.TASKS}
    for name, weights in models.items():
        write_model(folder / f"{name}.safetensors", weights, {"format": "pt"}, overwrite=True)
        echo(f"  {folder / name}.safetensors")

    echo("\nMerging; each line is a command that you can run again:")
    stages = _stages(folder, list(digits.TASKS))
    rows: dict[str, Row] = {}
    with ThreadPoolExecutor(max_workers=2) as pool:  # stages need the trained files only, never one another's
        for stage, commands in zip(stages, pool.map(_perform, stages), strict=True):
            if commands:
                echo("\n".join(["", f"  # {stage.title}", *(f"  {command}" for command in commands)]))
            accuracy = {
                task: digits.accuracy(_load(folder / f"{name}.safetensors"), data.test, task)
                for task, name in stage.files.items()
            }
            rows[stage.name] = Row(stage.title, accuracy, stage.reading)
    result = DemoResult(folder, rows)
    echo(f"\nAccuracy in % on {len(data.test.labels)} digits that no network has seen:\n")
    echo(_table(result))
    echo(f"\nThe recipe of the last two is {folder / RECIPE}. {time.monotonic() - started:.0f} s in all.")
    return result


def _claim(folder: Path) -> None:
    """Make the folder, or check that it is an earlier demo's, before any of its files is replaced."""
    recipe = folder / RECIPE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ours = recipe.is_file() and recipe.read_text(encoding="utf-8", errors="replace").startswith(MARK)
        if not ours and any(folder.iterdir()):
            raise OutputError(
                f"{folder} holds files that are not the demo's", hint="Name a new folder: daremerge demo DIR"
            )
        recipe.write_text(RECIPE_TEXT, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from None


def _load(path: Path) -> Weights:
    model = open_model(path)
    try:
        return {key: model.read(key).clone() for key in model.keys()}
    finally:
        model.close()


def _perform(stage: Stage) -> list[str]:
    """Run a stage's commands in order; answers them as a person would type them."""
    return [_run(command) for command in stage.commands]


def _run(arguments: Sequence[str]) -> str:
    """Run a ``daremerge`` command as a process of its own; answers it as a person would type it."""
    shown = shlex.join(["daremerge", *arguments])
    done = subprocess.run(
        [sys.executable, "-m", "daremerge_core.cli", *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    if done.returncode != 0:
        raise DaremergeError(f"this command failed: {shown}\n{done.stderr.strip()}")
    return shown


def _table(result: DemoResult) -> str:
    lines = [("", *result.rows["base"].accuracy, "mean", "")]
    for row in result.rows.values():
        numbers = (f"{value:.1f}" for value in (*row.accuracy.values(), row.mean))
        lines.append((row.title, *numbers, row.reading))
    return table(lines)
