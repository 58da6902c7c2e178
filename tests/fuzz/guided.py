"""The same targets driven by atheris, which looks for inputs that reach code that none before them reached.

It changes bytes without knowing the format, so it starts from what :mod:`fuzz.formats` makes. It needs atheris.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from .guards import time_limit, watched
from .targets import Target

SEEDS = 200
"""Cases of each target to start from."""
LONGEST = 1 << 14
"""Bytes of a case."""


def run(chosen: Sequence[Target], cases: int) -> None:
    """Run the cases, shared out evenly, each target in a process of its own; ends the program."""
    for target in chosen:
        child = os.fork()
        if not child:
            _explore(target, cases // len(chosen))
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{target.name}: see the file that libFuzzer wrote")
    sys.exit(0)


def _explore(target: Target, cases: int) -> None:
    import atheris

    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    seeds, work = folder / "seeds", folder / "work"
    seeds.mkdir()
    work.mkdir()
    os.chdir(work)
    for number in range(SEEDS):
        content = target.generate(Random(f"{target.name}/{number}"))
        (seeds / str(number)).write_bytes(content)
        target(content, work)  # imports what it needs

    for module in [module for name, module in sys.modules.items() if name.startswith("daremerge")]:
        for value in list(vars(module).values()):
            if callable(value) and getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__code__"):
                atheris.instrument_func(value)

    def one(content: bytes) -> None:
        with time_limit(20.0), watched(work, reads_anywhere=target.names_files):
            target(content, work)

    print(f"{target.name}: {cases} cases", flush=True)
    atheris.Setup([sys.argv[0], f"-runs={cases}", f"-max_len={LONGEST}", "-print_final_stats=1", str(seeds)], one)
    atheris.Fuzz()
