"""Byte sizes as people type and read them: ``"1GiB"``, ``"500MB"``, ``"5G"``."""

from __future__ import annotations

import re
from decimal import Decimal

from .errors import DaremergeError

__all__ = ["SizeError", "format_size", "parse_size"]

_UNITS: dict[str, int] = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    # As GNU coreutils reads them: a bare letter and "iB" are powers of 1024, "B" powers of 1000.
    _UNITS[_letter] = _UNITS[f"{_letter}ib"] = 1024**_power
    _UNITS[f"{_letter}b"] = 1000**_power

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]*)", re.IGNORECASE | re.ASCII)


class SizeError(DaremergeError, ValueError):
    """A byte size does not parse. Also a ``ValueError``, so that field validators report it in place."""


def parse_size(text: str) -> int:
    """``"1.5GiB"`` → 1610612736. Bytes when no unit is given; a fraction of a byte is dropped.

    ``KiB MiB GiB TiB`` and ``K M G T`` are powers of 1024, ``KB MB GB TB`` powers of 1000; case does not matter.
    Raises :class:`SizeError` for anything else, and for less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match["unit"].lower() not in _UNITS:
        raise SizeError(f"{text!r} is not a size.", hint="Write a number and a unit, such as 512MiB, 1.5GiB or 5GB.")
    size = int(Decimal(match["number"]) * _UNITS[match["unit"].lower()])
    if size < 1:
        raise SizeError(f"The size {text!r} is less than one byte.")
    return size


def format_size(size: int) -> str:
    """2282749952 → ``"2.13 GiB"``: three significant digits or more, in powers of 1024."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.4g} {unit}"
    return f"{value / 1024:.4g} TiB"
