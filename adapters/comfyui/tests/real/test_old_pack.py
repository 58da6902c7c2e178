"""The old pack's nodes: their exact interface, and workflows that were saved with them."""

from __future__ import annotations

from typing import Any

import pytest
from harness.browser import Canvas
from harness.client import Client
from harness.old_workflows import ALIASES, LEGACY, old_workflow

OURS = {"tooltip", "multiselect"}
"""What the new nodes say beyond the old ones."""


def plain(spec: Any) -> list[Any]:
    """A type and its facts; a list of choices as the server now says it."""
    kind, facts = (spec, {}) if isinstance(spec, str) else (spec[0], dict(spec[1]) if len(spec) > 1 else {})
    if isinstance(kind, list):
        files = kind == ["<folder_paths:loras>"]
        return ["COMBO", facts if files else {"options": kind, **facts}]
    return [kind, facts]


@pytest.mark.parametrize("id", LEGACY)
def test_interface(id: str, object_info: dict[str, Any]) -> None:
    old, new = LEGACY[id], object_info[id]
    assert new["display_name"] == old["display"]
    assert new["category"] == old["category"]
    assert new["output"] == old["outputs"]
    assert new["deprecated"] is False
    assert list(new["input"]["required"]) == list(old["required"])
    added = list(new["input"].get("optional", {}))[len(old["optional"]) :]
    assert list(new["input"].get("optional", {})) == [*old["optional"], *added]
    for kind in ("required", "optional"):
        for name, spec in old[kind].items():
            found_type, found = new["input"][kind][name]
            kept = {key: value for key, value in found.items() if key not in OURS}
            if name == "lora_name":
                kept.pop("options")
            assert [found_type, kept] == plain(spec), name


@pytest.mark.parametrize("id", ALIASES)
def test_old_ids_are_hidden_but_there(id: str, object_info: dict[str, Any]) -> None:
    assert object_info[id]["deprecated"] is True
    names = list(object_info[id]["input"]["required"])
    layout = list(object_info[ALIASES[id]]["input"]["required"])
    assert names[: len(layout)] == layout


@pytest.mark.parametrize("id", [*LEGACY, *ALIASES])
def test_saved_workflow_loads_and_runs(id: str, canvas: Canvas, client: Client) -> None:
    graph = old_workflow(id)
    shown = canvas.open(graph.ui())
    assert [node.type for node in shown.values() if not node.known] == []
    assert canvas.said == []
    prompt = canvas.prompt()
    for number, wanted in graph.api().items():
        assert prompt[number]["class_type"] == wanted["class_type"]
        given = prompt[number]["inputs"]
        assert {name: given[name] for name in wanted["inputs"]} == wanted["inputs"]
    client.succeed(prompt)


@pytest.mark.parametrize("id", [*LEGACY, *ALIASES])
def test_saved_api_workflow_runs(id: str, client: Client) -> None:
    client.succeed(old_workflow(id).api())
