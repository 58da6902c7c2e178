"""Nodes that are no component: loading and saving."""

from __future__ import annotations

from ..node import Node
from . import checkpoint, lora, recipe

__all__ = ["extras"]


def extras() -> list[Node]:
    return [checkpoint.save(), recipe.save(), recipe.load(), lora.load(), lora.save()]
