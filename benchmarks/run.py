"""Measure daremerge against the floor, or check that nothing but recipe and inputs decides the bytes.

    python benchmarks/run.py                              # time and memory
    python benchmarks/run.py --cold                       # with inputs that are not in memory
    python benchmarks/run.py --scaling                    # more threads, more models, larger files
    python benchmarks/run.py --peers peers/bin/python     # other tools too, as peers.py tells
    python benchmarks/run.py --check                      # the same bytes for any threads, memory, hash seed, kernels

README.md beside this file says how to read the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import scaling
import tables
from checkpoints import FOLDER, LAYOUTS, Checkpoints, checkpoints
from checks import VARIANTS, check, check_table
from jobs import JOBS, STARTUP, Job, floor, parts, prepare
from machine import facts
from measure import CommandFailed, Measurement, measure
from peers import PEERS, installed

HERE = Path(__file__).parent
STARTUP_RUNS = 5
PAUSE = 4.0
"""Seconds before each measurement."""


@dataclass(frozen=True)
class Result:
    """The rounds of one job: what it took, and what its floor took in the same round."""

    name: str
    tool: str
    inputs: tuple[str, ...]
    nbytes: int
    """Read and written by one run."""
    runs: list[Measurement]
    floors: list[Measurement]

    @property
    def ratio(self) -> float:
        """Median over the rounds of the job's time by its floor's."""
        return median(run.wall / least.wall for run, least in zip(self.runs, self.floors, strict=True))

    def report(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


@dataclass(frozen=True)
class Conditions:
    """How jobs are run."""

    rounds: int
    threads: int
    memory: str
    cold: bool = False
    """Whether the system forgets the inputs before each run."""
    warm_up: bool = True
    """Whether there is a round that is not counted: it brings the inputs into the page cache, and compiles."""


def bench(jobs: Sequence[Job], files: Checkpoints, scratch: Path, how: Conditions) -> list[Result]:
    """Run floor and job of each row in turn, round by round, so that a slow minute of the machine hits all alike."""
    results = [Result(job.name, job.tool, job.inputs, _moved(job, files), [], []) for job in jobs]
    for number in range(-1 if how.warm_up else 0, how.rounds):
        for job, result in zip(jobs, results, strict=True):
            out = job.output(scratch)
            if number == (-1 if how.warm_up else 0) or job.texts:  # jobs may share the names of what they need
                prepare(job, files, scratch)
            inputs = [part for name in job.inputs for part in parts(files[name])] if how.cold else []
            least = _timed(floor(job, files, scratch / "copy"), scratch / "copy", inputs)
            run = _timed(job.argv(files, out, threads=how.threads, memory=how.memory), out, inputs, writes=True)
            label = f"round {number + 1} of {how.rounds}" if number >= 0 else "warm-up"
            print(f"{label}: {job.tool} {job.name} {run.wall:.1f} s, its floor {least.wall:.1f} s", file=sys.stderr)
            if number >= 0:
                result.runs.append(run)
                result.floors.append(least)
    return results


def _moved(job: Job, files: Checkpoints) -> int:
    sizes = [sum(part.stat().st_size for part in parts(files[name])) for name in job.inputs]
    return sum(sizes) + (sizes[0] if job.writes_model else 0)


def _timed(command: Sequence[str], out: Path, forgotten: Iterable[Path], *, writes: bool = False) -> Measurement:
    """Measure a command and remove what it wrote; what earlier runs wrote is on the disk before the clock starts.

    A virtual machine hands memory that was freed back to its host within seconds, and touching it again is slow. After
    a pause the floor, which writes at once, and a job, which first reads, find the same memory.
    """
    if hasattr(os, "sync"):
        os.sync()
    for path in forgotten:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    time.sleep(PAUSE)
    try:
        found = measure(command)
        if writes and not out.exists():
            raise CommandFailed(f"{' '.join(command)}\nended well, but wrote nothing")
        return found
    finally:
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)


def startup(runs: int) -> dict[str, float]:
    """Median seconds of each command of :data:`STARTUP`, run in turn."""
    found: dict[str, list[float]] = {name: [] for name in STARTUP}
    for _ in range(runs):
        for name, command in STARTUP.items():
            found[name].append(measure(command).wall)
    return {name: median(times) for name, times in found.items()}


def first_run(files: Checkpoints, scratch: Path) -> dict[str, float]:
    """Seconds of a small DARE merge whose loops are compiled, as after an install, and with them in numba's cache."""
    [dare] = [job for job in JOBS if job.name == "dare"]
    command = dare.argv(files, dare.output(scratch), threads=0, memory="1GiB")
    with tempfile.TemporaryDirectory() as cache:
        first, again = (measure(command, env={"NUMBA_CACHE_DIR": cache}).wall for _ in range(2))
    return {"a small merge, its loops compiled": first, "the same again": again}


