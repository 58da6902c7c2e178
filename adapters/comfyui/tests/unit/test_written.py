"""What is written from the nodes is what the nodes are now: help pages and translations."""

from __future__ import annotations

import sys
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
sys.path.append(str(PACK / "tools"))

import help_pages  # noqa: E402
import locales  # noqa: E402


def test_every_node_has_a_help_page_that_is_up_to_date() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in (PACK / "web" / "docs").glob("*.md")}
    wanted = help_pages.pages()
    assert written.keys() == wanted.keys()
    stale = [name for name, text in wanted.items() if written[name] != text]
    assert not stale, "run: python adapters/comfyui/tools/help_pages.py"


def test_translations_are_whole_and_up_to_date() -> None:
    for name, text in locales.files().items():
        assert (PACK / "locales" / name).read_text(encoding="utf-8") == text, "run: tools/locales.py"
