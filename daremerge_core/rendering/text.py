"""A report as text: plain for files, by rich for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import IO

from ..printable import printable
from ..values import Report

__all__ = ["cell", "columns", "is_number", "padding", "print_report", "to_text"]

WIDTH = 100
"""Columns of a text file."""

_WIDEST = 200
"""Letters that a cell is padded to at most: one long name does not make every line of a table as long."""


def columns(report: Report) -> list[str]:
    """The table's columns, in the order they first appear."""
    return list(dict.fromkeys(name for row in report.rows for name in row))


def cell(value: object) -> str:
    """A value as a table shows it: numbers with at most four digits that mean something, whole ones in full."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return printable(str(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def is_number(report: Report, column: str) -> bool:
    """Whether a column holds numbers alone, and so stands flush right."""
    found = [row[column] for row in report.rows if row.get(column) is not None]
    return bool(found) and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in found)


def padding(cells: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column of a table: that of its widest cell, within reason."""
    return [min(max(map(len, column)), _WIDEST) for column in zip(*cells, strict=True)]


def to_text(report: Report) -> str:
    """Title, paragraphs and the whole table, as plain text with a newline at the end."""
    parts = [f"{printable(report.title)}\n{'=' * len(printable(report.title))}"]
    parts += [_wrapped(paragraph, WIDTH) for paragraph in paragraphs(report)]
    if report.rows:
        parts.append(_table(report))
    return "\n\n".join(parts) + "\n"


def paragraphs(report: Report) -> list[str]:
    """The text's paragraphs, each a run of lines."""
    found = (part.strip("\n") for part in report.text.split("\n\n"))
    return ["\n".join(printable(line) for line in part.splitlines()) for part in found if part.strip()]


def _wrapped(paragraph: str, width: int) -> str:
    """Lines of at most ``width`` letters; what goes on from a line stands two further in than a line that is set in."""
    lines = []
    for line in paragraph.splitlines():
        indent = len(line) - len(line.lstrip())
        further = " " * (indent + 2 if indent else 0)
        lines.append(textwrap.fill(line, width, subsequent_indent=further) if len(line) > width else line)
    return "\n".join(lines)


def _table(report: Report) -> str:
    names = columns(report)
    cells = [[printable(name) for name in names], *([cell(row.get(name)) for name in names] for row in report.rows)]
    widths = padding(cells)
    right = [is_number(report, name) for name in names]

    def line(row: Sequence[str]) -> str:
        padded = (
            one.rjust(width) if flush else one.ljust(width)
            for one, width, flush in zip(row, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(cells[0]), line(["-" * width for width in widths]), *map(line, cells[1:])])


def print_report(report: Report, stream: IO[str]) -> None:
    """Show a report on a terminal; where ``stream`` is none, as plain text that a pipe can work on."""
    if not stream.isatty():
        stream.write(to_text(report))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    console.print(Text(printable(report.title), style="bold"))
    for paragraph in paragraphs(report):
        console.print()
        console.print(Text(_wrapped(paragraph, console.width)))
    if report.rows:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in columns(report):
            number = is_number(report, name)
            table.add_column(
                Text(printable(name)), justify="right" if number else "left", no_wrap=number, overflow="fold"
            )
        for row in report.rows:
            table.add_row(*(Text(cell(row.get(name))) for name in columns(report)))
        console.print(table)
