"""What merge block weighted calls the blocks of a model, and which tensors each name stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from daremerge_core import Layout
from daremerge_core.errors import SelectorError, nearest
from daremerge_core.layout import GENERIC, PARTS
from daremerge_core.select import Selector, select

from .unet import blocks_by_kind

__all__ = ["BASE", "BlockNames", "Dialect", "Unit", "name_blocks", "summary"]

BASE = "BASE"
Dialect = Literal["supermerger", "sd-mecha"]
Unit = tuple[str, str | None]
"""A block of a model: part, and the name within it; None for what lies in no block."""

# What begins like a spelled name and goes on as no block of any layout does.
_SPELLED = re.compile(r"(?i:BASE|(?:IN|M|OUT)[0-9{\[].*)|(?:IN|M|OUT)[*?].*")


@dataclass(frozen=True, slots=True)
class BlockNames:
    """The names of one model's blocks. Each stands for one block or more."""

    arch: str
    positions: Mapping[str, frozenset[Unit]]
    """The names that a list of values goes through, in forward order: IN00 … M00 … OUT11, or a layout's own."""
    base: frozenset[Unit]
    """What a value for BASE is for."""
    own: Mapping[str, frozenset[Unit]]
    """The layout's names of all blocks of the model, in forward order part by part."""
    spelled: bool
    """Whether the positions are called IN00, M00, OUT00, which only the blocks of a U-Net are."""

    def find(self, text: str) -> frozenset[Unit]:
        """The blocks that a name, or a selector over names, stands for.

        Raises:
            ValueError: it stands for none; the message has near names and the list.
            SelectorError: malformed.
        """
        patterns = [pattern.text for pattern in Selector.parse(text).patterns]
        spelled = [pattern for pattern in patterns if _SPELLED.fullmatch(pattern)]
        if spelled and len(spelled) < len(patterns):
            raise ValueError(
                f"{text!r} mixes names such as IN00 with names such as input_blocks.0: make two entries of it"
            )
        known = {name: {BASE: self.base, **self.positions}[name] for name in self._short()} if spelled else self.own
        word = text.upper() if spelled else text
        try:
            names = select(list(known), word, what="blocks")
        except SelectorError:
            near = nearest(word, (*self._short(), *self.own))
            raise ValueError(
                f"there is no block {text!r} in this {self.arch} model.{near} "
                f"Its blocks are {summary(self.own) or 'none'}; also {summary(self._short())}"
            ) from None
        return frozenset().union(*(known[name] for name in names))

    def _short(self) -> list[str]:
        """The names that other tools have: IN00 … M00 … OUT11, BASE; of a model that is no U-Net, BASE alone."""
        return [*(self.positions if self.spelled else ()), BASE]


def name_blocks(layout: Layout, dialect: Dialect) -> BlockNames:
    """The names for a model, and what belongs to which of them in a dialect.

    ``supermerger`` counts time_embed and label_emb of a U-Net to IN00, ``sd-mecha`` to BASE; both count out to the
    last OUT, and text encoders and whatever has no block to BASE. The autoencoder is BASE in supermerger and has no
    name in sd-mecha.
    """
    depths = {(place.part, place.block): place.depth for place in layout.places()}
    main = next((part for part in ("unet", "lm", "other") if layout.blocks(part)), None)
    unet = blocks_by_kind(layout)
    positions = _unet_positions(unet, dialect) if unet else {}
    if main and not unet:
        blocks = [block for block in layout.blocks(main) if depths[main, block] is not None]
        positions = {block: frozenset({(main, block)}) for block in blocks}
    placed = frozenset[Unit]().union(*positions.values())
    # In an unknown architecture a block without depth may stand anywhere: it is not beside the others, as BASE is.
    anywhere = {unit for unit in depths if layout.arch == GENERIC and unit[0] == main and unit[1] is not None}
    nameless = {unit for unit in depths if dialect == "sd-mecha" and unit[0] == "vae"}
    own: dict[str, frozenset[Unit]] = {}
    for part in PARTS:
        for block in layout.blocks(part):
            own[block] = own.get(block, frozenset()) | {(part, block)}
    return BlockNames(
        arch=layout.arch,
        positions=positions,
        base=frozenset(depths) - placed - anywhere - nameless,
        own=own,
        spelled=unet is not None,
    )


def _unet_positions(kinds: Mapping[str, list[str]], dialect: Dialect) -> dict[str, frozenset[Unit]]:
    inputs = {f"IN{_number(block):02}": [block] for block in kinds["input_blocks"]}
    outputs = {f"OUT{_number(block):02}": [block] for block in kinds["output_blocks"]}
    outputs[list(outputs)[-1]] += kinds["out"]
    if dialect == "supermerger":
        inputs[next(iter(inputs))] += [*kinds.get("time_embed", ()), *kinds.get("label_emb", ())]
    named = {**inputs, "M00": kinds["middle_block"], **outputs}
    return {name: frozenset(("unet", block) for block in blocks) for name, blocks in named.items()}


def _number(block: str) -> int:
    return int(block.rpartition(".")[2])


def summary(names: Iterable[str]) -> str:
    """Names in a line, neighbours that differ by a rising number as a range: ``IN00–08, M00, OUT00–08``."""
    runs: list[list[tuple[str, str]]] = []
    for name in names:
        stem, number = _split(name)
        if runs and number and runs[-1][-1][0] == stem and int(number) == int(runs[-1][-1][1] or -2) + 1:
            runs[-1].append((stem, number))
        else:
            runs.append([(stem, number)])
    texts = ["".join(run[0]) + (f"–{run[-1][1]}" if len(run) > 1 else "") for run in runs]
    return ", ".join(texts)


def _split(name: str) -> tuple[str, str]:
    stem = name.rstrip("0123456789")
    return stem, name[len(stem) :]
