"""A component's fields as sockets and widgets, and what the user gave them as options again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args, get_origin

from comfy_api.latest import io
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from daremerge_core import Catalog
from daremerge_core.components import Component, Port, nested, ports
from daremerge_core.errors import RecipeError
from daremerge_core.fields import choices, is_optional, is_table, limits, own_first, plain
from daremerge_core.strict_yaml import parse_yaml

from .words import canvas_words

__all__ = ["GRADIENT", "LORA", "MASK", "SLOTS", "Widget", "slot_names", "sockets", "widgets"]

MASK = io.Custom("MODEL_MASK")
GRADIENT = io.Custom("LAYER_GRADIENT")
LORA = io.Custom("LORA_MODEL")

SLOTS = 16
"""Sockets of an input that takes any number of values; the browser shows one more than are in use."""
SEEDS = 2**53 - 1
"""The largest whole number that a browser keeps exactly."""
UNLIMITED = 1_000_000
NOT_SET = "default"
"""The choice that leaves a field to the component."""

MERGED = "A model that a merge or edit node of this pack made."
"""What a socket takes where a command line takes a recipe."""

_LEFT_OUT = frozenset({"parts"})
"""Of merges and edits: a socket carries one part of a checkpoint."""


class Widget(NamedTuple):
    """One field as the canvas shows it."""

    input: io.Input
    field: str
    """The option's name in a recipe."""
    read: Callable[[Any], Any]
    """What the widget holds → the option, or None to leave it to the component."""


def slot_names(field: str) -> list[str]:
    """``models`` → ``model_1``, ``model_2`` …"""
    return [f"{field.removesuffix('s')}_{number}" for number in range(1, SLOTS + 1)]


def widgets(cls: type[Component], catalog: Catalog) -> Iterator[Widget]:
    """A widget for each field that is no port, a component's own first."""
    for name in own_first(cls):
        info = cls.model_fields[name]
        if name in ports(cls) or (name in _LEFT_OUT and "ratio" in cls.model_fields):
            continue
        yield _widget(cls, name, info, catalog)


def _widget(cls: type[Component], name: str, info: FieldInfo, catalog: Catalog) -> Widget:
    word = info.alias or name
    default = None if info.default is PydanticUndefined else info.default
    common: dict[str, Any] = {
        "id": word,
        "optional": not info.is_required(),
        "tooltip": canvas_words(info.description or f"{word} of {cls.name}."),
    }
    kind = plain(info.annotation)
    if name in nested(cls):
        return _component_choice(common, name, default, nested(cls)[name], catalog)
    if words := choices(kind):
        return Widget(io.Combo.Input(options=list(words), default=default or words[0], **common), word, _same)
    if info.examples and kind is str:
        options = [NOT_SET, *map(str, info.examples)]
        return Widget(io.Combo.Input(options=options, default=default or NOT_SET, **common), word, _unless_default)
    if kind is bool:
        return Widget(io.Boolean.Input(default=bool(default), **common), word, _same)
    if kind in (int, float) and not is_optional(info):
        return Widget(_number(kind, name, info, default, common), word, _same)
    if kind in (int, float):
        return _text(common, word, partial(_to_number, word, kind), "a number; empty: not set")
    if is_table(info):
        return _text(common, word, partial(_to_table, word), "name: number, one in a line", multiline=True)
    if get_origin(kind) is list:
        inner = plain(get_args(kind)[0])
        words = choices(inner)
        hint = ", ".join(words) if words else "one, two, three"
        held = ", ".join(f"{one:g}" if inner is float else str(one) for one in default or ())
        return _text(common, word, partial(_to_list, word, inner), f"{hint}; empty: not set", default=held)
    if get_origin(kind) is dict:
        return _text(common, word, partial(_to_mapping, word), "name: value, one in a line", multiline=True)
    return _text(common, word, _unless_empty, "", default=default or "", multiline=info.is_required())


