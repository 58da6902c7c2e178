"""Settings that vary from tensor to tensor, as steps of the gradients plugin.

A list along the layers is ``gradient.depth`` along layers, which counts as mergekit does: a layer lies at
index / (layers − 1), and embeddings, the last norm and the head lie at 0. A filter is a selector of
``gradient.pattern``. Where a setting has both, each list is multiplied by the 0 or 1 of where it counts, and the
products are added up: exact, since all else is 0 there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from daremerge_core.errors import RecipeError
from daremerge_core.printable import shortened

from .settings import Rule, Setting

__all__ = ["Steps"]

Step = dict[str, Any]
_PLAIN = re.compile(r"[\w.:/-]+")
EVERYTHING = "*"


class Steps:
    """The steps of a recipe under construction. A step that is there already is used again."""

    def __init__(self, *, source: str, model: str, taken: frozenset[str]) -> None:
        """
        Args:
            model: the one whose tensors gradients are for.
            taken: names that no step may have.
        """
        self.found: dict[str, Step] = {}
        self._names: dict[str, str] = {}  # a step as JSON → its name
        self._source, self._model, self._taken = source, model, taken

    def add(self, name: str, step: Step) -> str:
        """The name of the step: its own, numbered where that is taken, or that of an equal one."""
        spelt = json.dumps(step, sort_keys=True)
        if spelt in self._names:
            return self._names[spelt]
        free, number = name, 2
        while free in self.found or free in self._taken:
            free, number = f"{name}_{number}", number + 1
        self.found[free], self._names[spelt] = step, free
        return free

    def gradient(self, name: str, setting: Setting) -> str:
        """A gradient whose ratio is the setting, at every tensor."""
        outside = any(not 0.0 <= number <= 1.0 for number in setting.numbers())
        allow: Step = {"outside": "allow"} if outside else {}
        curved = [rule for rule in setting.rules if len(rule.values) > 1]
        if not curved:
            return self._table(name, setting.rules, allow)
        if len(setting.rules) == 1:
            return self._curve(name, curved[0].values, allow)
        parts = [self._part(name, setting, rule, allow) for rule in curved]
        others = tuple(Rule(rule.filter, (0.0,)) if rule in curved else rule for rule in setting.rules)
        if any(Setting(others).numbers()):
            parts.append(self._table(f"{name}_others", others, allow))
        if len(parts) == 1:
            return parts[0]
        return self.add(name, {"op": "gradient.add", "gradients": parts, **allow})

    def _part(self, name: str, setting: Setting, rule: Rule, allow: Step) -> str:
        """A rule's list where the rule counts, and 0 elsewhere."""
        before = [Rule(one.filter, (0.0,)) for one in setting.rules[: setting.rules.index(rule)]]
        counts = [*before, Rule(rule.filter, (1.0,))]
        rest = [] if rule.filter is None else [Rule(None, (0.0,))]
        curve = self._curve(f"{name}_layers", rule.values, allow)
        where = self._table(f"{name}_where", [*counts, *rest], {})
        return self.add(f"{name}_part", {"op": "gradient.multiply", "gradients": [curve, where], **allow})

    def _curve(self, name: str, values: Sequence[float], allow: Step) -> str:
        """A line through evenly spaced values, from the first layer to the last."""
        last = len(values) - 1
        points = {f"{index / last:.12g}": value for index, value in enumerate(values)}
        step = {"op": "gradient.depth", "model": self._model, "along": "layers", "points": points}
        return self.add(name, {**step, "rest": values[0], **allow})

    def _table(self, name: str, rules: Sequence[Rule], allow: Step) -> str:
        """A number for each filter, the last for the rest."""
        *filtered, rest = rules
        layers = {self._selector(rule.filter): rule.values[0] for rule in filtered}
        step: Step = {"op": "gradient.pattern", "model": self._model, "layers": layers or {EVERYTHING: rest.values[0]}}
        return self.add(name, {**step, **({"rest": rest.values[0]} if layers else {}), **allow})

    def _selector(self, text: str | None) -> str:
        """The selector of names that contain ``text``."""
        if text is None or not _PLAIN.fullmatch(text):
            raise RecipeError(
                f"{self._source}: the filter {shortened(text)} is not supported",
                hint="A filter is a part of a tensor's name: letters, digits, dots, underscores. It has no wildcards.",
            )
        return f"*{text}*"
