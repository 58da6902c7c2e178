"""A node for each component: stable names and inputs, and each of them runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from harness.checkpoints import BASE, LORA, MODEL_A, MODEL_B
from harness.client import Client
from harness.graph import Graph, Output

GOLDEN = Path(__file__).parents[1] / "golden" / "generated_nodes.json"
IDS = sorted(json.loads(GOLDEN.read_text())) if GOLDEN.exists() else []

FIXTURES = ["daremerge.merge.power-lerp", "daremerge.merge.fixture-mean", "daremerge.clip.merge.power-lerp"]
"""From a plugin that this repository's pack knows nothing of: see ``tests/fixtures/site`` at the root."""

_FILES = {"lora_name", "recipe"}


def interface(info: dict[str, Any]) -> dict[str, Any]:
    """What saved workflows depend on: names, types, choices, ranges, defaults, their order."""
    inputs = {
        kind: {name: [spec[0], _facts(name, spec[1])] for name, spec in info["input"].get(kind, {}).items()}
        for kind in ("required", "optional")
    }
    return {"title": info["display_name"], "category": info["category"], **inputs, "outputs": info["output"]}


def _facts(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    left_out = {"tooltip", "multiselect", "placeholder"} | ({"options"} if name in _FILES else set())
    return {key: value for key, value in facts.items() if key not in left_out}


def ours(object_info: dict[str, Any]) -> dict[str, Any]:
    """The nodes of this repository's plugins: those of the plugin under test are left out."""
    return {
        name: info
        for name, info in object_info.items()
        if name.startswith("daremerge.") and not name.endswith(tuple(_of_the_fixture()))
    }


def _of_the_fixture() -> set[str]:
    from daremerge_core import discover

    found = [plugin for plugin in discover().plugins if plugin.distribution == "daremerge-fixture"]
    return {f".{cls.kind}.{cls.name}" for plugin in found for cls in plugin.components}


def test_interfaces_are_stable(object_info: dict[str, Any]) -> None:
    found = {name: interface(info) for name, info in sorted(ours(object_info).items())}
    if os.environ.get("DAREMERGE_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    assert found == json.loads(GOLDEN.read_text())


def test_everything_is_explained(object_info: dict[str, Any]) -> None:
    for name, info in object_info.items():
        if not name.startswith(("daremerge.", "DM_")):
            continue
        assert info["description"], name
        assert all(info["output_tooltips"]), name
        for kind in ("required", "optional"):
            for word, spec in info["input"].get(kind, {}).items():
                assert spec[1]["tooltip"], f"{name}, {word}"
                assert "--" not in spec[1]["tooltip"], f"{name}, {word} speaks of the command line"


_GIVEN: dict[str, dict[str, Any]] = {
    "daremerge.clip.edit.noise": {"include": "*v_proj*"},
    "daremerge.clip.edit.normalize": {"method": "all"},
    "daremerge.clip.edit.rescale": {"norm": "5"},
    "daremerge.edit.rescale": {"norm": "5"},
    "daremerge.gradient.add": {"outside": "clamp"},
    "daremerge.gradient.attention": {"attn": "0.3"},
    "daremerge.gradient.block": {"input": "0.3"},
    "daremerge.gradient.depth": {"points": "0: 0.5, 1 = 1"},
    "daremerge.gradient.divide": {"outside": "allow"},
    "daremerge.gradient.edit": {"include": "*.attn1.*", "value": 0.4},
    "daremerge.gradient.mbw": {"preset": "GRAD_V"},
    "daremerge.gradient.parts": {"unet": "0.4"},
    "daremerge.gradient.pattern": {"layers": "'*.attn1.*': 0.2"},
    "daremerge.gradient.shell": {"core": "0.4"},
    "daremerge.gradient.subtract": {"outside": "allow"},
    "daremerge.lora.convert": {"format": "diffusers"},
    "daremerge.lora.extract": {"rank": 4, "decomposition": "randomised", "include": "*.attn2.to_v*"},
    "daremerge.lora.load": {"lora_name": LORA},
    "daremerge.lora.resize": {"rank": "2"},
    "daremerge.mask.edit": {"include": "*.attn2.*", "to": "false"},
}


@pytest.mark.parametrize("id", [*(one for one in IDS if one != "daremerge.recipe.load"), *FIXTURES])
def test_runs(id: str, client: Client, object_info: dict[str, Any]) -> None:
    client.succeed(_workflow(id, object_info[id]).api())


def _workflow(id: str, info: dict[str, Any]) -> Graph:
    """The node with all that it must have, before something that shows what it gives."""
    graph = Graph()
    model_a, clip_a, _ = graph.add("CheckpointLoaderSimple", "MODEL", "CLIP", "VAE", ckpt_name=MODEL_A)
    model_b, clip_b, _ = graph.add("CheckpointLoaderSimple", "MODEL", "CLIP", "VAE", ckpt_name=MODEL_B)
    base, clip_base, _ = graph.add("CheckpointLoaderSimple", "MODEL", "CLIP", "VAE", ckpt_name=BASE)
    if id in ("daremerge.report.merge", "daremerge.recipe.save"):
        [model_a] = graph.put("daremerge.merge.lerp", ["MODEL"], {"a": model_a, "b": model_b})
    [mask] = graph.put("daremerge.mask.random", ["MODEL_MASK"], {"model": model_a, "seed": 1})
    [gradient] = graph.put("daremerge.gradient.shell", ["LAYER_GRADIENT"], {"model": model_a, "core": "0.5"})
    [lora] = graph.put("daremerge.lora.load", ["LORA_MODEL"], {"lora_name": LORA})
    given = {
        "MODEL": [model_a, model_b],
        "MODEL,CLIP": [model_a, model_b],
        "CLIP": [clip_a, clip_b],
        "MODEL_MASK": [mask, mask],
        "LAYER_GRADIENT": [gradient, gradient],
        "LORA_MODEL": [lora, lora],
    }
    used: dict[str, int] = {}
    inputs: dict[str, Any] = {}
    names = {**info["input"]["required"], **({"model": ["MODEL"]} if id == "daremerge.recipe.save" else {})}
    for name, spec in names.items():
        if spec[0] in given:
            number = used.get(spec[0], 0)
            inputs[name] = given[spec[0]][min(number, 1)]
            used[spec[0]] = number + 1
    if "base" in inputs:
        inputs["base"] = clip_base if ".clip." in id else base
    for output in graph.put(id, info["output"], inputs | _GIVEN.get(id, {})):
        if not info["output_node"]:
            _shown(graph, output)
    return graph


def _shown(graph: Graph, output: Output) -> None:
    if output.type == "MODEL_MASK":
        graph.put("daremerge.report.mask", ["STRING", "IMAGE"], {"mask": output})
    elif output.type == "LAYER_GRADIENT":
        graph.put("daremerge.report.gradient", ["STRING", "IMAGE"], {"gradient": output})
    elif output.type == "LORA_MODEL":
        graph.put("daremerge.lora.save", ["STRING"], {"lora": output})
    else:
        graph.add("PreviewAny", source=output)
