"""Records of sums, added field by field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

__all__ = ["added"]

T = TypeVar("T")


def added(records: Iterable[T]) -> T:
    """The sum of dataclasses of one type whose fields are numbers, or tuples of such: in order. One at least."""
    total, *rest = records
    for one in rest:
        total = type(total)(*(_sum(getattr(total, field.name), getattr(one, field.name)) for field in fields(total)))  # type: ignore[arg-type]
    return total


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, tuple):
        return tuple(map(_sum, one, other))
    return one + other
