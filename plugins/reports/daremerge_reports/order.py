"""Tensors by the blocks they lie in, in the order in which a forward pass visits them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from daremerge_core import Layout
from daremerge_core.layout import PARTS, ROLES

__all__ = ["NO_BLOCK", "Block", "by_block", "by_part", "by_role", "how_many", "words", "words_of_shape"]

T = TypeVar("T")

NO_BLOCK = "-"
"""Stands for the block of tensors that lie in none."""


class Block(NamedTuple):
    """One block of one part of a model."""

    part: str
    name: str


def by_block(layout: Layout, keys: Iterable[str]) -> dict[Block, list[str]]:
    """The tensors of each block: part by part, blocks in forward order, tensors in the order of the file."""
    found: dict[Block, list[str]] = {}
    for key in keys:
        place = layout.place(key)
        found.setdefault(Block(place.part, place.block or NO_BLOCK), []).append(key)
    at = {Block(part, name): index for part in PARTS for index, name in enumerate(layout.blocks(part))}
    return {
        block: found[block]
        for block in sorted(found, key=lambda block: (PARTS.index(block.part), at.get(block, len(at)), block.name))
    }


def by_part(values: Mapping[Block, T]) -> dict[str, dict[str, T]]:
    """Part → block's name → value, in the order given."""
    parts: dict[str, dict[str, T]] = {}
    for block, value in values.items():
        parts.setdefault(block.part, {})[block.name] = value
    return parts


def by_role(layout: Layout, keys: Iterable[str]) -> dict[str, list[str]]:
    """The tensors of each role, roles in the order of :data:`~daremerge_core.layout.ROLES`."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(layout.place(key).role, []).append(key)
    return {role: found[role] for role in ROLES if role in found}


def how_many(number: int, what: str = "tensor") -> str:
    """``1 tensor``, ``1,130 tensors``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def words(items: Sequence[str], *, limit: int = 3) -> str:
    """``a, b, c and 5 more``."""
    shown = ", ".join(items[:limit])
    return f"{shown} and {len(items) - limit} more" if len(items) > limit else shown


def words_of_shape(shape: Sequence[int]) -> str:
    """``320 × 768``; a scalar has no sizes."""
    return " × ".join(map(str, shape)) or "scalar"
