"""The same targets driven by atheris, which looks for inputs that reach code that none before them reached.

It changes bytes without knowing the format, so it starts from what :mod:`fuzz.formats` makes. It needs atheris.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from inspect import isclass, isfunction
from pathlib import Path
from random import Random
from types import FunctionType, ModuleType

from .guards import time_limit, watched
from .targets import Target

SEEDS = 200
"""Cases of each target to start from."""
LONGEST = 1 << 14
"""Bytes of a case."""
WATCHED = ("daremerge_", "yaml", "pickletools")
"""Beginnings of the names of modules whose branches are looked at: our own, and the parsers they leave work to."""


def run(chosen: Sequence[Target], cases: int, seconds: int, finds: Path) -> None:
    """Run the cases, shared out evenly, each target in a process of its own; ends the program.

    Args:
        seconds: for all targets together; 0 for no limit.
        finds: where a find is written, as ``TARGET-crash-…``. A target ends with its first.
    """
    finds.mkdir(parents=True, exist_ok=True)
    failed = []
    for target in chosen:
        folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        try:
            child = os.fork()
            if not child:
                _explore(target, cases // len(chosen), seconds // len(chosen), folder, finds)
            if os.waitpid(child, 0)[1]:
                failed.append(target.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if not failed:
        shutil.rmtree(finds) if not any(finds.iterdir()) else None
        sys.exit(0)
    sys.exit(f"finds in {finds}: {', '.join(failed)}")


def _explore(target: Target, cases: int, seconds: int, folder: Path, finds: Path) -> None:
    import atheris

    seeds, work = folder / "seeds", folder / "work"
    seeds.mkdir()
    work.mkdir()
    os.chdir(work)
    for number in range(SEEDS):
        content = target.generate(Random(f"{target.name}/{number}"))
        (seeds / str(number)).write_bytes(content)
        target(content, work)  # imports what it needs

    watched_functions = {
        id(function.__code__): function
        for name, module in list(sys.modules.items())
        if name.startswith(WATCHED)
        for function in _functions(module)
    }
    for function in watched_functions.values():
        atheris.instrument_func(function)

    def one(content: bytes) -> None:
        with time_limit(20.0), watched(work, reads_anywhere=target.names_files, changes=target.changes_files):
            target(content, work)

    print(f"{target.name}: {cases} cases, branches of {len(watched_functions)} functions", flush=True)
    options = [f"-runs={cases}", f"-max_len={LONGEST}", f"-artifact_prefix={finds}/{target.name}-"]
    options += [f"-max_total_time={seconds}"] if seconds else []
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(seeds)], one)
    atheris.Fuzz()


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """A module's own functions, and those of its classes."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        held = list(vars(value).values()) if isclass(value) else [value]
        for one in held:
            one = one.__func__ if isinstance(one, (classmethod, staticmethod)) else one
            one = one.fget if isinstance(one, property) else one
            if isfunction(one):
                yield one
