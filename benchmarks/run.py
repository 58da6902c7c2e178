"""Measure daremerge against the floor, or check that nothing but recipe and inputs decides the bytes.

    python benchmarks/run.py            # time and memory
    python benchmarks/run.py --check    # the same bytes for any threads, memory, hash seed and kernels

README.md beside this file says how to read the tables.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from checkpoints import LAYOUTS, Checkpoints, checkpoints
from jobs import JOBS, STARTUP, Job, floor
from measure import CommandFailed, Measurement, measure

from daremerge_core.sizes import format_size
from daremerge_core.stores import sha256_file

HERE = Path(__file__).parent
STARTUP_RUNS = 5
PAUSE = 4.0
"""Seconds before each measurement."""


# --- time and memory -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """The rounds of one job: what it took, and what its floor took in the same round."""

    job: Job
    nbytes: int
    """Read and written by one run."""
    runs: list[Measurement]
    floors: list[Measurement]

    @property
    def ratio(self) -> float:
        """Median over the rounds of the job's time by its floor's."""
        return median(run.wall / least.wall for run, least in zip(self.runs, self.floors, strict=True))


def bench(
    jobs: Sequence[Job], files: Checkpoints, scratch: Path, *, rounds: int, threads: int, memory: str, warm_up: bool
) -> list[Result]:
    """Run floor and job of each row in turn, round by round, so that a slow minute of the machine hits all alike.

    The warm-up round is not counted: it brings the inputs into the page cache and compiles what is compiled once.
    """
    results: list[Result] = []
    for job in jobs:
        read = sum(files[name].stat().st_size for name in job.inputs)
        written = files[job.inputs[0]].stat().st_size if job.writes_model else 0
        results.append(Result(job, read + written, [], []))
    first = -1 if warm_up else 0
    for job in jobs:
        _prepare(job, files, job.output(scratch))
    for number in range(first, rounds):
        for result in results:
            out = result.job.output(scratch)
            least = _timed(floor(result.job, files, out), out)
            run = _timed(result.job.argv(files, out, threads=threads, memory=memory), out)
            label = f"round {number + 1} of {rounds}" if number >= 0 else "warm-up"
            print(f"{label}: {result.job.name} {run.wall:.1f} s, its floor {least.wall:.1f} s", file=sys.stderr)
            if number >= 0:
                result.runs.append(run)
                result.floors.append(least)
    return results


def _prepare(job: Job, files: Checkpoints, out: Path) -> None:
    for command in job.preparations(files, out):
        measure(command)


def _timed(command: Sequence[str], out: Path) -> Measurement:
    """Measure a command and remove what it wrote; what earlier runs wrote is on the disk before the clock starts.

    A virtual machine hands memory that was freed back to its host within seconds, and touching it again is slow. After
    a pause the floor, which writes at once, and a job, which first reads, find the same memory.
    """
    if hasattr(os, "sync"):
        os.sync()
    time.sleep(PAUSE)
    try:
        return measure(command)
    finally:
        out.unlink(missing_ok=True)


def time_table(results: Sequence[Result]) -> str:
    """Markdown, medians over the rounds."""
    rows: list[Sequence[str]] = [("job", "wall s", "× floor", "CPU s", "GB/s", "anonymous", "resident")]
    for result in results:
        copies = ", copy one" if result.job.writes_model else ""
        least = f"floor: read {' + '.join(result.job.inputs)}{copies}"
        rows.append((least, *_times(result.floors, 1.0, result.nbytes), "", ""))
        memory = [_peak([run.anonymous for run in result.runs]), _peak([run.resident for run in result.runs])]
        rows.append((result.job.name, *_times(result.runs, result.ratio, result.nbytes), *memory))
    return markdown(rows)


def _times(runs: Sequence[Measurement], ratio: float, nbytes: int) -> tuple[str, str, str, str]:
    wall = median(run.wall for run in runs)
    cpu = [run.cpu for run in runs if run.cpu is not None]
    return f"{wall:.2f}", f"{ratio:.2f}", f"{median(cpu):.1f}" if cpu else "n/a", f"{nbytes / wall / 1e9:.2f}"


def _peak(sizes: Sequence[int | None]) -> str:
    """The largest of the rounds: a peak is a worst case."""
    known = [size for size in sizes if size is not None]
    return format_size(max(known)) if known else "n/a"


def startup(runs: int) -> dict[str, float]:
    """Median seconds of each command of :data:`STARTUP`, run in turn."""
    found: dict[str, list[float]] = {name: [] for name in STARTUP}
    for _ in range(runs):
        for name, command in STARTUP.items():
            found[name].append(measure(command).wall)
    return {name: median(times) for name, times in found.items()}


# --- the same bytes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One way to run that may not change a byte."""

    name: str
    threads: int = 2
    memory: str = "1GiB"
    env: Mapping[str, str] = field(default_factory=dict)


