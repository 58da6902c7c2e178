"""What a node stands for: a step of a recipe, over live models.

Masks, gradients and merges of the canvas are steps that name their inputs; nothing is computed before a node needs
tensors, and then the whole graph below it runs in one pass, as a recipe file's does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Flat", "Source", "Step", "Value", "flatten"]


@dataclass(frozen=True, eq=False)
class Source:
    """A leaf: something of the canvas that the core reads as a model, a mask or a gradient."""

    value: Any
    """What came through the socket."""
    origin: Any = None
    """How a recipe file would say it: see :mod:`~daremerge_comfyui.origins`."""
    made: Step | None = None
    """The graph it was made by, once it is remembered as part of another: see :mod:`~daremerge_comfyui.made`."""


@dataclass(frozen=True, eq=False)
class Step:
    """A component with its options, and its inputs by port."""

    op: str
    """``kind.name``, as in a recipe."""
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Value | Sequence[Value] | None] = field(default_factory=dict)

    def edges(self) -> Iterator[tuple[str, Value]]:
        """(port, value) for every input."""
        for port, value in self.inputs.items():
            if value is not None:
                yield from ((port, one) for one in (value if isinstance(value, (list, tuple)) else [value]))

    def sources(self) -> Iterator[Source]:
        """Every leaf below, each as often as it is used."""
        for _, value in self.edges():
            yield from value.sources() if isinstance(value, Step) else [value]


Value = Step | Source


@dataclass
class Flat:
    """A graph as a recipe's steps, and the leaves by the names that the steps have for them."""

    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    """Step or live value → its name."""

    def name(self, thing: object, wish: str) -> str:
        taken = {*self.steps, *self.sources}
        name, number = wish, 2
        while name in taken:
            name, number = f"{wish}-{number}", number + 1
        self.names[id(thing)] = name
        return name


def flatten(root: Step) -> tuple[str, Flat]:
    """The name of ``root``, and all steps it needs, each under a name of its own: the same ones for the same graph."""
    flat = Flat()
    return _add(root, flat), flat


def _add(step: Step, flat: Flat) -> str:
    if id(step) in flat.names:
        return flat.names[id(step)]
    ports: dict[str, Any] = {}
    for port, value in step.inputs.items():
        if isinstance(value, (list, tuple)):
            ports[port] = [_reference(one, port, flat) for one in value]
        elif value is not None:
            ports[port] = _reference(value, port, flat)
    name = flat.name(step, step.op.partition(".")[2])
    flat.steps[name] = {"op": step.op, **ports, **step.options}
    return name


def _reference(value: Value, port: str, flat: Flat) -> str:
    if isinstance(value, Step):
        return _add(value, flat)
    if id(value.value) not in flat.names:  # one model on two sockets is read once
        flat.sources[flat.name(value.value, port)] = value
    return flat.names[id(value.value)]
