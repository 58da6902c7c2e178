"""A node as data: what it is called, what goes in and out, and the function behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from .origins import origin_of

__all__ = ["Call", "Node", "node_class"]

CATEGORY = "DareMerge"


@dataclass(frozen=True)
class Call:
    """One execution of a node: the values of its inputs by name, and where in the workflow it stands."""

    inputs: Mapping[str, Any]
    prompt: Mapping[str, Any] | None = None
    workflow: Mapping[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        return self.inputs[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.inputs.get(name, default)

    def origin(self, name: str) -> Any:
        """Where the value of an input comes from, in a recipe's words."""
        return origin_of(self.prompt, name)


@dataclass(frozen=True)
class Node:
    """What ComfyUI needs to know of a node."""

    id: str
    title: str
    category: str
    description: str
    inputs: Callable[[], Sequence[io.Input]]
    """Asked each time the browser loads its list of nodes, since files may have come or gone."""
    outputs: Sequence[io.Output]
    run: Callable[[Call], Sequence[Any] | io.NodeOutput]
    fingerprint: Callable[[Mapping[str, Any]], Any] | None = None
    """For nodes that read files: what changes when a file does."""
    is_output: bool = False
    is_deprecated: bool = False


def node_class(node: Node) -> type[io.ComfyNode]:
    """The class that ComfyUI wants for a node."""

    class Made(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id=node.id,
                display_name=node.title,
                category=f"{CATEGORY}/{node.category}",
                description=node.description,
                inputs=list(node.inputs()),
                outputs=list(node.outputs),
                hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
                is_output_node=node.is_output,
                is_deprecated=node.is_deprecated,
            )

        @classmethod
        def execute(cls, **inputs: Any) -> io.NodeOutput:
            found = node.run(Call(inputs, cls.hidden.prompt, cls.hidden.extra_pnginfo))
            return found if isinstance(found, io.NodeOutput) else io.NodeOutput(*found)

    if node.fingerprint is not None:
        fingerprint = node.fingerprint

        def fingerprint_inputs(cls: type[io.ComfyNode], **inputs: Any) -> Any:
            return fingerprint(inputs)

        Made.fingerprint_inputs = classmethod(fingerprint_inputs)  # type: ignore[assignment]
    Made.__name__ = Made.__qualname__ = node.id.replace(".", "_").replace("-", "_")
    return Made
