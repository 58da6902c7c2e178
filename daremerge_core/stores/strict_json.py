"""JSON as the files here must be written: no duplicate names, no NaN, no surprise from hostile input."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

__all__ = ["JsonError", "line_of", "loads"]


class JsonError(ValueError):
    """The text is not the JSON wanted; the message says what and, where it is known, on which line."""


def loads(data: bytes | str, *, constants: bool = False) -> Any:
    """Parse UTF-8 JSON, refusing a name that appears twice in one object.

    ``constants`` lets ``NaN`` and ``Infinity`` through, for a caller that can say more about where they stand.
    Raises :class:`JsonError`, whatever the bytes: bad UTF-8, endless nesting and numbers of 5000 digits too.
    """

    def refuse(constant: str) -> NoReturn:
        raise JsonError(f"{constant} is not a JSON number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise JsonError(f"the name {name!r} appears twice" + _at_line(text, name))
            found[name] = value
        return found

    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=unique, parse_constant=None if constants else refuse)
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


def line_of(text: str, name: str) -> int | None:
    """The line (from 1) where an object's ``name`` last stands, or None when its spelling cannot be found."""
    spelt = re.compile(re.escape(json.dumps(name, ensure_ascii=False)) + r"\s*:")
    starts = [match.start() for match in spelt.finditer(text)]
    return text.count("\n", 0, starts[-1]) + 1 if starts else None


def _at_line(text: str, name: str) -> str:
    line = line_of(text, name) if "\n" in text else None
    return "" if line is None else f" (line {line})"
