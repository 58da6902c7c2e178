"""Tensors by the blocks they lie in, in the order in which a forward pass visits them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from daremerge_core import Layout
from daremerge_core.layout import ROLES

from .blocks import Atlas

__all__ = ["Block", "by_block", "by_part", "by_role"]

T = TypeVar("T")


class Block(NamedTuple):
    """One block of one part of a model."""

    part: str
    name: str


def by_block(layout: Layout, keys: Iterable[str]) -> dict[Block, list[str]]:
    """The tensors of each block: part by part, blocks in forward order, tensors in the order of the file."""
    groups = Atlas(layout, keys).groups("block")
    return {Block(group.part, group.block): found for group, found in groups.items()}


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
