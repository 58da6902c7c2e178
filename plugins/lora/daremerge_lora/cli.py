"""``daremerge lora``: the tools, and ``tags`` and ``info``, which say what a LoRA file says of itself."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import click

from daremerge_core.catalog import discover
from daremerge_core.cli.show import table
from daremerge_core.cli.step import Components
from daremerge_core.printable import json_text, printable
from daremerge_core.sizes import format_size
from daremerge_core.stores import open_model
from daremerge_core.values import Model

from .formats import open_lora
from .metadata import Tags, info, tags
from .targets import ARCHITECTURES, PARTS

__all__ = ["info_command", "lora_command", "tags_command"]

_FILE = click.argument("file", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")


def _open(file: Path) -> Model:
    hook = discover().hook
    return open_model(file, openers=[lambda path: hook.daremerge_open(path=path)])


@click.command(name="tags")
@_FILE
@click.option("--limit", type=click.IntRange(min=1), help="The most frequent ones only.")
@click.option("--counts", is_flag=True, help="A table with how often each was used.")
@_JSON
def tags_command(file: Path, limit: int | None, counts: bool, as_json: bool) -> None:
    """Show the tags a LoRA was trained on, ready to paste.

    Most frequent first. They are what kohya's trainer wrote into the file's metadata, summed over its data sets.
    """
    with closing(_open(file)) as model:
        found = tags(model.metadata, limit)
    if as_json:
        pairs = [{"tag": tag, "count": count} for tag, count in found.pairs]
        click.echo(json_text({"file": str(file), "tags": pairs, "reason": found.reason, "ignored": found.ignored}))
        return
    if not found.pairs:
        click.echo("none")
        click.echo(f"{printable(str(file))}: {printable(found.reason)}", err=True)
        return
    click.echo(_as_table(found) if counts else ", ".join(printable(tag) for tag, _ in found.pairs))
    if found.ignored:
        click.echo(f"{printable(str(file))}: left out {found.ignored} entries that are no tag with a count", err=True)


def _as_table(found: Tags) -> str:
    return table([("count", "tag"), *((f"{count:,}", tag) for tag, count in found.pairs)])


@click.command(name="info")
@_FILE
@_JSON
def info_command(file: Path, as_json: bool) -> None:
    """Show what a LoRA is and which models it fits.

    Its format, ranks, alphas and dtypes, what it changes, what it says of its training, and its hashes.
    """
    with closing(_open(file)) as model:
        facts = info(open_lora(model, name=str(file)), hashed=True)
    if as_json:
        click.echo(json_text(facts))
    else:
        _show(facts)


_TITLES = {one.name: one.title for one in ARCHITECTURES}


def _show(facts: dict[str, Any]) -> None:
    click.echo(printable(facts["file"]))
    rows = [
        ("fits", _TITLES.get(facts["architecture"], "no architecture that is known")),
        ("modules", f"{facts['modules']}: {_counts(facts['parts'], PARTS)}" if facts["modules"] else "none"),
        *((name, _counts(facts[name])) for name in ("formats", "families", "ranks", "alphas", "scales", "dtypes")),
        ("parameters", f"{facts['parameters']:,} in {facts['tensors']} tensors"),
        ("size", format_size(facts["bytes"])),
    ]
    click.echo(table([row for row in rows if row[1]], indent="  "))
    sections = {"base_model": "base model", "training": "training", "description": "description", "hashes": "hashes"}
    for section, title in sections.items():
        if facts[section]:
            click.echo(title)
            click.echo(table([(name, _short(text)) for name, text in facts[section].items()], indent="  "))
    if facts["unknown"]:
        click.echo(f"{len(facts['unknown'])} tensors belong to no module that is understood")
        click.echo(table([(name,) for name in facts["unknown"][:_SHOWN]], indent="  "))
        if len(facts["unknown"]) > _SHOWN:
            click.echo(f"  … and {len(facts['unknown']) - _SHOWN} more: --json lists all")
    for note in facts["notes"][:_SHOWN]:
        click.echo(f"note: {printable(note)}", err=True)


_SHOWN = 10
_WIDTH = 100


def _counts(found: list[dict[str, Any]], names: Any = None) -> str:
    """``8 (192), 4 (10)``; of one value alone without its count; at most so many of many."""
    if len(found) == 1:
        return _value(found[0]["value"], names)
    listed = [f"{_value(one['value'], names)} ({one['count']})" for one in found[:_SHOWN]]
    return ", ".join(listed) + (f", … {len(found)} in all" if len(found) > _SHOWN else "")


def _value(value: Any, names: Any) -> str:
    if value is None:
        return "none"
    return names[value] if names else f"{value:g}" if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}… ({len(text)} characters)"


lora_command = Components(
    "lora", help="Look into LoRAs, put them into models, merge, resize, extract and convert them."
)
lora_command.add_command(info_command)
lora_command.add_command(tags_command)
