"""Reports as people read them: on a terminal, as text, JSON, a picture, or one web page with everything in it.

A reporter knows none of this. A new format is a module beside these and a line in :data:`FORMATS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..errors import OutputError
from ..printable import json_text
from ..stores.atomic import resolve_target, write_bytes
from ..values import Report

__all__ = ["FORMATS", "Theme", "check_report_path", "to_json", "write_report"]

Theme = Literal["light", "dark"]

FORMATS = {
    ".html": "one web page, pictures included, for light and dark screens",
    ".json": "all the numbers",
    ".png": "the pictures",
    ".txt": "text and table",
}


def check_report_path(path: Path, *, overwrite: bool) -> None:
    """Raise :class:`~daremerge_core.errors.OutputError` where a report cannot be written, before it is made."""
    if path.suffix.lower() not in FORMATS:
        kinds = ", ".join(f"{suffix} ({what})" for suffix, what in FORMATS.items())
        raise OutputError(f"cannot tell the format of {path}", hint=f"A report is written as {kinds}.")
    resolve_target(path, overwrite=overwrite)
    if path.suffix.lower() in (".html", ".png"):
        from .pictures import need_matplotlib

        need_matplotlib(path)


def write_report(report: Report, path: Path, *, theme: Theme = "light", overwrite: bool = False) -> Path:
    """Write a report in the format that the path's ending names, whole or not at all.

    Args:
        theme: colours of a ``.png``; a page holds both.

    Raises:
        OutputError: the format is unknown, matplotlib is missing, there is no picture, or the file cannot be written.
    """
    check_report_path(path, overwrite=overwrite)
    return write_bytes(path, _rendered(report, path, theme), overwrite=overwrite)


def _rendered(report: Report, path: Path, theme: Theme) -> bytes:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return (to_json(report) + "\n").encode()
    if suffix == ".txt":
        from .text import to_text

        return to_text(report).encode()
    if suffix == ".png":
        from .pictures import to_png

        if not report.figures:
            raise OutputError(f"{path}: there is nothing to draw in this report", hint="Write it as .txt or .html.")
        return to_png(report, theme)
    from .page import to_page

    return to_page(report).encode()


def to_json(report: Report) -> str:
    """Title, text, rows and data. A number that JSON does not know (NaN, infinite) is its name as text."""
    content = {"title": report.title, "text": report.text, "rows": list(report.rows), "data": dict(report.data)}
    return json_text(content)