def _number(kind: type, name: str, info: FieldInfo, default: Any, common: Mapping[str, Any]) -> io.Input:
    bounds = limits(info)
    low, high = bounds.get("min", -UNLIMITED), bounds.get("max", UNLIMITED)
    if kind is int:
        if name == "seed":
            return io.Int.Input(default=default or 0, min=low, max=SEEDS, control_after_generate=True, **common)
        return io.Int.Input(default=default or max(low, 0), min=low, max=high, step=1, **common)
    step = 0.01
    low = low + step if bounds.get("min_open") else low
    high = high - step if bounds.get("max_open") else high
    default = min(max(0.0, low), high) if default is None else default
    return io.Float.Input(default=default, min=low, max=high, step=step, round=0.0001, **common)


def _text(
    common: Mapping[str, Any],
    word: str,
    read: Callable[[str], Any],
    placeholder: str,
    *,
    default: str = "",
    multiline: bool = False,
) -> Widget:
    text = io.String.Input(default=default, multiline=multiline, placeholder=placeholder or None, **common)
    return Widget(text, word, read)


def _component_choice(common: dict[str, Any], name: str, default: Any, kind: str, catalog: Catalog) -> Widget:
    names = [cls.name for cls in catalog.all(kind) if set(cls.filled_ports()) <= {"a", "b", "model"}]
    first = default.name if isinstance(default, Component) else default if isinstance(default, str) else NOT_SET
    options = [first, *(one for one in names if one != first)]
    return Widget(io.Combo.Input(options=options, default=first, **common), common["id"], _unless_default)


# --- what the user gave ------------------------------------------------------------------------------------


def _same(value: Any) -> Any:
    return value


def _unless_default(value: str) -> str | None:
    return None if value == NOT_SET else value


def _unless_empty(value: str) -> str | None:
    return value if value.strip() else None


def _to_number(word: str, kind: type, value: str) -> Any:
    if not value.strip():
        return None
    try:
        return kind(value)
    except ValueError:
        raise RecipeError(
            f"{word}: {value!r} is no {'whole ' if kind is int else ''}number", hint="Or leave it empty."
        ) from None


def _to_list(word: str, kind: Any, value: str) -> list[Any] | None:
    words = [one.strip() for one in value.replace("\n", ",").split(",") if one.strip()]
    if not words:
        return None
    return [_to_number(word, kind, one) for one in words] if kind in (int, float) else words


def _to_mapping(word: str, value: str) -> Any:
    return parse_yaml(value, source=word) if value.strip() else None


def _to_table(word: str, value: str) -> dict[str, float] | None:
    """``a: 0.5`` and ``a = 0.5``, one in a line or parted by commas."""
    table: dict[str, float] = {}
    for line in value.replace(",", "\n").splitlines():
        key, mark, number = line.rpartition("=" if "=" in line else ":")
        if not line.strip():
            continue
        if not mark or not key.strip():
            raise RecipeError(f"{word}: {line.strip()!r} is not NAME: NUMBER", hint="Write one in a line.")
        table[key.strip().strip("\"'")] = _to_number(f"{word}, {key.strip()}", float, number)
    return table or None


# --- sockets ---------------------------------------------------------------------------------------------------


def sockets(cls: type[Component], types: Callable[[Port], Sequence[Any]]) -> list[io.Input]:
    """A socket for each port, and :data:`SLOTS` of them for one that takes a list.

    Args:
        types: the socket types that a port takes.
    """
    found: list[io.Input] = []
    for name, port in ports(cls).items():
        info = cls.model_fields[name]
        word = info.alias or name
        tooltip = MERGED if port.kind == "recipe" else canvas_words(info.description or f"The {port.kind}.")
        if not port.many:
            found.append(_socket(word, types(port), optional=not info.is_required(), tooltip=tooltip))
            continue
        least = _least(info)
        for number, slot in enumerate(slot_names(word), start=1):
            optional = number > least or not info.is_required()
            found.append(_socket(slot, types(port), optional=optional, tooltip=tooltip))
    return sorted(found, key=lambda one: one.optional)


def _least(info: FieldInfo) -> int:
    """How many values a list must have."""
    return next((mark.min_length for mark in info.metadata if hasattr(mark, "min_length")), 1)


def _socket(id: str, types: Sequence[Any], *, optional: bool, tooltip: str | None) -> io.Input:
    if len(types) > 1:
        return io.MultiType.Input(id, list(types), optional=optional, tooltip=tooltip)
    return types[0].Input(id, optional=optional, tooltip=tooltip)
