"""The nodes that this repository ships: what is written down is about them, whatever else is installed."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

__all__ = ["shipped_nodes"]


def shipped_nodes() -> list[Any]:
    """The pack's nodes, with those of the project's own plugins."""
    from daremerge_comfyui.extension import all_nodes
    from daremerge_core.catalog import SHIPPED, load

    ours = [one for one in entry_points(group="daremerge") if one.dist is not None and one.dist.name in SHIPPED]
    return all_nodes(load(ours))
