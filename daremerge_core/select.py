"""Layer selectors: which tensors a merge, a mask or an edit touches.

A selector is a list of patterns between commas or line breaks; ``#`` begins a comment.

==================  ==========================================================================================
``input_blocks.1``  no wildcard: the whole name, or a run of its whole dotted segments (never ``input_blocks.10``)
``*.to_v.weight``   ``*`` any characters, dots too; ``?`` one; ``[abc]``, ``[0-9]`` one of; ``[!a]`` one not of.
                    A pattern with a wildcard must match the whole name
``{a,b{c,d}}``      ``a``, ``bc`` and ``bd``, as if written one by one
``{0-3,7}``         the numbers 0, 1, 2, 3 and 7; ``{08-11}`` keeps the width: 08, 09, 10, 11
``!*.bias``         leaves out of what the others select
==================  ==========================================================================================

A tensor is selected if some pattern matches it (or all patterns begin with ``!``) and no ``!`` pattern does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NoReturn

from . import globs
from .errors import SelectorError, nearest

__all__ = ["Pattern", "Selector", "select"]

MAX_TEXTS = 10_000
"""A pattern may stand for this many texts when its braces are written out."""
MAX_NESTING = 32
"""Braces within braces."""

_BLANK = " \t\r"
_END = ",\n"
_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
_NEARLY_RANGE = re.compile(r"[0-9]+-[0-9]*|-[0-9]+")
_ONE_OF = re.compile(r"\[(!?)(\]?[^\]\n]+|\])\]")
_WILDCARD = re.compile(r"[*?\[]")
_WILD_OR_BRACES = re.compile(r"[*?]|\[[^]]*\]|\{.*\}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern of a selector."""

    text: str
    """As written, without ``!`` and surrounding blanks."""
    negated: bool
    node: globs.Node = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector; ``str`` writes it out again."""

    patterns: tuple[Pattern, ...]

    @classmethod
    def parse(cls, text: str | Iterable[str]) -> Selector:
        """Parse a selector, or a list of selectors as one.

        Raises:
            SelectorError: empty or malformed; the message names the line and the column.
        """
        return cls(_Parser(text if isinstance(text, str) else "\n".join(text)).patterns())

    def matches(self, key: str) -> bool:
        """Whether the tensor named ``key`` is selected."""
        return self._selects(globs.Name(key))

    def _selects(self, name: globs.Name) -> bool:
        if any(pattern.negated and globs.matches(pattern.node, name) for pattern in self.patterns):
            return False
        wanted = [pattern for pattern in self.patterns if not pattern.negated]
        return not wanted or any(globs.matches(pattern.node, name) for pattern in wanted)

    def __str__(self) -> str:
        return ", ".join(f"!{pattern.text}" if pattern.negated else pattern.text for pattern in self.patterns)


def select(keys: Collection[str], text: str | Iterable[str], *, what: str = "--include") -> list[str]:
    """The ``keys`` that a selector selects, in their order.

    Every pattern must match something, or a misspelt one would change the result unseen.
    ``what`` names the option or field that holds the selector.

    Raises:
        SelectorError: malformed; a pattern matches no key (the hint lists near names); or nothing is left.
    """
    selector = Selector.parse(text)
    names = [globs.Name(key) for key in keys]
    for pattern in selector.patterns:
        if not any(globs.matches(pattern.node, name) for name in names):
            raise SelectorError(
                f"{what}: {pattern.text!r} matches none of the {len(names)} tensors.", hint=_advice(pattern, names)
            )
    selected = [name.text for name in names if selector._selects(name)]
    if not selected:
        raise SelectorError(
            f"{what}: '{selector}' selects nothing: its '!' patterns leave out all that the others match.",
            hint="Narrow the patterns that begin with '!', or widen the others.",
        )
    return selected


class _Parser:
    """Recursive descent over the text of a selector. Every method leaves ``at`` behind what it has read."""

    def __init__(self, text: str) -> None:
        # Comments become blanks, so that positions stay those of the text as written.
        self.text = re.sub(r"#[^\n]*", lambda comment: " " * len(comment[0]), text)
        self.at = 0

    def patterns(self) -> tuple[Pattern, ...]:
        found = []
        while self._skip(_BLANK + _END):
            found.append(self._pattern())
        if not found:
            raise SelectorError("The layer selector is empty.", hint="Write * to select every tensor.")
        return tuple(found)

    def _pattern(self) -> Pattern:
        start = self.at
        negated = self._peek() == "!"
        if negated:
            self.at += 1
            if not self._skip(_BLANK) or self._peek() in _END:
                self._fail(start, "'!' stands alone", "Write what to leave out right behind it: !*.bias")
        begin = self.at
        node = self._sequence(_END, 0)
        if (texts := node.texts) > MAX_TEXTS:
            many = f"{texts:,}" if texts < globs.MANY else f"{texts:,} or more"
            self._fail(
                begin,
                f"the pattern stands for {many} names, more than {MAX_TEXTS:,}",
                "Use * for part of it, or split it into several patterns.",
            )
        return Pattern(self.text[begin : self.at].strip(), negated, node)

    def _sequence(self, ends: str, nesting: int) -> globs.Concatenation:
        """Nodes as far as one of ``ends`` or the end of the text."""
        nodes: list[globs.Node] = []
        while (character := self._peek()) and character not in ends:
            if character == "*":
                self.at += 1
                nodes.append(globs.AnyRun())
            elif character == "?":
                self.at += 1
                nodes.append(globs.AnySingle())
            elif character == "[":
                nodes.append(self._one_of())
            elif character == "{":
                nodes.append(self._braces(nesting + 1))
            elif character == "}":
                self._fail(self.at, "'}' closes nothing", "Remove it, or write [}] if a name holds it.")
            else:
                nodes.append(self._literal(ends))
        return globs.Concatenation(tuple(nodes))

    def _literal(self, ends: str) -> globs.Literal:
        start = self.at
        while (character := self._peek()) and character not in "*?[{}" + ends:
            self.at += 1
        text = self.text[start : self.at]
        return globs.Literal(text.rstrip(_BLANK) if character in ends else text)

    def _one_of(self) -> globs.OneOf:
        match = _ONE_OF.match(self.text, self.at)
        if match is None:
            self._fail(
                self.at,
                "'[' holds nothing or is never closed",
                "Write the characters it stands for: [abc], [0-9] or [!a].",
            )
        ranges = []
        for member in re.finditer(r"(.)-(.)|(.)", match[2]):
            low, high = (member[1], member[2]) if member[1] else (member[3], member[3])
            if low > high:
                self._fail(self.at, f"the range '{low}-{high}' runs backwards", f"Write [{high}-{low}].")
            ranges.append((low, high))
        self.at = match.end()
        return globs.OneOf(tuple(ranges), negated=bool(match[1]))

    def _braces(self, nesting: int) -> globs.Either:
        start = self.at
        if nesting > MAX_NESTING:
            self._fail(start, f"braces are nested more than {MAX_NESTING} deep", "Write the names out, or use *.")
        options: list[globs.Node] = []
        while not options or self.text[self.at] == ",":
            self.at += 1
            self._skip(_BLANK)
            begin = self.at
            option = self._sequence(",}\n", nesting)
            if self._peek() in ("", "\n"):
                self._fail(start, "'{' is never closed", "Close it on the same line: {a,b}")
            text = self.text[begin : self.at].strip(_BLANK)
            options.append(self._range(begin, text) if _NEARLY_RANGE.fullmatch(text) else option)
        if not self.text[start + 1 : self.at].strip(_BLANK):
            self._fail(start, "the braces are empty", "Write alternatives between them: {a,b} or {0-3}")
        self.at += 1
        return globs.Either(tuple(options))

    def _range(self, start: int, text: str) -> globs.Number:
        match = _RANGE.fullmatch(text)
        if match is None:
            self._fail(start, f"the range '{text}' lacks an end or is too large", "Write both ends: {0-3}")
        low, high = int(match[1]), int(match[2])
        if low > high:
            self._fail(start, f"the range '{text}' runs backwards", f"Write {{{match[2]}-{match[1]}}}.")
        padded = any(len(end) > 1 and end.startswith("0") for end in match.groups())
        return globs.Number(low, high, max(map(len, match.groups())) if padded else None)

    def _peek(self) -> str:
        """The next character; an empty string, which is in every string, at the end of the text."""
        return self.text[self.at : self.at + 1]

    def _skip(self, characters: str) -> bool:
        """Go past any of ``characters``; whether anything is left."""
        while (character := self._peek()) and character in characters:
            self.at += 1
        return bool(character)

    def _fail(self, position: int, problem: str, hint: str) -> NoReturn:
        line_start = self.text.rfind("\n", 0, position) + 1
        line = self.text[line_start:].partition("\n")[0].rstrip()
        column = position - line_start
        number = self.text.count("\n", 0, position) + 1
        raise SelectorError(
            f"Layer selector, line {number}, column {column + 1}: {problem}.\n  {line}\n  {' ' * column}^", hint=hint
        )


def _advice(pattern: Pattern, names: list[globs.Name]) -> str:
    """What to do about a pattern that matches nothing: a wider one that does match, or near names."""
    if not names:
        return "The model holds no tensors at all."
    (wider,) = Selector.parse(f"*{pattern.text.strip('*')}*").patterns
    count = sum(globs.matches(wider.node, name) for name in names)
    if count:
        rule = "with a wildcard matches the whole name" if _WILDCARD.search(pattern.text) else "matches whole segments"
        return f"A pattern {rule}. '{wider.text}' would match {count} tensors."
    pieces = [piece.strip(".") for piece in _WILD_OR_BRACES.split(pattern.text) if piece.strip(".")]
    near = next(filter(None, (_near(piece.split("."), names) for piece in pieces)), None)
    most_alike = max(names, key=lambda name: sum(piece in name.text for piece in pieces))
    return near or f"Names look like {most_alike.text!r}."


def _near(path: list[str], names: list[globs.Name]) -> str:
    """The nearest to ``path`` of those that go on as some name does where ``path`` leaves every name."""
    texts = [f".{name.text}." for name in names]
    for right in reversed(range(len(path))):
        beginning = "".join(f".{segment}" for segment in path[:right]) + "."
        ways = {way for text in texts for way in re.findall(rf"(?<={re.escape(beginning)})[^.]+", text)}
        if path[right] in ways:
            return ""
        if ways:
            known = beginning[1:]
            return nearest(known + path[right], (known + way for way in ways)).strip()
    return ""
