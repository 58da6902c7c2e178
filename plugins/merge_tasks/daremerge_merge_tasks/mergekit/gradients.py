"""Settings that vary from tensor to tensor, as steps of the gradients plugin.

``gradient.depth`` cannot say what mergekit's lists say. To mergekit a layer lies at index / (layers − 1), and the
embeddings, the last norm and the head lie at 0; here they are blocks with depths of their own, before and behind the
layers. So a list becomes a table of ``gradient.pattern``: a ratio for each layer, and the first number for the rest.
For that the layers' names must be known.

A filter is a selector of the same table. Where a filter has a list, its table of layers is multiplied by the 0 or 1 of
its filter, and the products are added up: exact, since all else is 0 there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from daremerge_core.errors import RecipeError

from .settings import Rule, Setting

__all__ = ["Steps", "layers_in"]

Step = dict[str, Any]
_PLAIN = re.compile(r"[\w.:/-]+")
_NUMBERED = re.compile(r"((?:[^.]+\.)*?)(\d+)\.")
EVERYTHING = "*"


def layers_in(keys: Iterable[str]) -> list[str]:
    """The layers of a model by the names of its tensors, in order: ``model.layers.0``, ``model.layers.1``, …

    Empty where there is more than one stack of layers, or none: then nobody can say what a list along them means.
    """
    found: dict[str, set[int]] = {}
    for key in keys:
        numbered = _NUMBERED.match(key)
        if numbered:
            found.setdefault(numbered[1], set()).add(int(numbered[2]))
    if len(found) != 1:
        return []
    ((stack, numbers),) = found.items()
    return [f"{stack}{number}" for number in sorted(numbers)]


class Steps:
    """The steps of a recipe under construction. A step that is there already is used again."""

    def __init__(self, *, source: str, model: str, taken: frozenset[str], layers: Sequence[str]) -> None:
        """
        Args:
            model: the one whose tensors gradients are for.
            taken: names that no step may have.
            layers: a selector for each layer, in order; may be empty.
        """
        self.found: dict[str, Step] = {}
        self._source, self._model, self._taken, self._layers = source, model, taken, layers

    def add(self, name: str, step: Step) -> str:
        """The name of the step: its own, numbered where that is taken, or that of an equal one."""
        for known, other in self.found.items():
            if other == step:
                return known
        free, number = name, 2
        while free in self.found or free in self._taken:
            free, number = f"{name}_{number}", number + 1
        self.found[free] = step
        return free

    def gradient(self, name: str, setting: Setting) -> str:
        """A gradient whose ratio is the setting, at every tensor."""
        outside = any(not 0.0 <= number <= 1.0 for number in setting.numbers())
        allow: Step = {"outside": "allow"} if outside else {}
        *filtered, _ = setting.rules
        curved = [rule for rule in filtered if len(rule.values) > 1]
        if not curved:
            return self._table(name, setting.rules, allow)
        parts = [self._part(name, setting, rule, allow) for rule in curved]
        others = tuple(Rule(rule.filter, (0.0,)) if rule in curved else rule for rule in setting.rules)
        if any(Setting(others).numbers()):
            parts.append(self._table(f"{name}_others", others, allow))
        if len(parts) == 1:
            return parts[0]
        return self.add(name, {"op": "gradient.add", "gradients": parts, **allow})

    def _part(self, name: str, setting: Setting, rule: Rule, allow: Step) -> str:
        """A filter's list where the filter counts, and 0 elsewhere."""
        before = setting.rules[: setting.rules.index(rule)]
        counts = (*(Rule(one.filter, (0.0,)) for one in before), Rule(rule.filter, (1.0,)), Rule(None, (0.0,)))
        curve = self._table(f"{name}_layers", (Rule(None, rule.values),), allow)
        where = self._table(f"{name}_where", counts, {})
        return self.add(f"{name}_part", {"op": "gradient.multiply", "gradients": [curve, where], **allow})

    def _table(self, name: str, rules: Sequence[Rule], allow: Step) -> str:
        """Rules of which only the last, for the rest, may have a list."""
        *filtered, rest = rules
        layers = {self._selector(rule.filter): rule.values[0] for rule in filtered}
        if len(rest.values) > 1:
            layers.update(self._by_layer(name, rest.values))
        step: Step = {"op": "gradient.pattern", "model": self._model, "layers": layers or {EVERYTHING: rest.values[0]}}
        return self.add(name, {**step, **({"rest": rest.values[0]} if layers else {}), **allow})

    def _by_layer(self, name: str, values: Sequence[float]) -> Mapping[str, float]:
        if not self._layers:
            raise RecipeError(
                f"{self._source}: {name}: a list along the layers is not supported where the layers are not known",
                hint="Write one number, or numbers by filter.",
            )
        last = len(self._layers) - 1
        return {layer: _between(values, i / last if last else 1.0) for i, layer in enumerate(self._layers)}

    def _selector(self, text: str | None) -> str:
        """The selector of names that contain ``text``."""
        if text is None or not _PLAIN.fullmatch(text):
            raise RecipeError(
                f"{self._source}: the filter {text!r} is not supported",
                hint="A filter is a part of a tensor's name: letters, digits, dots, underscores. It has no wildcards.",
            )
        return f"*{text}*"


def _between(values: Sequence[float], depth: float) -> float:
    """The height at ``depth`` of the line through evenly spaced values, without the noise of its last digits."""
    position = depth * (len(values) - 1)
    before = min(int(position), len(values) - 2)
    share = position - before
    return round((1.0 - share) * values[before] + share * values[before + 1], 12)
