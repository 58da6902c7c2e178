"""Writes ``web/docs``: a help page for each node, from its inputs, its component's documentation and ``notes.md``.

Run it in ComfyUI's environment, from ComfyUI's folder or with it on the path::

    python adapters/comfyui/tools/help_pages.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent / "web" / "docs"


def pages() -> dict[str, str]:
    """The text of every page, by file name."""
    from shipped import shipped_nodes

    notes = _notes((HERE / "notes.md").read_text(encoding="utf-8"))
    nodes = shipped_nodes()
    unknown = set(notes) - {node.id for node in nodes}
    if unknown:
        raise ValueError(f"notes.md has words for nodes that are not there: {', '.join(sorted(unknown))}")
    return {f"{node.id}.md": _page(node, notes.get(node.id, "")) for node in nodes}


def _notes(text: str) -> dict[str, str]:
    _, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    return {head.strip(): body.strip() for head, _, body in (section.partition("\n") for section in sections)}


def _page(node: Any, note: str) -> str:
    parts = [f"# {node.title}", _paragraphs(node.description)]
    if note:
        parts.append(note)
    rows = [_row(one.id, one.get_io_type(), one.as_dict()) for one in _shown(node.inputs())]
    parts.append("\n".join(["## Inputs", "", "| name | takes | default | |", "|---|---|---|---|", *rows]))
    outs = [f"| {one.display_name} | {one.tooltip} |" for one in node.outputs]
    parts.append("\n".join(["## Outputs", "", "| name | |", "|---|---|", *outs]))
    return "\n\n".join(parts) + "\n"


def _paragraphs(text: str) -> str:
    return re.sub(r"(?<!\\)([*_<|])", r"\\\1", text)


def _shown(inputs: Any) -> list[Any]:
    """Inputs, of numbered ones the first alone."""
    return [one for one in inputs if not re.search(r"_(?:[2-9]|1\d)$", one.id) or one.id in ("arg_two",)]


def _row(name: str, kind: Any, facts: Mapping[str, Any]) -> str:
    if name.endswith("_1"):
        name = f"{name} …"
    options = [str(one) for one in facts.get("options") or ()]
    if name == "lora_name" or (name == "recipe" and kind == "COMBO"):
        takes = "a file"
    elif options:
        takes = ", ".join(options) if len(options) <= 14 else f"{', '.join(options[:12])}, … ({len(options)} in all)"
    elif kind in ("INT", "FLOAT") and "min" in facts:
        takes = f"{_number(facts['min'])} to {_number(facts['max'])}" if facts["max"] < 1_000_000 else "a number"
    else:
        takes = {"STRING": "text", "BOOLEAN": "yes or no", "INT": "a whole number"}.get(str(kind), str(kind))
    cells = [name, takes, _default(facts.get("default")), facts.get("tooltip", "")]
    return "| " + " | ".join(_cell(str(cell)) for cell in cells) + " |"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _number(value: float) -> str:
    return f"{value:g}"


def _cell(text: str) -> str:
    return re.sub(r"([|*_])", r"\\\1", text.replace("\n", " "))


def main() -> None:
    PAGES.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for path in PAGES.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    print(f"{len(wanted)} pages in {PAGES}")


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    main()
