"""Interfaces that others rely on, held against checked-in files: a change to one must be meant.

``DAREMERGE_GOLDEN=write python -m pytest tests/test_golden.py`` writes them anew; read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from daremerge_core import discover
from daremerge_core.cli import make_cli
from daremerge_core.components import KINDS
from daremerge_core.recipe import Recipe

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = [
    "",
    "merge dare",
    "merge add-difference",
    "merge ties",
    "edit normalize",
    "mask magnitude",
    "mask union",
    "gradient mbw",
    "gradient edit",
    "report diff",
    "report mask",
    "run",
    "plan",
    "import",
    "inspect",
    "methods",
    "plugins",
    "demo",
]


def check(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("DAREMERGE_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path.name} differs; see this test's first lines"


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    done = CliRunner().invoke(
        make_cli(with_plugins=False), [*command.split(), "--help"], prog_name="daremerge", terminal_width=100
    )
    check(f"help-{command.replace(' ', '-') or 'daremerge'}.txt", done.output)


def test_components_and_their_options() -> None:
    """What recipes may say: names, fields, types, ranges, defaults."""
    catalog = discover()
    found: dict[str, Any] = {}
    for kind in KINDS:
        for cls in catalog.all(kind):
            if catalog.plugin_of(cls).distribution != "daremerge-fixture":
                fields = cls.model_json_schema()["properties"]
                for field in fields.values():
                    field.pop("title", None)
                    field.pop("description", None)
                found[f"{kind}.{cls.name}"] = fields
    check("components.json", json.dumps(found, indent=1, sort_keys=True) + "\n")


def test_recipe_schema() -> None:
    check("recipe-schema.json", json.dumps(Recipe.model_json_schema(), indent=1, sort_keys=True) + "\n")
