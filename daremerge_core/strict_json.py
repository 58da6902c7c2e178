"""JSON as the files here must be written: no duplicate names, no NaN, no surprise from hostile input."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from .printable import shortened

__all__ = ["MAX_DEPTH", "JsonError", "line_of", "loads"]

MAX_DEPTH = 64
"""Levels of objects and lists in one another: far more than any file here has, far fewer than would break whoever
walks through them, shows them or writes them again."""


class JsonError(ValueError):
    """The text is not the JSON wanted; the message says what and, where it is known, on which line."""


def loads(data: bytes | str, *, constants: bool = False) -> Any:
    """Parse UTF-8 JSON, refusing a name that appears twice in one object.

    ``constants`` lets ``NaN`` and ``Infinity`` through, for a caller that can say more about where they stand.
    Raises :class:`JsonError`, whatever the bytes: bad UTF-8, more than :data:`MAX_DEPTH` levels and numbers of 5000
    digits too.
    """

    def refuse(constant: str) -> NoReturn:
        raise JsonError(f"{constant} is not a JSON number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise JsonError(f"the name {shortened(name)} appears twice" + _at_line(text, name))
            found[name] = value
        return found

    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        found = json.loads(text, object_pairs_hook=unique, parse_constant=None if constants else refuse)
    except JsonError:
        raise
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8 text at byte {error.start}") from None
    except ValueError as error:  # an integer of more digits than Python is willing to convert
        raise JsonError(str(error)) from None
    except RecursionError:
        raise JsonError("nested too deeply") from None
    _check_depth(found)
    return found


def _check_depth(value: Any) -> None:
    """Level by level, without recursion of its own."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        values = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list)))
        level = [one for inner in values for one in inner if isinstance(one, (dict, list))]
        if not level:
            return
    raise JsonError("nested too deeply")


def line_of(text: str, name: str) -> int | None:
    """The line (from 1) where an object's ``name`` last stands, or None when its spelling cannot be found."""
    spelt = re.compile(re.escape(json.dumps(name, ensure_ascii=False)) + r"\s*:")
    starts = [match.start() for match in spelt.finditer(text)]
    return text.count("\n", 0, starts[-1]) + 1 if starts else None


def _at_line(text: str, name: str) -> str:
    line = line_of(text, name) if "\n" in text else None
    return "" if line is None else f" (line {line})"
