"""The values of mergekit's parameters: a number, a list along the layers, or either of them by filter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from daremerge_core.errors import RecipeError
from daremerge_core.printable import shortened

__all__ = ["Rule", "Setting", "as_flag", "as_number", "as_rules", "settled"]

MOST_RULES = 64
"""Conditional values of one parameter. Each becomes a table of all those before it."""


@dataclass(frozen=True)
class Rule:
    """A value for the tensors whose names contain ``filter``; for all where there is none."""

    filter: str | None
    values: tuple[float, ...]
    """One number; or several, evenly spaced from the first layer to the last, with lines between."""


@dataclass(frozen=True)
class Setting:
    """What a parameter is for each tensor: the first rule that fits counts, and the last one fits all."""

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, number: float) -> Setting:
        """The same everywhere."""
        return cls((Rule(None, (number,)),))

    @property
    def constant(self) -> float | None:
        """The number, where it is the same everywhere."""
        (found, *others) = {number for rule in self.rules for number in rule.values}
        return None if others else found

    def numbers(self) -> Iterator[float]:
        """Every number given: between them lie all that a tensor can get."""
        return (number for rule in self.rules for number in rule.values)

    def map(self, change: Callable[[float], float]) -> Setting:
        """The setting with every number changed. Right between a list's numbers too if ``change`` is a line."""
        changed = (replace(rule, values=tuple(change(number) for number in rule.values)) for rule in self.rules)
        return Setting(tuple(changed))


def settled(rules: list[Rule]) -> Setting | None:
    """The rules as far as they count; None where some tensors would be left without a value."""
    kept: list[Rule] = []
    for rule in rules:
        if all(rule.filter != before.filter for before in kept):
            kept.append(rule)
        if rule.filter is None:
            return Setting(tuple(kept))
    return None


def as_rules(raw: Any, *, where: str) -> list[Rule]:
    """A parameter as written, as rules in order. ``where`` names it in errors.

    A list of numbers that are all the same is one number.
    """
    if isinstance(raw, Mapping):
        return [_conditional(raw, where)]
    if isinstance(raw, list) and any(isinstance(one, Mapping) for one in raw):
        if len(raw) > MOST_RULES:
            raise RecipeError(f"{where}: {len(raw)} conditional values; {MOST_RULES} are the most")
        return [_conditional(one, f"{where}[{index}]") for index, one in enumerate(raw)]
    return [Rule(None, _values(raw, where))]


def _conditional(raw: Any, where: str) -> Rule:
    if not isinstance(raw, Mapping):
        raise RecipeError(f"{where}: a number stands beside filters", hint="Write `- value: …` for the rest.")
    unknown = [key for key in raw if key not in ("filter", "value")]
    if unknown or "value" not in raw:
        problem = f"{shortened(unknown[0])} is unknown" if unknown else "`value` is missing"
        raise RecipeError(f"{where}: {problem}", hint="A conditional value has a `filter`, optional, and a `value`.")
    wanted = raw.get("filter")
    if wanted is not None and not isinstance(wanted, str):
        raise RecipeError(
            f"{where}.filter: {shortened(wanted)} is not text", hint="Write a part of the tensors' names."
        )
    return Rule(None if wanted == "*" else wanted, _values(raw["value"], f"{where}.value"))


def _values(raw: Any, where: str) -> tuple[float, ...]:
    if not isinstance(raw, list):
        return (as_number(raw, where=where),)
    if not raw:
        raise RecipeError(f"{where}: the list is empty", hint="Write one number for the first layer, …, the last.")
    numbers = tuple(as_number(one, where=f"{where}[{index}]") for index, one in enumerate(raw))
    return numbers[:1] if len(set(numbers)) == 1 else numbers


def as_number(raw: Any, *, where: str) -> float:
    """One number. Text too, since YAML 1.1 reads 1e-5 as text."""
    try:
        number = math.nan if isinstance(raw, bool) or not isinstance(raw, (int, float, str)) else float(raw)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(
            f"{where}: {shortened(raw)} is not a number",
            hint="Write a number, a list of numbers along the layers, or a list of {filter, value}.",
        )
    return number


def as_flag(raw: Any, *, where: str) -> bool:
    """A yes or no. mergekit also takes 1 and 0, and configurations have them."""
    if isinstance(raw, (list, Mapping)):
        raise RecipeError(f"{where}: a value that varies is not supported here", hint="Write true or false.")
    known = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    found = known.get(str(raw).lower())
    if found is None:
        raise RecipeError(f"{where}: {shortened(raw)} is neither true nor false")
    return found
