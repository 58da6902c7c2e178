"""The example workflows, opened in the browser and run as the run button would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness.browser import Canvas
from harness.client import Client
from harness.server import PACK

EXAMPLES = sorted((PACK / "example_workflows").glob("*.json"))
_NOT_IN_PROMPTS = {"MarkdownNote", "Note"}
_SMALL = {"EmptyLatentImage": {"width": 64, "height": 64}, "KSampler": {"steps": 1}}


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, canvas: Canvas, client: Client, tmp_path: Path) -> None:
    workflow: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    shown = canvas.open(workflow)
    assert canvas.said == []
    assert {str(node["id"]) for node in workflow["nodes"]} == set(shown)
    for node in workflow["nodes"]:
        found = shown[str(node["id"])]
        assert found.type == node["type"]
        assert found.known
        saved = list(node.get("widgets_values") or [])
        assert list(found.widgets.values())[: len(saved)] == saved, node["type"]
        linked = {one["name"] for one in node.get("inputs", []) if one.get("link") is not None}
        assert linked == set(found.linked)
    canvas.picture(tmp_path / "canvas.png")
    assert (tmp_path / "canvas.png").stat().st_size > 50_000  # an empty canvas takes half of that
    prompt = canvas.prompt()
    for node in prompt.values():
        node["inputs"] |= _SMALL.get(node["class_type"], {})
    run = client.succeed(prompt)
    assert any("images" in output for output in run.outputs.values())


def test_examples_are_offered_as_templates(client: Client) -> None:
    offered = client.get("/workflow_templates")
    assert set(offered["daremerge"]) == {path.stem for path in EXAMPLES}