VARIANTS: tuple[Variant, ...] = (
    Variant("2 threads, 1 GiB"),
    Variant("again"),
    Variant("1 thread", threads=1),
    Variant("4 threads", threads=4),
    Variant("256 MiB", memory="256MiB"),
    Variant("4 GiB", memory="4GiB"),
    Variant("PYTHONHASHSEED=1", env={"PYTHONHASHSEED": "1"}),
    Variant("PYTHONHASHSEED=2", env={"PYTHONHASHSEED": "2"}),
    Variant("DAREMERGE_FAST=0 (no numba)", env={"DAREMERGE_FAST": "0"}),
)
"""The first is what the others are compared with."""


@dataclass(frozen=True)
class Check:
    """One job run one way: ``problem`` is empty where it gave the bytes of the first variant."""

    job: str
    variant: str
    sha256: str
    problem: str = ""


def check(jobs: Sequence[Job], files: Checkpoints, scratch: Path, variants: Sequence[Variant]) -> list[Check]:
    """Run every job every way. All write to the same path in turn, so that nothing but the way differs."""
    found: list[Check] = []
    for job in jobs:
        _prepare(job, files, job.output(scratch))
        expected = ""
        for variant in variants:
            one = _checked(job, variant, files, job.output(scratch), expected)
            expected = expected or one.sha256
            found.append(one)
    return found


def _checked(job: Job, variant: Variant, files: Checkpoints, out: Path, expected: str) -> Check:
    try:
        measure(job.argv(files, out, threads=variant.threads, memory=variant.memory), env=variant.env)
        found = sha256_file(out)
    except (CommandFailed, OSError) as error:
        return Check(job.name, variant.name, "", str(error).strip().splitlines()[-1])
    finally:
        out.unlink(missing_ok=True)
    return Check(job.name, variant.name, found, "other bytes" if expected not in ("", found) else "")


def check_table(checks: Sequence[Check]) -> str:
    """Markdown."""
    rows = [("job", "run with", "sha256", "")]
    rows += [(one.job, one.variant, one.sha256[:16], f"FAIL: {one.problem}" if one.problem else "ok") for one in checks]
    return markdown(rows)


# --- the report ----------------------------------------------------------------------------------------


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head, padded to be read as plain text too."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    installed = {one.name: one.version for one in importlib.metadata.distributions()}
    names = ("daremerge-core", "torch", "numba", "numpy")
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: installed.get(name, "missing") for name in names},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, measure or check, print the tables, write the JSON; 1 when a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare bytes instead of measuring")
    parser.add_argument("--layout", choices=LAYOUTS, default="sd15", help="shape of the checkpoints (%(default)s)")
    parser.add_argument("--sdxl", action="store_const", dest="layout", const="sdxl", help="the same as --layout sdxl")
    parser.add_argument("--methods", metavar="NAME,NAME", help=f"of {', '.join(job.name for job in JOBS)} (all)")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="worker threads when measuring (one a core)")
    parser.add_argument("--memory", default="1GiB", help="memory budget when measuring (%(default)s)")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="where checkpoints are made and kept")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where the JSON goes")
    parser.add_argument("--no-warm-up", action="store_true", help="count the first round too")
    options = parser.parse_args(argv)
    names = options.methods.split(",") if options.methods else [job.name for job in JOBS]
    unknown = sorted(set(names) - {job.name for job in JOBS})
    if unknown:
        parser.error(f"--methods: there is no {unknown[0]!r}; choose from {', '.join(job.name for job in JOBS)}")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    jobs = [job for job in JOBS if job.name in names]

    files = checkpoints(options.layout, options.data)
    scratch = options.data / "scratch"
    scratch.mkdir(exist_ok=True)
    report: dict[str, Any] = {"layout": options.layout, "machine": machine()}
    failed = False
    try:
        if options.check:
            checks = check(jobs, files, scratch, VARIANTS)
            failed = any(one.problem for one in checks)
            report["checks"] = [asdict(one) for one in checks]
            print(check_table(checks))
        else:
            results = bench(
                jobs,
                files,
                scratch,
                rounds=options.rounds,
                threads=options.threads,
                memory=options.memory,
                warm_up=not options.no_warm_up,
            )
            times = startup(STARTUP_RUNS)
            report |= {"threads": options.threads, "memory": options.memory, "startup": times}
            report["results"] = [asdict(result) | {"ratio": result.ratio} for result in results]
            print(time_table(results))
            print()
            print(markdown([("start-up", "s"), *((name, f"{seconds:.2f}") for name, seconds in times.items())]))
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch)
    options.out.mkdir(parents=True, exist_ok=True)
    kind = "check" if options.check else "time"
    path = options.out / f"{kind}-{options.layout}-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\n{path}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
