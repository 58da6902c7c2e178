"""Numbers, lists and shapes as a reader says them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["how_many", "words", "words_of_shape"]


def how_many(number: int, what: str = "tensor") -> str:
    """``1 tensor``, ``1,130 tensors``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def words(items: Iterable[str], limit: int = 3) -> str:
    """``a, b, c and 5 more``."""
    found = list(items)
    shown = ", ".join(found[:limit])
    return f"{shown} and {len(found) - limit} more" if len(found) > limit else shown


def words_of_shape(shape: Sequence[int]) -> str:
    """``320 × 768``; a scalar has no sizes."""
    return " × ".join(map(str, shape)) or "scalar"
