"""Match tensor names against glob patterns in time linear in both, whatever the pattern.

A pattern is a small tree. Each node maps a *set of positions* in the name, at which a match may stand, to the set at
which it may stand after the node; position ``i`` means that ``i`` characters are used up. Sets are the bits of an int,
so a step over a whole set costs one machine operation per 64 characters, alternatives are a bitwise or, and there is
nothing to backtrack into.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

__all__ = ["AnyRun", "AnySingle", "Concatenation", "Either", "Literal", "Name", "Node", "Number", "OneOf", "matches"]

MANY = 10**12
"""Texts are counted as far as this: braces that are multiplied out give numbers of any length."""


class Name:
    """A tensor's name, prepared for matching."""

    __slots__ = ("before", "ends", "length", "starts", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.length = len(text)
        self.before: dict[str, int] = {}
        """Character → the positions that stand before it."""
        for position, character in enumerate(text):
            self.before[character] = self.before.get(character, 0) | 1 << position
        dots = self.before.get(".", 0)
        self.starts = dots << 1 | 1
        """Positions at which a dotted segment starts."""
        self.ends = dots | 1 << self.length
        """Positions at which a dotted segment ends."""


def matches(pattern: Node, name: Name) -> bool:
    """Whether one of the texts that ``pattern`` stands for matches ``name``.

    A text with a wildcard must match the whole name; one without, a run of whole dotted segments of it.
    """
    return bool(pattern.step(1, name, wild=True) >> name.length & 1) or bool(
        pattern.step(name.starts, name, wild=False) & name.ends
    )


class Node(ABC):
    """A part of a pattern."""

    __slots__ = ()

    @abstractmethod
    def step(self, positions: int, name: Name, *, wild: bool) -> int:
        """Where a match may stand after this node; without ``wild``, by ways that meet no wildcard."""

    @property
    def texts(self) -> int:
        """How many texts this stands for when its braces are written out, up to :data:`MANY`."""
        return 1


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """Characters that stand for themselves."""

    text: str

    def step(self, positions: int, name: Name, *, wild: bool) -> int:
        for character in self.text:
            positions = (positions & name.before.get(character, 0)) << 1
        return positions


@dataclass(frozen=True, slots=True)
class AnyRun(Node):
    """``*``"""

    def step(self, positions: int, name: Name, *, wild: bool) -> int:
        first = positions & -positions
        # Every position from the first on: all ones, less those below it.
        return ((2 << name.length) - first) if first and wild else 0


@dataclass(frozen=True, slots=True)
class AnySingle(Node):
    """``?``"""

    def step(self, positions: int, name: Name, *, wild: bool) -> int:
        return (positions & ((1 << name.length) - 1)) << 1 if wild else 0


@dataclass(frozen=True, slots=True)
class OneOf(Node):
    """``[a-c_]``: one character in one of the ranges, or with ``!`` in none of them."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def step(self, positions: int, name: Name, *, wild: bool) -> int:
        if not (positions and wild):
            return 0
        after = 0
        for character, before in name.before.items():
            if any(low <= character <= high for low, high in self.ranges) != self.negated:
                after |= (positions & before) << 1
        return after


@dataclass(frozen=True, slots=True)
class Number(Node):
    """``{0-3}``: a decimal number from ``low`` to ``high``, without leading zeros, or with them to ``width`` digits."""

    low: int
    high: int
    width: int | None

    def step(self, positions: int, name: Name, *, wild: bool) -> int:
        lengths = [self.width] if self.width else range(len(str(self.low)), len(str(self.high)) + 1)
        after = 0
        while positions:
            first = positions & -positions
            positions ^= first
            start = first.bit_length() - 1
            for length in lengths:
                digits = name.text[start : start + length]
                if len(digits) == length and self._holds(digits):
                    after |= first << length
        return after

    def _holds(self, digits: str) -> bool:
        if not (digits.isascii() and digits.isdecimal()):
            return False
        padded = len(digits) > 1 and digits.startswith("0")
        return (self.width is not None or not padded) and self.low <= int(digits) <= self.high

    @property
    def texts(self) -> int:
        return self.high - self.low + 1


@dataclass(frozen=True, slots=True)
class Either(Node):
    """``{a,b}``"""

    options: tuple[Node, ...]

    def step(self, positions: int, name: Name, *, wild: bool) -> int:
        after = 0
        for option in self.options:
            after |= option.step(positions, name, wild=wild)
        return after

    @property
    def texts(self) -> int:
        return min(sum(option.texts for option in self.options), MANY)


@dataclass(frozen=True, slots=True)
class Concatenation(Node):
    """Nodes one after the other."""

    nodes: tuple[Node, ...]

    def step(self, positions: int, name: Name, *, wild: bool) -> int:
        for node in self.nodes:
            if not positions:
                break
            positions = node.step(positions, name, wild=wild)
        return positions

    @property
    def texts(self) -> int:
        count = 1
        for node in self.nodes:
            count = min(count * node.texts, MANY)
        return count
