"""Writes ``locales/*/nodeDefs.json``: what the canvas calls nodes and inputs, in English, Chinese and Japanese.

The old pack's nodes are translated whole, the others by their titles. Run it in ComfyUI's environment::

    python adapters/comfyui/tools/locales.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
LOCALES = HERE.parent / "locales"

Say = Callable[[str], str]
_BLOCK = re.compile(r"\b(?:input_blocks|middle_block|output_blocks)\.\d+")


def files() -> dict[str, str]:
    """The text of every file, by its path below ``locales``. Raises ``KeyError`` for words without a translation."""
    from shipped import shipped_nodes

    nodes = shipped_nodes()
    words: Mapping[str, Mapping[str, str]] = yaml.safe_load((HERE / "translations.yaml").read_text(encoding="utf-8"))
    said: dict[str, str] = {}
    for language in ("en", "zh", "ja"):

        def say(text: str, language: str = language) -> str:
            if language == "en" or not text:
                return text
            block = _BLOCK.search(text)
            found = words[text.replace(block[0], "{}") if block and block[0] != text else text][language]
            return found.replace("{}", block[0]) if block else found

        def name(text: str, language: str = language) -> str:
            return words.get(text, {}).get(language, text)

        definitions = {_key(node.id): _definition(node, say, name) for node in nodes}
        text = json.dumps(definitions, ensure_ascii=False, indent=2, sort_keys=True)
        said[f"{language}/nodeDefs.json"] = text + "\n"
    return said


def _key(name: str) -> str:
    """As the browser looks it up: a dot would lead it further down."""
    return name.replace(".", "_")


def _definition(node: Any, say: Say, name: Say) -> dict[str, Any]:
    if not node.id.startswith("DM_"):
        kind, colon, rest = node.title.partition(": ")
        return {"display_name": f"{name(kind)}{colon}{rest}" if colon else name(node.title)}
    return {
        "display_name": say(node.title),
        "description": say(node.description),
        "inputs": {_key(one.id): {"name": name(one.id), "tooltip": say(one.tooltip)} for one in node.inputs()},
        "outputs": {str(at): {"tooltip": say(one.tooltip)} for at, one in enumerate(node.outputs)},
    }


def main() -> None:
    for name, text in files().items():
        path = LOCALES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    main()
