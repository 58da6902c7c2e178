"""How time and memory grow: with the threads, with the number of models, with the size of the files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpoints import FOLDER, Checkpoints, checkpoints
from jobs import DAREMERGE, JOBS, RUN, Job

__all__ = ["SERIES", "Point", "points"]

SERIES = ("threads", "models", "sizes")


@dataclass(frozen=True)
class Point:
    """One job at one place of a series."""

    series: str
    at: int | str
    job: Job
    files: Checkpoints
    threads: int = 0


def points(series: Sequence[str], data: Path, layout: str) -> Iterator[Point]:
    """The points of some of :data:`SERIES`; files are made when the point that needs them comes."""
    by_name = {job.name: job for job in JOBS}
    if "threads" in series:
        files = checkpoints(layout, data)
        for name in ("dare", "ties"):
            for threads in _doubling(os.cpu_count() or 1):
                yield Point("threads", threads, by_name[name], files, threads)
    if "models" in series:
        files = checkpoints(layout, data)
        for method in ("dare-ties", "ties"):
            for count in (2, 4, 8):
                yield Point("models", count, *_of_many(method, count, files))
    if "sizes" in series:
        for size in (layout, *(("sdxl", FOLDER) if layout == "sd15" else ())):
            job = by_name["lerp"]
            yield Point("sizes", size, job.into_folder() if size == FOLDER else job, checkpoints(size, data))


def _doubling(most: int) -> list[int]:
    found = [1]
    while found[-1] * 2 <= most:
        found.append(found[-1] * 2)
    return found


def _of_many(method: str, count: int, files: Checkpoints) -> tuple[Job, Checkpoints]:
    """A and B in turn, under as many names: what is read is what so many files would be, from the same cache."""
    names = [f"model{number}" for number in range(count)]
    many = {name: files["ab"[number % 2]] for number, name in enumerate(names)} | {"base": files["base"]}
    words = (*DAREMERGE, "merge", method, *(f"{{{name}}}" for name in names), "--base", "{base}", *RUN)
    return Job(method, (*names, "base"), words), many
