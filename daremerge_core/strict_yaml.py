"""YAML as recipes are written: plain values, no tags, no aliases, no duplicate keys, no surprise from hostile input."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .errors import RecipeError
from .printable import shortened

if TYPE_CHECKING:
    import yaml

__all__ = ["MAX_BYTES", "parse_yaml"]

MAX_BYTES = 1 << 20
"""Of text: a recipe of that size says thousands of things, and parsing takes a thousand times its size in memory."""

_MAX_VALUES = 100_000
_MAX_DEPTH = 64
_MAX_DIGITS = 400  # more than the largest float has
_PLAIN_NUMBERS = {
    # YAML 1.1 also counts in base 60 (1:30), which is no longer YAML, and no number in a recipe is meant so.
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}
_WORDS = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null")


def parse_yaml(text: str, *, source: str) -> Any:
    """The value of a YAML (and so JSON) text: mappings with words for keys, lists, text, numbers, booleans, null.

    Dates are text. Raises :class:`~daremerge_core.errors.RecipeError`, with the line, for anything else: tags, aliases,
    keys given twice, more than 64 levels, more than 100,000 values, numbers of more than 400 digits.
    """
    import yaml

    if len(text) > MAX_BYTES:
        raise RecipeError(f"{source}: {len(text):,} characters are too many for a recipe: {MAX_BYTES:,} are the most")
    try:
        loader = _loader(source)(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{source}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except ValueError as error:
        raise RecipeError(f"{source}: not a valid value: {error}") from None


def _loader(source: str) -> type[yaml.SafeLoader]:
    """A loader whose errors name ``source``. It is the one in Python, since the one in C cannot be told to refuse."""
    import yaml

    def refuse(mark: Any, problem: str, hint: str | None = None) -> RecipeError:
        return RecipeError(f"{source}, line {mark.line + 1}: {problem}", hint=hint)

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = _resolvers()

        def __init__(self, text: str) -> None:
            super().__init__(text)
            self._depth = self._values = 0

        def fetch_flow_collection_start(self, token: Any) -> None:
            # Not only in compose_node: the scanner looks a thousand characters ahead, and takes time for each bracket
            # that grows with the number of those open.
            if self.flow_level >= _MAX_DEPTH:
                raise refuse(self.get_mark(), "nested too deeply")
            super().fetch_flow_collection_start(token)

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            mark = event.start_mark
            if isinstance(event, yaml.events.AliasEvent):
                raise refuse(
                    mark,
                    "YAML aliases (*name) are not allowed in a recipe",
                    "Give the shared thing a step of its own and name it.",
                )
            if getattr(event, "tag", None) not in (None, "!"):
                raise refuse(mark, f"not valid YAML for a recipe: it has the tag {shortened(event.tag)}")
            self._values += 1
            if self._values > _MAX_VALUES:
                raise refuse(mark, f"more than {_MAX_VALUES:,} values are too many for a recipe")
            if self._depth == _MAX_DEPTH:
                raise refuse(mark, "nested too deeply")
            self._depth += 1
            node = super().compose_node(parent, index)
            self._depth -= 1
            return node

    def mapping(loader: Any, node: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float)):
                raise refuse(key_node.start_mark, "a key must be a word")
            if str(key) in found:
                raise refuse(key_node.start_mark, f"{shortened(key)} is given twice")
            found[str(key)] = loader.construct_object(value_node, deep=True)
        return found

    def integer(loader: Any, node: Any) -> int:
        if len(node.value) > _MAX_DIGITS:
            raise refuse(node.start_mark, f"a number of {len(node.value):,} digits")
        number: int = yaml.constructor.SafeConstructor.construct_yaml_int(loader, node)
        return number

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    Loader.add_constructor("tag:yaml.org,2002:int", integer)
    return Loader


def _resolvers() -> dict[str | None, list[tuple[str, re.Pattern[str]]]]:
    """First letter → what a plain word may be, of the types that a recipe has."""
    import yaml

    found: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}
    for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items():
        kept = [(tag, _PLAIN_NUMBERS.get(tag, rule)) for tag, rule in rules if tag in (*_PLAIN_NUMBERS, *_WORDS)]
        if kept:
            found[letter] = kept
    return found
