"""The 25 nodes of ComfyUI-DareMerge under their old ids, so that saved workflows load and run.

Each is a row: the old node's inputs, and the step of a recipe that they stand for.
"""

from __future__ import annotations

from ..node import Node
from . import gradients, masks, merges, reports, utilities

__all__ = ["legacy"]


def legacy() -> list[Node]:
    """Every old node, and two ids of earlier releases as hidden aliases."""
    return [node for module in (merges, masks, gradients, reports, utilities) for node in module.nodes()]
