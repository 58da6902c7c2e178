"""A network's layers under the two names that each has: in its authors' code, and in diffusers or transformers.

The authors' code often holds as one weight what diffusers holds as several (queries, keys and values), so its names are
called *native* and may have several *parts*, one for each of diffusers' names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Entry", "Found", "Layers", "Table", "entries"]

Layers = Mapping[str, str | Mapping[str, int]]
"""Native name → diffusers'; or, for a fused weight, diffusers' names and the rows each has, relative to the others'."""


class Entry(NamedTuple):
    """One layer as diffusers names it, and where the native code keeps it."""

    diffusers: str
    """Without ``.weight``."""
    native: str
    """Without ``.weight`` too, if it has that."""
    part: tuple[int, int, int] | None = None
    """``(start, stop, of)``: its rows are those from ``start / of`` to ``stop / of`` of the native weight."""
    suffix: str = ".weight"
    """What follows ``native`` in the tensor's name; empty for a tensor with a name of its own."""
    swaps: bool = False
    """Whether the halves of the rows stand in the other order, if the weight has two rows for each column: a last
    modulation, which is scale and shift in diffusers, shift and scale in the native code."""
    transposed: bool = False

    def rows(self, total: int) -> tuple[int, int] | None:
        """Its rows of a native weight of ``total`` rows; None for all."""
        if self.part is None:
            return None
        start, stop, of = self.part
        return (total * start // of, total * stop // of)


class Found(NamedTuple):
    """What a LoRA's name stands for."""

    entries: tuple[Entry, ...]
    """One; or all the parts of a native weight."""
    native: bool
    """Whether the name is the native one."""


@dataclass(frozen=True)
class Table:
    """The layers of one network, looked up by either name, with dots or with underscores."""

    entries: tuple[Entry, ...]
    by_diffusers: Mapping[str, Entry]
    by_native: Mapping[str, tuple[Entry, ...]]
    underscored: Mapping[str, Found]

    @classmethod
    def of(cls, rows: Iterable[Entry], aliases: Mapping[str, str] | None = None) -> Table:
        """``aliases``: further names of diffusers, to read and never to write."""
        listed = tuple(rows)
        by_diffusers = {entry.diffusers: entry for entry in listed}
        by_diffusers |= {alias: by_diffusers[name] for alias, name in (aliases or {}).items()}
        by_native: dict[str, tuple[Entry, ...]] = {}
        for entry in listed:
            by_native[entry.native] = (*by_native.get(entry.native, ()), entry)
        underscored = {_underscored(name): Found(parts, True) for name, parts in by_native.items()}
        # Where both names are one, as with most text encoders, it does not matter which is found.
        underscored |= {_underscored(name): Found((entry,), False) for name, entry in by_diffusers.items()}
        return cls(listed, by_diffusers, by_native, underscored)

    def find(self, name: str, *, underscored: bool = False) -> Found | None:
        if underscored:
            return self.underscored.get(name)
        if (entry := self.by_diffusers.get(name)) is not None:
            return Found((entry,), False)
        parts = self.by_native.get(name)
        return None if parts is None else Found(parts, True)


def _underscored(name: str) -> str:
    return name.replace(".", "_")


def entries(native: str, diffusers: str, layers: Layers, *, swaps: Iterable[str] = ()) -> Iterable[Entry]:
    """The layers of one block, which is called ``native`` and ``diffusers``: prefixes with their dots."""
    for inside, outside in layers.items():
        suffix = "" if inside.endswith(".scale") else ".weight"
        if isinstance(outside, str):
            yield Entry(diffusers + outside, native + inside, suffix=suffix, swaps=inside in swaps)
            continue
        start, of = 0, sum(outside.values())
        for name, size in outside.items():
            yield Entry(diffusers + name, native + inside, (start, start + size, of), suffix)
            start += size
