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
from importlib.util import find_spec
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
PICTURE = "accuracy.png"
MARK = "# Written by `daremerge demo`"
"""How the recipe begins; a folder that holds it is the demo's to overwrite."""

RECIPE_TEXT = f"""\
{MARK}: three fine-tunes of one base in one, by DARE and TIES's election.
# Every model keeps a random tenth of its changes, times ten; where two keep the same element they vote on its sign.
models:
  base: base.safetensors
  rotated: rotated.safetensors
  negative: negative.safetensors
  mirrored: mirrored.safetensors
steps:
  merged: {{op: merge.dare-ties, models: [rotated, negative, mirrored], base: base, density: 0.1, seed: 0}}
output: merged
"""

NEEDED = {"merge": ("dare", "linear", "ties", "dare-ties", "task-arithmetic", "tsv-m", "wudi")}
"""The components that the story takes."""


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
    task), ``drop-only`` (the same without rescaling), and, for one file measured on every task, the methods that merge
    all three: ``linear``, ``ties``, ``dare-ties``, ``task-arithmetic``, ``tsv-m`` and ``wudi``.
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

    def together(name: str, title: str, reading: str, *options: str, base: bool = True) -> Stage:
        over = ["--base", file("base")] if base else []
        command = ["merge", name, *(file(task) for task in tasks), *over, *options, *to(name)]
        return Stage(name, title, reading, dict.fromkeys(tasks, name), [command])

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
        together("linear", "three: average", "every skill diluted to a third", base=False),
        together("ties", "three: TIES", "the largest fifth of the changes, where they agree"),
        Stage(
            "dare-ties",
            "three: DARE-TIES",
            "a random tenth of each, × 10, where they agree",
            dict.fromkeys(tasks, "dare-ties"),
            [["run", str(folder / RECIPE), *to("dare-ties")]],
        ),
        together("task-arithmetic", "three: task arithmetic", "all changes added up: plain, and better still"),
        together("tsv-m", "three: TSV-M", "the main directions of each, made orthogonal", "--lambda", "1.5"),
        together("wudi", "three: WUDI", "solved for the least interference: nothing tuned"),
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
    for kind, names in NEEDED.items():
        for name in names:
            discover().get(kind, name)
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
    if find_spec("matplotlib"):
        _draw(result, folder / PICTURE)
        echo(f"\nThe same as a picture: {folder / PICTURE}")
    echo(f"\n{time.monotonic() - started:.0f} s in all.")
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


def _draw(result: DemoResult, path: Path) -> None:
    """A bar for each row: its mean over the tasks, and a dot for each task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(result.rows.values())[::-1]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.barh([row.title for row in rows], [row.mean for row in rows], color="#7aa6d6")
    for index, row in enumerate(rows):
        axes.plot(list(row.accuracy.values()), [index] * len(row.accuracy), "o", ms=4, color="#1f3b5c")
        axes.text(102, index, f"{row.mean:.1f}", va="center", fontsize=9)
    axes.set(xlim=(0, 110), xlabel="accuracy on unseen digits, %: mean of three tasks, and each")
    axes.set_xticks(range(0, 101, 20))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
