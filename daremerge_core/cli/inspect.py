"""``daremerge inspect``: what a model file holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from ..catalog import discover
from ..decisions import detect_layout
from ..dtypes import nbytes
from ..printable import json_text, printable
from ..recipe import METADATA_KEY, read_provenance
from ..sizes import format_size
from ..stores import BitMask, GradientFile, open_model
from ..stores.mask_file import MASK_METADATA
from ..values import Model
from .show import show_gradient, show_mask, table

__all__ = ["inspect_command"]


@click.command(name="inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--keys", is_flag=True, help="List every tensor: name, dtype, shape, part, block, role.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect_command(file: Path, keys: bool, as_json: bool) -> None:
    """Show what a file holds.

    Of a model: architecture, parts, dtypes, counts and metadata, from its header alone. Of a mask: the share it selects
    of each part. Of a gradient: the ratios of each block.
    """
    if file.suffix == ".json" and not file.name.endswith(".index.json"):
        _inspect_gradient(file, as_json=as_json)
        return
    catalog = discover()
    layouts = [spec for group in catalog.hook.daremerge_layouts() for spec in group]
    model = open_model(file, openers=[lambda path: catalog.hook.daremerge_open(path=path)])
    if MASK_METADATA in model.metadata:
        with closing(model):
            _inspect_mask(file, BitMask(model, file), keys=keys, as_json=as_json)
        return
    try:
        facts = _facts(file, model, layouts, keys=keys)
    finally:
        model.close()
    if as_json:
        click.echo(json_text(facts))
    else:
        _show(facts)


def _inspect_gradient(file: Path, *, as_json: bool) -> None:
    gradient = GradientFile(file)
    if as_json:
        ratios = {key: gradient.ratio(key) for key in gradient.keys()}
        click.echo(json_text({"file": str(file), "made_by": gradient.made_by, "ratios": ratios}))
        return
    click.echo(f"{printable(str(file))}: a gradient")
    show_gradient(gradient, indent="  ")
    _show_making(gradient.made_by)


def _inspect_mask(file: Path, mask: BitMask, *, keys: bool, as_json: bool) -> None:
    if as_json:
        tensors = {key: {"shape": mask.shape(key), "selected": mask.count(key)} for key in mask.keys()}
        click.echo(json_text({"file": str(file), "tensors": tensors, "metadata": mask.metadata}))
        return
    click.echo(f"{printable(str(file))}: a mask")
    show_mask(mask, indent="  ", keys=keys)
    if METADATA_KEY in mask.metadata:
        _show_making(read_provenance(file))


def _show_making(made: Mapping[str, Any]) -> None:
    """The steps of the recipe that made a file, as far as it says."""
    try:
        steps = made["recipe"]["steps"].items()
        rows = [
            (name, step["op"], {k: v for k, v in step.items() if k != "op" and v is not None}) for name, step in steps
        ]
    except (AttributeError, KeyError, TypeError):
        return
    for name, op, given in rows:
        options = ", ".join(f"{key}={value}" for key, value in given.items())
        click.echo(printable(f"made by {name}: {op} ({options})"))


def _facts(file: Path, model: Model, layouts: list[Any], *, keys: bool) -> dict[str, Any]:
    layout = detect_layout(model, layouts)
    metas = [model.meta(key) for key in model.keys()]
    parts: dict[str, dict[str, int]] = {}
    for meta in metas:
        part = parts.setdefault(layout.place(meta.key).part, {"tensors": 0, "parameters": 0, "bytes": 0})
        part["tensors"] += 1
        part["parameters"] += meta.numel
        part["bytes"] += nbytes(meta.dtype, meta.numel)
    facts: dict[str, Any] = {
        "file": str(file),
        "architecture": layout.arch,
        "tensors": len(metas),
        "parameters": sum(meta.numel for meta in metas),
        "bytes": sum(nbytes(meta.dtype, meta.numel) for meta in metas),
        "dtypes": dict(Counter(meta.dtype for meta in metas).most_common()),
        "parts": dict(sorted(parts.items())),
        "metadata": dict(model.metadata),
    }
    if keys:
        facts["keys"] = [
            {
                "name": meta.key,
                "dtype": meta.dtype,
                "shape": list(meta.shape),
                "part": place.part,
                "block": place.block,
                "role": place.role,
            }
            for meta in metas
            for place in [layout.place(meta.key)]
        ]
    return facts


def _show(facts: dict[str, Any]) -> None:
    click.echo(printable(facts["file"]))
    dtypes = ", ".join(f"{count} {name}" for name, count in facts["dtypes"].items())
    click.echo(
        table(
            [
                ("architecture", facts["architecture"]),
                ("tensors", f"{facts['tensors']} ({dtypes})"),
                ("parameters", f"{facts['parameters']:,}"),
                ("size", format_size(facts["bytes"])),
            ],
            indent="  ",
        )
    )
    if facts["parts"]:
        click.echo("parts")
        rows = [
            (name, f"{part['tensors']} tensors", f"{part['parameters']:,} parameters", format_size(part["bytes"]))
            for name, part in facts["parts"].items()
        ]
        click.echo(table(rows, indent="  "))
    if facts["metadata"]:
        click.echo("metadata")
        click.echo(table([(key, _short(key, value)) for key, value in sorted(facts["metadata"].items())], indent="  "))
    if "keys" in facts:
        click.echo("keys")
        listed = [
            (one["name"], one["dtype"], str(one["shape"]), one["part"], one["block"] or "-", one["role"])
            for one in facts["keys"]
        ]
        click.echo(table(listed, indent="  "))


def _short(key: str, value: str) -> str:
    if key == METADATA_KEY:
        return (
            f"merged by daremerge; see its recipe with --json, run it again with `daremerge run` ({len(value)} bytes)"
        )
    return value if len(value) <= 100 else f"{value[:97]}… ({len(value)} characters)"
