"""A workflow for each node of the old pack, as people saved them: every widget away from its default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoints import LORA, MODEL_A, MODEL_B
from .graph import Graph, Output

__all__ = ["ALIASES", "LEGACY", "old_workflow"]

LEGACY: Mapping[str, Mapping[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "legacy_nodes.json").read_text()
)
"""The old nodes' exact interface, by id."""

ALIASES = {"DM_DareModelMerger": "DM_DareModelMergerBlock", "DM_MaskedModelMerger": "DM_BlockModelMerger"}
"""Ids of the old pack's early releases, and the nodes that have their layouts."""

_WORDS = {
    "layer": "attn1.to_q.weight",
    "layers": "*.attn2.*",
    "lora_name": LORA,
    # One of three is off: without any, there is no gradient.
    "process_attn": True,
    "process_ff_net": True,
}


class _Sources:
    """What the sockets of a node are given, made when asked for the first time."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[str, int], Output] = {}
        self._used: dict[str, int] = {}

    def next(self, kind: str) -> Output:
        """Another one of a kind: of models A, then B."""
        number = self._used.get(kind, 0)
        self._used[kind] = number + 1
        return self._get(kind, min(number, 1))

    def _get(self, kind: str, number: int) -> Output:
        if (kind, number) not in self._made:
            self._make(kind, number)
        return self._made[kind, number]

    def _make(self, kind: str, number: int) -> None:
        if kind in ("MODEL", "CLIP"):
            name = (MODEL_A, MODEL_B)[number]
            outputs = self._graph.add("CheckpointLoaderSimple", "MODEL", "CLIP", "VAE", ckpt_name=name)
            self._made |= {(one.type, number): one for one in outputs}
            return
        model = self._get("MODEL", 0)
        if kind == "MODEL_MASK":
            [made] = self._graph.add(
                "DM_SimpleMasker", kind, model=model, operation="random", arg_one=0.5, arg_two=0.0, seed=number + 1
            )
        else:
            shares = {"exterior": 0.9, "interior": 0.5, "core": 0.2 + number / 2}
            [made] = self._graph.add("DM_ShellGradient", kind, model=model, **shares)
        self._made[kind, number] = made


def old_workflow(id: str) -> Graph:
    """The node of that id behind loaders, before something that shows what it gives."""
    table = LEGACY[ALIASES.get(id, id)]
    graph = Graph()
    sources = _Sources(graph)
    inputs: dict[str, Any] = {}
    for name, spec in [*table["required"].items(), *table["optional"].items()]:
        kind, facts = (spec, {}) if isinstance(spec, str) else (spec[0], spec[1] if len(spec) > 1 else {})
        if kind in ("MODEL", "CLIP", "MODEL_MASK", "LAYER_GRADIENT"):
            inputs[name] = sources.next(kind)
        else:
            inputs[name] = _WORDS.get(name) or _not_the_default(kind, facts)
    for output in graph.put(id, table["outputs"], inputs):
        _shown(graph, output)
    return graph


def _not_the_default(kind: Any, facts: Mapping[str, Any]) -> Any:
    default = facts.get("default")
    if isinstance(kind, list):
        return next((one for one in kind[1:] if one != default), kind[0])
    if kind == "FLOAT":
        return 0.35 if default != 0.35 else 0.4
    if kind == "INT":
        return 3 if default != 3 else 2
    return not default


def _shown(graph: Graph, output: Output) -> None:
    if output.type == "IMAGE":
        graph.add("PreviewImage", images=output)
    elif output.type in ("MODEL_MASK", "LAYER_GRADIENT"):
        kind, name = (
            ("DM_MaskReporting", "mask") if output.type == "MODEL_MASK" else ("DM_GradientReporting", "gradient")
        )
        text, _ = graph.put(kind, ["STRING", "IMAGE"], {name: output, "report": "size"})
        graph.add("PreviewAny", source=text)
    else:
        graph.add("PreviewAny", source=output)
