"""What ComfyUI asks a node pack for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from daremerge_core import Catalog, discover

from .generated import generated
from .legacy import legacy
from .node import Node, node_class
from .nodes import extras

__all__ = ["DareMerge", "all_nodes"]


def all_nodes(catalog: Catalog) -> list[Node]:
    """Every node of the pack: the old ones under their old ids, one for each component, and a few beside."""
    for plugin in catalog.plugins:
        if plugin.error:
            logging.warning("daremerge: the plugin %s could not be loaded: %s", plugin.name, plugin.error)
    return [*legacy(), *generated(catalog), *extras()]


class DareMerge(ComfyExtension):
    """The pack."""

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        classes = {node.id: node_class(node) for node in all_nodes(discover())}
        _warn_of_others(set(classes), "was loaded before, and is replaced")
        # ComfyUI loads all packs before it goes on to anything else.
        asyncio.get_running_loop().call_soon(_warn_where_replaced, classes)
        return list(classes.values())


def _warn_where_replaced(classes: Mapping[str, type[io.ComfyNode]]) -> None:
    import nodes

    lost = {name for name, cls in classes.items() if nodes.NODE_CLASS_MAPPINGS.get(name) is not cls}
    _warn_of_others(lost, "was loaded after, and is used in place of this one")


def _warn_of_others(names: Collection[str], what: str) -> None:
    """Say it where another pack has nodes of these names: the canvas cannot tell the two apart."""
    import nodes

    clashes = sorted(name for name in names if name in nodes.NODE_CLASS_MAPPINGS)
    if clashes:
        module = getattr(nodes.NODE_CLASS_MAPPINGS[clashes[0]], "RELATIVE_PYTHON_MODULE", "another pack")
        logging.warning(
            "daremerge: %d nodes, such as %s, are also defined by %s, which %s. Remove one of the two.",
            len(clashes),
            clashes[0],
            module,
            what,
        )
