"""``daremerge report lora FILE``: the tags of a LoRA, its size by block, or every module."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from daremerge_core import LoraRef, Report, Reporter
from daremerge_core.layout import detect
from daremerge_core.layout.published import HeaderModel, published

from .deltas import has_weight, read_change
from .formats import LoraFile, open_lora
from .modules import Module
from .targets import PARTS, architecture_of, locate, match

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from daremerge_core import Layout, Survey

    from .metadata import Tags

__all__ = ["LoraReport"]


@dataclass(frozen=True)
class _Row:
    """One module, and where it acts."""

    module: Module
    part: str
    block: str
    target: str | None
    rank: int | None
    parameters: int
    norm: float | None
    """‖ΔW‖ at strength 1; None for a module that changes a bias alone."""


class LoraReport(Reporter):
    """What a LoRA holds: the tags it was trained on, how much it changes where, or each of its modules.

    How much is the norm ‖ΔW‖ of the change at strength 1: for the same strength a block of twice the norm moves its
    weights twice as far. Of a DoRA it is the norm of the low-rank change alone, since the rest depends on the model.
    """

    name: ClassVar[str] = "lora"

    lora_file: LoraRef = Field(alias="lora", description="The LoRA.")
    show: Literal["tags", "size", "details"] = Field(
        "size", description="The tags; a row for each block; or one for each module."
    )
    limit: int = Field(10, ge=1, description="How many tags are shown.")

    def report(self, survey: Survey) -> Report:
        from .metadata import info, tags

        lora = open_lora(self.lora_file)
        found = tags(lora.model.metadata)
        rows = _rows(lora, survey)
        facts = info(lora)
        architecture = architecture_of(lora)
        shown = {"tags": partial(_of_tags, found, self.limit), "size": partial(_of_blocks, rows)}
        return Report(
            title=f"LoRA: {Path(lora.name).name}",
            text=_text(architecture.title if architecture else "", facts, found, self.limit),
            rows=shown.get(self.show, partial(_of_modules, rows))(),
            data={**facts, "tags": _of_tags(found, None), "tags_reason": found.reason, "list": _of_modules(rows)},
            figures=_figures(rows, found, self.limit),
        )


def _rows(lora: LoraFile, survey: Survey) -> list[_Row]:
    modules = list(lora.modules.values())
    norms = survey.map(modules, partial(_norm, lora), scratch=partial(_scratch, lora), what="measuring the LoRA")
    targets, layout = _targets(lora)
    found = []
    for module, norm in zip(modules, norms, strict=True):
        target = targets.get(module.name)
        block = (layout.place(target).block if target is not None and layout is not None else None) or ""
        parameters = sum(lora.model.meta(key).numel for key in module.tensors.values())
        part = PARTS[locate(module.name)[0]]
        found.append(_Row(module, part, block, target, lora.rank(module), parameters, norm))
    return _in_order(found, layout)


def _norm(lora: LoraFile, module: Module) -> float | None:
    return read_change(lora, module).norm() if has_weight(module) else None


def _scratch(lora: LoraFile, module: Module) -> int:
    """Of thin factors little; of what has no thin factors the whole change, in float32 and float64."""
    held = 4 * sum(lora.model.meta(key).numel for key in module.tensors.values())
    return 3 * held if module.family == "lora" else 3 * held + 12 * math.prod(lora.shape(module))


def _targets(lora: LoraFile) -> tuple[Mapping[str, str], Layout | None]:
    """Module's name → the tensor it changes in a published checkpoint, and that checkpoint's layout."""
    architecture = architecture_of(lora)
    metas = published(architecture.name) if architecture is not None else None
    if metas is None:
        return {}, None
    found = match(lora, HeaderModel(metas)).targets
    return {name: target.key for name, target in found.items()}, detect(metas)


def _in_order(rows: Sequence[_Row], layout: Layout | None) -> list[_Row]:
    """Part by part, blocks as a forward pass visits them, modules as the file has them."""
    parts = list(dict.fromkeys(row.part for row in rows))
    order: dict[str, int] = {}
    for part in ("clip", "unet") if layout is not None else ():
        order |= {block: at for at, block in enumerate(layout.blocks(part) if layout is not None else ())}
    return sorted(rows, key=lambda row: (parts.index(row.part), order.get(row.block, len(order))))


# --- tables ------------------------------------------------------------------------------------------------


def _of_tags(found: Tags, limit: int | None) -> list[dict[str, Any]]:
    return [{"tag": tag, "count": count} for tag, count in found.pairs[:limit]]


def _of_blocks(rows: Sequence[_Row]) -> list[dict[str, Any]]:
    return [
        {
            "part": part,
            "block": block,
            "modules": len(some),
            "rank": _ranks(some),
            "parameters": sum(row.parameters for row in some),
            "norm": _total(some),
        }
        for (part, block), some in _blocks(rows).items()
    ]


def _of_modules(rows: Sequence[_Row]) -> list[dict[str, Any]]:
    return [
        {
            "module": row.module.name,
            "kind": "dora" if row.module.is_dora else row.module.family,
            "rank": row.rank,
            "parameters": row.parameters,
            "norm": row.norm,
            "changes": row.target,
        }
        for row in rows
    ]


def _blocks(rows: Sequence[_Row]) -> dict[tuple[str, str], list[_Row]]:
    found: dict[tuple[str, str], list[_Row]] = {}
    for row in rows:
        found.setdefault((row.part, row.block), []).append(row)
    return found


def _ranks(rows: Sequence[_Row]) -> str:
    counts = Counter(row.rank for row in rows if row.rank is not None)
    known = sorted(counts)
    return f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}" if known else "-"


def _total(rows: Sequence[_Row]) -> float:
    """The norm of several changes taken together: the root of the sum of the squares."""
    return math.sqrt(math.fsum(row.norm**2 for row in rows if row.norm is not None))


# --- words -------------------------------------------------------------------------------------------------


def _text(title: str, facts: Mapping[str, Any], found: Tags, limit: int) -> str:
    fits = f"It fits {title}." if title else "No known architecture has these names."
    lines = [f"{facts['modules']} modules, {facts['parameters']:,} parameters. {fits}", _ranks_in_words(facts)]
    if facts["unknown"]:
        lines.append(f"{len(facts['unknown'])} tensors belong to no module that is understood: they do nothing.")
    words = ", ".join(tag for tag, _ in found.pairs[:limit])
    more = f" and {len(found.pairs) - limit} more" if len(found.pairs) > limit else ""
    told = f"Tags: {words}{more}." if words else f"Tags: none, since {found.reason}."
    return "\n".join(lines) + "\n\n" + told + "".join(f"\n\nNote: {note}" for note in facts["notes"][:5])


def _ranks_in_words(facts: Mapping[str, Any]) -> str:
    kinds = ", ".join(f"{one['value']} ({one['count']})" for one in facts["families"])
    ranks = ", ".join(f"{one['value'] or 'none'} ({one['count']})" for one in facts["ranks"][:6])
    more = f", … {len(facts['ranks'])} in all" if len(facts["ranks"]) > 6 else ""
    return f"Kinds: {kinds}. Ranks: {ranks}{more}." if facts["modules"] else "There is nothing in it."


# --- pictures ----------------------------------------------------------------------------------------------


def _figures(rows: Sequence[_Row], found: Tags, limit: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if any(row.norm for row in rows):
        figures["How far each block is moved at strength 1: the norm of its changes"] = partial(_norms, rows)
    if found.pairs:
        figures["The most frequent tags"] = partial(_tag_bars, found, limit)
    return figures


def _norms(rows: Sequence[_Row]) -> Figure:
    from matplotlib.figure import Figure

    parts: dict[str, dict[str, float]] = {}
    for (part, block), some in _blocks(rows).items():
        parts.setdefault(part, {})[block or "elsewhere"] = _total(some)
    figure = Figure(figsize=(10, 2.9 * len(parts)))
    grid = figure.subplots(len(parts), 1, squeeze=False)
    for number, (axes, (part, blocks)) in enumerate(zip(grid[:, 0], parts.items(), strict=True)):
        axes.bar(range(len(blocks)), list(blocks.values()), color=f"C{number}")
        names = [_short(block) for block in blocks]
        axes.set_xticks(range(len(blocks)), names, fontsize=8, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_xlim(-0.6, len(blocks) - 0.4)
        axes.set_ylabel("norm of ΔW")
        axes.set_title(part, loc="left", fontweight="bold")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    return figure


def _short(block: str) -> str:
    """A block's name as there is room for under a bar: of a text encoder's layers the number alone."""
    name = block.rpartition("layers.")[2]
    for long, short in (("input_blocks", "in"), ("output_blocks", "out"), ("middle_block", "mid"), ("_blocks", "")):
        name = name.replace(long, short)
    return name[-16:]


def _tag_bars(found: Tags, limit: int) -> Figure:
    from matplotlib.figure import Figure

    pairs = found.pairs[:limit]
    figure = Figure(figsize=(10, 0.8 + 0.26 * len(pairs)))
    axes = figure.add_subplot()
    names = [tag if len(tag) <= 40 else f"{tag[:39]}…" for tag, _ in pairs]
    axes.barh(range(len(pairs)), [count for _, count in pairs])
    axes.set_yticks(range(len(pairs)), names)
    axes.invert_yaxis()
    axes.set_xlabel("times in the captions")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    return figure
