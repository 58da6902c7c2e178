"""The tensors of a model by part, block and role, in the order in which a forward pass visits them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from daremerge_core import Layout
from daremerge_core.layout import PARTS, ROLES

__all__ = ["NO_BLOCK", "Atlas", "By", "Group", "Line"]

By = Literal["part", "block", "role", "tensor"]
"""What one row of a table is about."""

NO_BLOCK = "-"
"""The block of a tensor that lies in none that is known."""

T = TypeVar("T")


class Group(NamedTuple):
    """Tensors of one part: of one block, of one role, of both, or a single one. What is not told apart is empty."""

    part: str
    block: str = ""
    role: str = ""
    tensor: str = ""

    def row(self) -> dict[str, str]:
        """The cells of a table that name it."""
        return {name: word for name, word in zip(self._fields, self, strict=True) if word}

    def __str__(self) -> str:
        """``unet input_blocks.1 attn.q``; a tensor's own name says it all."""
        return self.tensor or " ".join(self.row().values())


class Line(NamedTuple):
    """Blocks that follow each other in a forward pass, for a curve over depth."""

    label: str
    """The part; with the network's name where the part has several, such as ``clip clip_g``."""
    depths: list[float]
    blocks: list[Group]


class Atlas:
    """Where some tensors of a model lie."""

    def __init__(self, layout: Layout, keys: Iterable[str]) -> None:
        places = {key: layout.place(key) for key in keys}
        blocks = {part: layout.blocks(part) for part in {place.part for place in places.values()}}
        order = {(part, block): at for part, found in blocks.items() for at, block in enumerate(found)}
        self._groups = {
            key: Group(place.part, place.block or NO_BLOCK, place.role, key) for key, place in places.items()
        }
        self._depths = {self._groups[key][:2]: place.depth for key, place in places.items()}
        self._order = {
            group: (PARTS.index(group.part), order.get(group[:2], len(order)), ROLE_ORDER[group.role])
            for group in self._groups.values()
        }

    def groups(self, by: By) -> dict[Group, list[str]]:
        """The tensors of each part, block or role of a part, or each alone: in forward order."""
        return self._grouped(_FIELDS[by])

    def cells(self) -> dict[Group, list[str]]:
        """The tensors of each role of each block."""
        return self._grouped(("block", "role"))

    def laid_out(self, values: Mapping[Group, T]) -> dict[str, dict[str, dict[str, T]]]:
        """Values of cells as part → block → role → value, for a map of them; with every block, whatever has a value."""
        found: dict[str, dict[str, dict[str, T]]] = {}
        for group in self.groups("block"):
            found.setdefault(group.part, {})[group.block] = {}
        for cell in self.cells():
            if cell in values:
                found[cell.part][cell.block][cell.role] = values[cell]
        return found

    def _grouped(self, fields: Sequence[str]) -> dict[Group, list[str]]:
        found: dict[Group, list[str]] = {}
        for key, group in sorted(self._groups.items(), key=lambda item: self._rank(item[1], fields)):
            found.setdefault(Group(group.part, **{field: getattr(group, field) for field in fields}), []).append(key)
        return found

    def _rank(self, group: Group, fields: Sequence[str]) -> tuple[int, ...]:
        part, block, role = self._order[group]
        return (part, block if "block" in fields else 0, role if "role" in fields and "tensor" not in fields else 0)

    def lines(self) -> list[Line]:
        """The blocks that have a depth, network by network."""
        lines: list[Line] = []
        for group in self.groups("block"):
            depth = self._depths[group[:2]]
            if depth is None:
                continue
            last = lines[-1] if lines else None
            if last is None or last.blocks[-1].part != group.part or depth <= last.depths[-1]:
                lines.append(last := Line(group.part, [], []))
            last.depths.append(depth)
            last.blocks.append(group)
        several = {line.label for at, line in enumerate(lines) if line.label in {one.label for one in lines[:at]}}
        return [
            line._replace(label=line.blocks[0].block.partition(".")[0]) if line.label in several else line
            for line in lines
        ]


ROLE_ORDER = {role: at for at, role in enumerate(ROLES)}

_FIELDS: Mapping[By, Sequence[str]] = {
    "part": (),
    "block": ("block",),
    "role": ("role",),
    "tensor": ("block", "role", "tensor"),
}
