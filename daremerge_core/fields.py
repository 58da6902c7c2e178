"""What a component's fields are, for whoever shows them: as command line options, as widgets of a node."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from .components import Component

__all__ = ["choices", "is_numbers", "is_optional", "is_table", "limits", "own_first", "plain"]


def own_first(cls: type[Component]) -> list[str]:
    """The fields in the order to show them: a component's own first, then the ratio, then where it applies."""
    inherited = _inherited(cls)
    return sorted(cls.model_fields, key=lambda name: (name in inherited) + (name in inherited - {"ratio"}))


def _inherited(cls: type[Component]) -> set[str]:
    """Fields a component has from its kind rather than of its own, unless it changes their default."""
    kind = next(base for base in cls.__mro__[1:] if base.__module__ == Component.__module__)
    fields = getattr(kind, "model_fields", {})
    return {name for name, info in fields.items() if cls.model_fields[name].default == info.default}


def plain(annotation: Any) -> Any:
    """An annotation without ``Annotated`` and ``| None``."""
    if get_origin(annotation) is Annotated:
        return plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [arg for arg in get_args(annotation) if arg is not type(None)]
        return plain(kinds[0]) if len(kinds) == 1 else annotation
    return annotation


def is_optional(info: FieldInfo) -> bool:
    """Whether a field may be None."""
    annotation = info.annotation
    return get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)


def is_table(info: FieldInfo) -> bool:
    """Whether a field is a mapping of names to numbers."""
    annotation = plain(info.annotation)
    return get_origin(annotation) is dict and get_args(annotation)[1] is float


def is_numbers(info: FieldInfo) -> bool:
    """Whether a field is a list of numbers, such as one for each model."""
    annotation = plain(info.annotation)
    return get_origin(annotation) is list and plain(get_args(annotation)[0]) is float


def choices(annotation: Any) -> tuple[str, ...]:
    """The words of a ``Literal``; none of any other type."""
    inner = plain(annotation)
    return tuple(str(one) for one in get_args(inner)) if get_origin(inner) is Literal else ()


def limits(info: FieldInfo) -> Mapping[str, Any]:
    """``min`` and ``max``, where there are any, and ``min_open``, ``max_open`` where the bound itself is outside."""
    found: dict[str, Any] = {}
    for mark in info.metadata:
        for attribute, key, is_open in (
            ("ge", "min", False),
            ("gt", "min", True),
            ("le", "max", False),
            ("lt", "max", True),
        ):
            bound = getattr(mark, attribute, None)
            if bound is not None:
                found[key] = bound
                if is_open:
                    found[f"{key}_open"] = True
    return found
