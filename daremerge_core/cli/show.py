"""What commands print: plain text, safe for any terminal."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..decisions import detect_layout, tally
from ..layout import Layout, detect, detect_by_name
from ..printable import printable
from ..rendering.text import padding
from ..sizes import format_size
from ..stores import BitMask, MaskFile
from ..values import Gradient, TensorMeta
from ..views import ModelView

if TYPE_CHECKING:
    from ..engine import Summary
    from ..plan import Plan

__all__ = ["as_typed", "show_gradient", "show_mask", "show_plan", "show_summary", "table"]


def table(rows: Iterable[Sequence[str]], *, indent: str = "") -> str:
    """Columns padded to their widest cell, within reason."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = padding(cells)
    lines = (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _reasons(counts: Counter[str]) -> str:
    return "; ".join(f"{count} {printable(reason)}" for reason, count in counts.most_common(6))


def show_plan(plan: Plan) -> None:
    """Inputs, steps and what would be written."""
    click.echo("inputs")
    rows: list[tuple[str, ...]] = []
    for one in plan.inputs:
        if one.kind == "model":
            arch = detect_layout(one.value).arch
            rows.append((one.name, one.kind, arch, f"{len(one.value.keys())} tensors", str(one.path)))
        else:
            rows.append((one.name, one.kind, "", "", str(one.path)))
    click.echo(table(rows, indent="  "))
    click.echo("steps")
    for name, step in plan.graph.steps.items():
        options = ", ".join(f"{key}={value}" for key, value in step.options().items())
        click.echo(f"  {printable(name)}: {step.kind}.{step.name}" + (f" ({printable(options)})" if options else ""))
    click.echo("output")
    if plan.kind == "gradient":
        click.echo(f"  {_layers(plan)} have a ratio")
        show_gradient(plan.value, indent="  ")
        return
    if plan.kind == "mask":
        elements = sum(math.prod(plan.value.shape(key)) for key in plan.value.keys())
        size = format_size(plan.bytes_out)
        click.echo(f"  a mask of {len(plan.tensors)} tensors, {elements:,} elements, {size}")
        return
    click.echo(f"  {len(plan.tensors)} tensors, {format_size(plan.bytes_out)}")
    _show_changes(plan)


def _layers(plan: Plan) -> str:
    ratios = [plan.value.ratio(key) for key in plan.value.keys()]
    return f"{sum(ratio is not None for ratio in ratios)} of {len(ratios)} tensors"


def show_gradient(gradient: Gradient, *, indent: str = "") -> None:
    """The ratios of each block, as a table; neighbours of one ratio share a row."""
    keys = list(gradient.keys())
    layout = getattr(gradient, "layout", None) or detect_by_name(keys)
    blocks: dict[tuple[str, str], list[float | None]] = {}
    for key in keys:
        place = layout.place(key)
        blocks.setdefault((place.part, place.block or "-"), []).append(gradient.ratio(key))
    runs: list[tuple[str, list[str], list[float | None]]] = []
    for part, block in _forward(layout, blocks):
        found = blocks[part, block]
        if runs and runs[-1][0] == part and set(runs[-1][2]) == set(found):
            runs[-1][1].append(block)
            runs[-1][2].extend(found)
        else:
            runs.append((part, [block], list(found)))
    rows = [("part", "blocks", "tensors", "ratio")]
    for part, names, ratios in runs:
        shown = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        rows.append((part, shown, str(len(ratios)), _range_of(ratios)))
    click.echo(table(rows, indent=indent))


def _forward(layout: Layout, blocks: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Part by part, blocks in forward order; numbers count as numbers where that order is not known."""
    order = {(part, block): at for part, _ in blocks for at, block in enumerate(layout.blocks(part))}
    parts = list(dict.fromkeys(part for part, _ in blocks))
    return sorted(blocks, key=lambda one: (parts.index(one[0]), order.get(one, len(order)), one[1]))


def _range_of(ratios: Sequence[float | None]) -> str:
    known = sorted({ratio for ratio in ratios if ratio is not None})
    if not known:
        return "none: A as it is"
    words = f"{known[0]:g}" if len(known) == 1 else f"{known[0]:g} to {known[-1]:g}"
    return words if None not in ratios else f"{words}, {ratios.count(None)} tensors without"


def show_mask(mask: BitMask, *, indent: str = "", keys: bool = False) -> None:
    """How much of each part (or with ``keys`` of each tensor) a mask selects, as a table."""
    shapes = {key: shape for key in mask.keys() if (shape := mask.shape(key)) is not None}
    layout = detect({key: TensorMeta(key, "BOOL", shape) for key, shape in shapes.items()})
    counts: dict[str, list[int]] = {}
    for key, shape in shapes.items():
        row = counts.setdefault(key if keys else layout.place(key).part, [0, 0, 0])
        for index, number in enumerate((1, math.prod(shape), mask.count(key))):
            row[index] += number
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)] or [0, 0, 0]
    rows = [("tensor" if keys else "part", "tensors", "elements", "selected", "share")]
    for name, (tensors, elements, chosen) in counts.items():
        share = f"{100 * chosen / elements:.2f} %" if elements else "-"
        rows.append((name, str(tensors), f"{elements:,}", f"{chosen:,}", share))
    click.echo(table(rows, indent=indent))


def as_typed(path: Path, target: Path) -> str:
    """A written file as the user named it, rather than with links and relative parts resolved."""
    if path == Path(os.path.realpath(target)):
        return printable(str(target))
    return printable(str(target / path.name))


def show_summary(plan: Plan, summary: Summary, target: Path) -> None:
    """What was merged, copied and left out, and why."""
    if plan.kind == "gradient":
        click.echo(f"wrote {printable(str(target))}: {_layers(plan)} have a ratio")
        return
    if plan.kind == "mask":
        size = format_size(summary.bytes_out)
        click.echo(f"wrote {printable(str(target))}: {size} in {summary.seconds:.1f} s")
        with closing(MaskFile(target)) as mask:
            show_mask(mask, indent="  ")
        return
    rate = summary.bytes_out / max(summary.seconds, 1e-9)
    click.echo(
        f"wrote {printable(str(target))}: {len(plan.tensors)} tensors, "
        f"{format_size(summary.bytes_out)} in {summary.seconds:.1f} s ({format_size(int(rate))}/s)"
    )
    if summary.bytes_kept:
        click.echo(f"  {format_size(summary.bytes_kept)} of it were kept from an interrupted run")
    _show_changes(plan)
    _warn_of(summary.nonfinite, "are NaN or infinite" + _instead(plan))
    _warn_of(summary.overflowed, "were too large for the dtype they are stored in")


def _instead(plan: Plan) -> str:
    return ", and were written as zero" if plan.graph.recipe.output.on_nonfinite == "zero" else ""


def _warn_of(found: Mapping[str, int], what: str) -> None:
    if found:
        names = ", ".join(f"{printable(key)} ({count})" for key, count in list(found.items())[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        click.echo(f"warning: {sum(found.values())} values {what}, in {len(found)} tensors: {names}{more}", err=True)


_ANCHORS = {"a": "A", "model": "the model", "base": "the base", "models": "the first model"}


def _show_changes(plan: Plan) -> None:
    """What each step that gives a model merges or edits, copies and leaves out, and why."""
    steps = {name: value for name, value in plan.views.items() if isinstance(value, ModelView)}
    for name, value in steps.items():
        step = value.component
        changed, copied, skipped = tally(value.decisions)
        total = changed + copied.total()
        whose = f"{name}: " if len(steps) > 1 else ""
        click.echo(printable(f"  {whose}{'merged' if step.kind == 'merge' else 'edited'} {changed} of {total} tensors"))
        if copied:
            origin = _ANCHORS[step.anchor_field()]
            click.echo(f"    copied from {origin} {copied.total()}: {_reasons(copied)}")
        if skipped:
            click.echo(f"    left out {skipped.total()}: {_reasons(skipped)}")
        for port, count in value.only_elsewhere().items():
            click.echo(f"    {count} tensors are only in {port} and were left out")
