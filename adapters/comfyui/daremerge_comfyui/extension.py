"""What ComfyUI asks a node pack for."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from daremerge_core import discover

from .generated import generated
from .legacy import legacy
from .node import Node, node_class
from .nodes import extras

__all__ = ["DareMerge", "all_nodes"]


def all_nodes() -> list[Node]:
    """Every node of the pack: the old ones under their old ids, one for each component, and a few beside."""
    catalog = discover()
    for plugin in catalog.plugins:
        if plugin.error:
            logging.warning("daremerge: the plugin %s could not be loaded: %s", plugin.name, plugin.error)
    return [*legacy(), *generated(catalog), *extras()]


class DareMerge(ComfyExtension):
    """The pack."""

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes = all_nodes()
        warn_of_clashes(nodes)
        return [node_class(node) for node in nodes]


def warn_of_clashes(nodes: Iterable[Node]) -> None:
    """Say it where another pack has nodes of these names: ComfyUI keeps the ones of the folder that it reads last."""
    import nodes as comfy_nodes

    clashes = sorted(node.id for node in nodes if node.id in comfy_nodes.NODE_CLASS_MAPPINGS)
    if clashes:
        other = comfy_nodes.NODE_CLASS_MAPPINGS[clashes[0]].RELATIVE_PYTHON_MODULE
        logging.warning(
            "daremerge: %d nodes, such as %s, are also defined by %s. Remove that pack's folder: which of the two runs "
            "depends on the names of the folders.",
            len(clashes),
            clashes[0],
            other,
        )
