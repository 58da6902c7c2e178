"""``python -m fuzz``: many cases against every target. A find is written down, and the exit status is 1.

Case ``n`` of a target is always the same, so a find is made again with ``--target NAME --first n --cases 1``, or with
``--file FIND``.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random

from .guards import Breach, bounded_memory, time_limit, watched
from .targets import TARGETS, Target

WARM_UP = 20
"""Cases before the watch begins, and in which modules are imported and caches filled."""

MEASURED = 100
"""Memory is measured in one case of so many: measuring takes longer than reading."""

SECONDS = 20.0
"""A case that takes longer hangs."""


def check(target: Target, content: bytes, folder: Path, *, measure: bool = False) -> bool:
    """One case under all guards; whether the file was accepted. Raises what it finds."""
    with ExitStack() as guards:
        guards.enter_context(time_limit(SECONDS))
        if measure:
            guards.enter_context(bounded_memory(target.most_memory(content)))
        guards.enter_context(watched(folder, reads_anywhere=target.names_files, changes=target.changes_files))
        return target(content, folder)
    raise AssertionError  # no guard swallows


def _run(target: Target, first: int, count: int, finds: Path) -> tuple[int, int]:
    """Cases from ``first`` on; how many were accepted, and how many are finds: of those with one cause, one is kept."""
    accepted = 0
    causes: Counter[str] = Counter()
    shown = time.monotonic() + 10
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        folder = Path(name)
        os.chdir(folder)
        for number in range(first, first + count):
            content = target.generate(Random(f"{target.name}/{number}"))
            try:
                if number - first < WARM_UP:
                    target(content, folder)
                accepted += check(target, content, folder, measure=number % MEASURED == 0 and number - first >= WARM_UP)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                cause = _cause(error)
                causes[cause] += 1
                if causes[cause] == 1:
                    finds.mkdir(parents=True, exist_ok=True)
                    (finds / f"{target.name}-{number}").write_bytes(content)
                    print(f"\n{target.name} {number}: {cause}", file=sys.stderr)
                    traceback.print_exc(limit=-6)
            if time.monotonic() > shown:
                shown += 10
                print(f"  {target.name}: {number - first + 1:,} of {count:,}", file=sys.stderr, flush=True)
        os.chdir("/")
    return accepted, sum(causes.values())


def _cause(error: BaseException) -> str:
    """The same for all finds of one place in the code."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    kind = str(error)[:60] if isinstance(error, Breach) else type(error).__name__
    return f"{kind} at {Path(last.filename).name}:{last.lineno}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description="Read files as somebody hostile would write them."
    )
    parser.add_argument("--cases", type=int, default=1_000_000, help="in all, shared out among the targets")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each target")
    parser.add_argument("--target", action="append", choices=TARGETS, help="this one only; repeatable")
    parser.add_argument("--finds", type=Path, default=Path("fuzz-finds"), help="where finds are written")
    parser.add_argument("--file", type=Path, help="read this file alone, with --target")
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--seconds", type=int, default=0, help="at most so long in all, with atheris")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = [TARGETS[name] for name in given.target or TARGETS]
    if given.file:
        content = given.file.read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            for number in range(WARM_UP):
                chosen[0](chosen[0].generate(Random(f"{chosen[0].name}/{number}")), Path(folder))
            check(chosen[0], content, Path(folder), measure=True)
            os.chdir("/")
        return
    if given.engine == "atheris":
        from .guided import run

        run(chosen, given.cases, given.seconds, given.finds.absolute())
        return
    finds, shares = given.finds.absolute(), sum(one.share for one in chosen)
    began, found = time.monotonic(), 0
    for target in chosen:
        count = given.cases * target.share // shares
        before, started = _peak(), time.monotonic()
        accepted, wrong = _run(target, given.first, count, finds)
        took = time.monotonic() - started
        print(
            f"{target.name:10} {count:9,} cases  {took:7.1f} s  {1e6 * took / max(count, 1):7.0f} µs each  "
            f"{100 * accepted / max(count, 1):3.0f} % accepted  "
            f"{_peak() - before:5} MiB more  {wrong} finds",
            flush=True,
        )
        found += wrong
    print(f"{time.monotonic() - began:.0f} s, peak {_peak()} MiB, {found} finds" + (f" in {finds}" if found else ""))
    sys.exit(1 if found else 0)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
