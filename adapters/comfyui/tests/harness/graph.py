"""One description of a workflow, and its two forms: as the canvas saves it, and as the server runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Graph", "Output"]

SEEDS = ("seed", "noise_seed")
"""Widgets that the front end puts a second one behind: what happens to the number after a run."""
CONTROL = "fixed"


@dataclass(frozen=True)
class Output:
    """A socket on the right of a node."""

    node: int
    slot: int
    type: str


@dataclass
class _Node:
    id: int
    type: str
    sockets: dict[str, Output]
    widgets: dict[str, Any]
    outputs: list[str]


@dataclass
class Graph:
    """A workflow under construction."""

    nodes: list[_Node] = field(default_factory=list)

    def add(self, type: str, *outputs: str, **inputs: Any) -> list[Output]:
        """A node, its inputs in the order in which it declares them. Sockets are given as :class:`Output`.

        Returns its outputs, of these types.
        """
        return self.put(type, outputs, inputs)

    def put(self, type: str, outputs: tuple[str, ...] | list[str], inputs: Mapping[str, Any]) -> list[Output]:
        """:meth:`add`, for inputs whose names are no Python names."""
        sockets = {name: value for name, value in inputs.items() if isinstance(value, Output)}
        widgets = {name: value for name, value in inputs.items() if not isinstance(value, Output)}
        node = _Node(len(self.nodes) + 1, type, sockets, widgets, list(outputs))
        self.nodes.append(node)
        return [Output(node.id, slot, kind) for slot, kind in enumerate(node.outputs)]

    def api(self) -> dict[str, dict[str, Any]]:
        """Inputs by name."""
        return {
            str(node.id): {
                "class_type": node.type,
                "inputs": {
                    **node.widgets,
                    **{name: [str(source.node), source.slot] for name, source in node.sockets.items()},
                },
            }
            for node in self.nodes
        }

    def ui(self) -> dict[str, Any]:
        """Widget values by position, as front ends of the old pack's time saved them."""
        links: list[list[Any]] = []
        inputs: dict[int, list[dict[str, Any]]] = {}
        outputs: dict[int, list[dict[str, Any]]] = {
            node.id: [
                {"name": kind, "type": kind, "links": [], "slot_index": slot} for slot, kind in enumerate(node.outputs)
            ]
            for node in self.nodes
        }
        for node in self.nodes:
            inputs[node.id] = []
            for slot, (name, source) in enumerate(node.sockets.items()):
                link = len(links) + 1
                links.append([link, source.node, source.slot, node.id, slot, source.type])
                inputs[node.id].append({"name": name, "type": source.type, "link": link})
                outputs[source.node][source.slot]["links"].append(link)
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(links),
            "nodes": [
                {
                    "id": node.id,
                    "type": node.type,
                    "pos": [340 * (node.id % 6), 420 * (node.id // 6)],
                    "size": [315, 300],
                    "flags": {},
                    "order": node.id - 1,
                    "mode": 0,
                    "inputs": inputs[node.id],
                    "outputs": outputs[node.id],
                    "properties": {"Node name for S&R": node.type},
                    "widgets_values": _positions(node.widgets),
                }
                for node in self.nodes
            ],
            "links": links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }


def _positions(widgets: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for name, value in widgets.items():
        found.append(value)
        if name in SEEDS:
            found.append(CONTROL)
    return found
