"""A report of measurements as tables and a picture, for a terminal and for docs/benchmarks.md.

A report is what ``run.py`` writes as JSON, so the tables of a run that is long gone can be drawn again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from daremerge_core.sizes import format_size

__all__ = ["draw", "machine_table", "markdown", "scaling_table", "startup_table", "time_table"]

Report = Mapping[str, Any]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head, padded to be read as plain text too."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def time_table(report: Report) -> str:
    """One row a job, medians over the rounds; peaks of memory are the largest."""
    rows: list[Sequence[str]] = [("job", "wall s", "floor s", "× floor", "CPU s", "GB/s", "anonymous", "resident")]
    rows += [(_name(one), *_cells(one)) for one in report["results"]]
    return markdown(rows)


def scaling_table(report: Report, series: str) -> str:
    """One row a point of a series."""
    rows: list[Sequence[str]] = [
        (series, "job", "wall s", "floor s", "× floor", "CPU s", "GB/s", "anonymous", "resident")
    ]
    rows += [(str(one["at"]), _name(one), *_cells(one)) for one in report["scaling"][series]]
    return markdown(rows)


def startup_table(report: Report) -> str:
    return markdown([("start-up", "s"), *((name, f"{seconds:.2f}") for name, seconds in report["startup"].items())])


def machine_table(report: Report) -> str:
    return markdown([("machine", ""), *((name, str(value)) for name, value in report["machine"].items())])


def _name(result: Mapping[str, Any]) -> str:
    return result["name"] if result["tool"] == "daremerge" else f"{result['tool']}: {result['name']}"


def _cells(result: Mapping[str, Any]) -> tuple[str, ...]:
    runs, floors = result["runs"], result["floors"]
    wall = median(run["wall"] for run in runs)
    cpu = [run["cpu"] for run in runs if run["cpu"] is not None]
    return (
        f"{wall:.1f}",
        f"{median(run['wall'] for run in floors):.1f}",
        f"{result['ratio']:.1f}",
        f"{median(cpu):.1f}" if cpu else "n/a",
        f"{result['nbytes'] / wall / 1e9:.2f}",
        _peak([run["anonymous"] for run in runs]),
        _peak([run["resident"] for run in runs]),
    )


def _peak(sizes: Sequence[int | None]) -> str:
    known = [size for size in sizes if size is not None]
    return format_size(max(known)) if known else "n/a"


def draw(report: Report, path: Path) -> None:
    """Bars of wall time, a tick where the job's floor was; the least and the most of the rounds as a line. PNG."""
    from matplotlib.figure import Figure

    results = report["results"][::-1]
    figure = Figure(figsize=(8.0, 1.0 + 0.3 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for place, one in enumerate(results):
        walls = [run["wall"] for run in one["runs"]]
        own = one["tool"] == "daremerge"
        axes.barh(place, median(walls), height=0.6, color="#4477aa" if own else "#bbbbbb")
        axes.plot([min(walls), max(walls)], [place, place], color="#1f2328", linewidth=1)
        least = median(run["wall"] for run in one["floors"])
        axes.plot([least, least], [place - 0.4, place + 0.4], color="#ee6677", linewidth=2)
        axes.annotate(f" {one['ratio']:.1f} ×", (max(walls), place), va="center", fontsize=8)
    axes.set_yticks(range(len(results)), [_name(one) for one in results], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("seconds, logarithmic; red: reading the inputs and copying one file")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
