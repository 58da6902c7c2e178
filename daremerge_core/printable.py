"""What files say, made fit to be shown: nothing in it can drive a terminal, hide text or feign other lines.

Names, metadata and errors hold text that somebody else wrote. Whatever shows such text passes it through here:
:func:`printable` for a terminal or a page, :func:`json_text` for JSON, :func:`shortened` for a value in an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from reprlib import Repr
from typing import Any

__all__ = ["json_text", "printable", "printable_lines", "shortened"]

_repr = Repr()  # bounded in depth and length, whatever the value
_repr.maxlist, _repr.maxdict, _repr.maxstring, _repr.maxlong, _repr.maxother = 8, 4, 60, 60, 60

_OTHER_THAN_ASCII = re.compile(r"[^\n -~]")


def printable(text: str) -> str:
    """Text with every character that does not print spelt out, as Python spells it: ``\\x1b``, ``\\n``, ``\\u202e``.

    So escape sequences, line breaks, marks that turn the direction of writing and halves of surrogate pairs are seen
    rather than obeyed. Letters of every script stay.
    """
    return text if text.isprintable() else "".join(map(_spelt, text))


def _spelt(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def printable_lines(text: str) -> str:
    """As :func:`printable`, for text of several lines; all but the first are set in.

    So a line break in a name cannot feign a line of the program's own.
    """
    return "\n  ".join(printable(line) for line in text.split("\n"))


def json_text(value: Any) -> str:
    """Indented JSON in which characters that do not print are spelt ``\\u202e``, within the rules of JSON.

    A number that JSON does not know (NaN, infinite) is its name as text.
    """
    text = json.dumps(_known(value), indent=2, ensure_ascii=False, allow_nan=False)
    return _OTHER_THAN_ASCII.sub(lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text)


def _known(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _known(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_known(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def shortened(value: Any) -> str:
    """The ``repr`` of a value at a length for one line of an error, whatever a file holds there."""
    return _repr.repr(value)