def scale(series: Sequence[str], data: Path, scratch: Path, layout: str, how: Conditions) -> dict[str, Any]:
    """The points of each series, measured one after the other."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in series}
    for point in scaling.points(series, data, layout):
        at = Conditions(how.rounds, point.threads or how.threads, how.memory, how.cold, how.warm_up)
        print(f"{point.series}: {point.at}", file=sys.stderr)
        [result] = bench([point.job], point.files, scratch, at)
        found[point.series].append({"at": point.at} | result.report())
    return found


def _options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[Job]]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare bytes instead of measuring")
    parser.add_argument("--scaling", nargs="*", choices=scaling.SERIES, help="measure series instead (all of them)")
    layouts = (*LAYOUTS, FOLDER)
    parser.add_argument("--layout", choices=layouts, default="sd15", help="shape of the checkpoints (%(default)s)")
    parser.add_argument("--sdxl", action="store_const", dest="layout", const="sdxl", help="the same as --layout sdxl")
    parser.add_argument("--methods", metavar="NAME,NAME", help=f"of {', '.join(job.name for job in JOBS)} (all)")
    parser.add_argument("--peers", metavar="PYTHON", help="measure the other tools that this Python has, too")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="worker threads when measuring (one a core)")
    parser.add_argument("--memory", default="1GiB", help="memory budget when measuring (%(default)s)")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="where checkpoints are made and kept")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where the JSON and the picture go")
    parser.add_argument("--name", help="of the JSON and the picture (what was measured, and when)")
    parser.add_argument("--cold", action="store_true", help="drop the inputs from the page cache before each run")
    parser.add_argument("--no-warm-up", action="store_true", help="count the first round too")
    options = parser.parse_args(argv)
    known = [job.name for job in (*JOBS, *PEERS)]
    names = options.methods.split(",") if options.methods is not None else known
    unknown = sorted(set(names) - set(known))
    if unknown:
        parser.error(f"--methods: there is no {unknown[0]!r}; choose from {', '.join(known)}")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.cold and not hasattr(os, "posix_fadvise"):
        parser.error("--cold: this system cannot be told to forget a file")
    jobs = [job for job in (*JOBS, *(installed(options.peers) if options.peers else ())) if job.name in names]
    return options, [job.into_folder() for job in jobs] if options.layout == FOLDER else jobs


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, measure or check, print the tables, write the JSON; 1 when a check failed."""
    options, jobs = _options(argv)
    scratch = options.data / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "layout": options.layout,
        "day": time.strftime("%Y-%m-%d"),
        "machine": facts(options.data),
        "threads": options.threads,
        "memory": options.memory,
        "cold": options.cold,
    }
    how = Conditions(options.rounds, options.threads, options.memory, options.cold, not options.no_warm_up)
    failed, shown = False, []
    try:
        if options.check:
            kind = "check"
            checks = check(jobs, checkpoints(options.layout, options.data), scratch, VARIANTS)
            failed = any(one.problem for one in checks)
            report["checks"] = [asdict(one) for one in checks]
            shown = [check_table(checks)]
        elif options.scaling is not None:
            kind = "scaling"
            series = options.scaling or scaling.SERIES
            report["scaling"] = scale(series, options.data, scratch, options.layout, how)
            shown = [tables.scaling_table(report, name) for name in series]
        else:
            kind = "cold" if options.cold else "time"
            files = checkpoints(options.layout, options.data)
            results = bench(jobs, files, scratch, how)
            report["results"] = [result.report() for result in results]
            report["startup"] = startup(STARTUP_RUNS) | first_run(checkpoints("tiny", options.data), scratch)
            shown = [tables.time_table(report), tables.startup_table(report)]
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch)
    print("\n\n".join([*shown, tables.machine_table(report)]))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.name or f'{kind}-{options.layout}-' + time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\n{path}", file=sys.stderr)
    if "results" in report:
        tables.draw(report, path.with_suffix(".png"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
