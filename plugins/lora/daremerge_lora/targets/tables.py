"""A network's layers under the two names that each has: in its authors' code, and in diffusers or transformers.

The authors' code often holds as one weight what diffusers holds as several (queries, keys and values), so its names are
called *native* and may have several *parts*, one for each of diffusers' names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
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

    def key(self, *, native: bool) -> str:
        """The tensor's name; of a part by the native name, that of the fused weight."""
        return self.native + self.suffix if native else f"{self.diffusers}.weight"

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


class Table:
    """The layers of one network, looked up by either name, with dots or with underscores. Built when first asked."""

    def __init__(self, describe: Callable[[], Iterable[Entry]], aliases: Mapping[str, str] | None = None) -> None:
        """``aliases``: further names → those of diffusers, to read and never to write."""
        self._describe, self._aliases = describe, dict(aliases or {})

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._describe())

    @cached_property
    def by_diffusers(self) -> Mapping[str, Entry]:
        found = {entry.diffusers: entry for entry in self.entries}
        return found | {alias: found[name] for alias, name in self._aliases.items()}

    @cached_property
    def by_native(self) -> Mapping[str, tuple[Entry, ...]]:
        found: dict[str, tuple[Entry, ...]] = {}
        for entry in self.entries:
            found[entry.native] = (*found.get(entry.native, ()), entry)
        return found

    @cached_property
    def _underscored(self) -> Mapping[str, Found]:
        found = {_underscores(name): Found(parts, True) for name, parts in self.by_native.items()}
        # Where both names are one, as with most text encoders, it does not matter which is found.
        return found | {_underscores(name): Found((entry,), False) for name, entry in self.by_diffusers.items()}

    def keys(self, *, native: bool) -> frozenset[str]:
        """The names of all tensors."""
        return self._native_keys if native else self._diffusers_keys

    @cached_property
    def _native_keys(self) -> frozenset[str]:
        return frozenset(entry.key(native=True) for entry in self.entries)

    @cached_property
    def _diffusers_keys(self) -> frozenset[str]:
        return frozenset(entry.key(native=False) for entry in self.entries)

    def find(self, name: str, *, underscored: bool = False) -> Found | None:
        """What a layer's name stands for; ``underscored`` where it has underscores for dots."""
        if underscored:
            return self._underscored.get(name)
        if (entry := self.by_diffusers.get(name)) is not None:
            return Found((entry,), False)
        parts = self.by_native.get(name)
        return None if parts is None else Found(parts, True)


def _underscores(name: str) -> str:
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
