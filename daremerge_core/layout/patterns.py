"""Patterns over dotted tensor names: whole segments, and ``#`` for a number.

``input_blocks.#`` matches ``input_blocks.1`` and ``input_blocks.10``; ``input_blocks.1`` matches only itself.
"""

from __future__ import annotations

import re
from functools import cache

__all__ = ["fill", "is_number", "is_pattern", "leading", "within"]

# Nine digits hold any index there is, and keep a hostile name from costing a conversion of thousands.
_NUMBER = "[0-9]{1,9}"
_SEGMENT = re.compile(r"#|[^\s.#]+")


def is_pattern(text: str) -> bool:
    """Whether ``text`` is well formed: segments without spaces between single dots."""
    return all(_SEGMENT.fullmatch(segment) for segment in text.split("."))


def is_number(segment: str) -> bool:
    """Whether ``#`` matches this segment."""
    return re.fullmatch(_NUMBER, segment) is not None


@cache
def leading(pattern: str) -> re.Pattern[str]:
    """Matches names that begin with ``pattern``; one group per ``#``."""
    return re.compile(rf"{_regex(pattern)}(?=\.|\Z)")


@cache
def within(pattern: str) -> re.Pattern[str]:
    """Finds ``pattern`` as a run of whole segments anywhere in a name (with ``search``)."""
    return re.compile(rf"(?:\A|(?<=\.)){_regex(pattern)}(?=\.|\Z)")


def fill(template: str, numbers: tuple[str, ...]) -> str:
    """``layers.#`` with the numbers that the pattern matched in place of each ``#``."""
    texts = iter(numbers)
    return ".".join(next(texts) if segment == "#" else segment for segment in template.split("."))


def _regex(pattern: str) -> str:
    return r"\.".join(f"({_NUMBER})" if segment == "#" else re.escape(segment) for segment in pattern.split("."))
