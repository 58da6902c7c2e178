"""A component's fields as click parameters: the same names, help, ranges, choices and defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_origin

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ..components import Component, LoraTool, nested, ports
from ..errors import RecipeError
from ..fields import choices, is_numbers, is_table, limits, own_first, plain
from ..strict_yaml import parse_yaml

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:  # generic since click 8.2 only
    ParamType = click.ParamType

__all__ = ["ParamType", "YamlValue", "component_parameters", "flag", "given_options", "is_argument"]

FIELD = "field_"
"""What click calls a component's fields begins with this, so that a field may be called as one of the run's options."""


def is_argument(cls: type[Component], field: str) -> bool:
    """Whether a field is an argument: a port that must be given. The base model is an option all the same, except where
    it is half of the matter: for a LoRA made from a model and its base."""
    is_option = field == "base" and not issubclass(cls, LoraTool)
    return field in ports(cls) and not is_option and cls.model_fields[field].is_required()


class YamlValue(ParamType):
    """A word, or a YAML mapping such as ``{op: slerp}``."""

    name = "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse_yaml(value, source=param.opts[0] if param else "value")
        except RecipeError as error:
            self.fail(str(error), param, ctx)


class CommaList(ParamType):
    """Words joined by commas, each of a choice."""

    name = "list"

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.choices = choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        words = [word.strip() for word in value.split(",") if word.strip()]
        wrong = [word for word in words if self.choices and word not in self.choices]
        if wrong or not words:
            self.fail(f"{', '.join(wrong) or 'nothing'} given; choose from {', '.join(self.choices)}", param, ctx)
        return words


class KeyNumber(ParamType):
    """``input_blocks.1=0.5``: a key and its number, parted by the last ``=``."""

    name = "key=number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        key, _, number = (part.strip() for part in value.rpartition("="))
        try:
            return (key or self.fail(f"{value!r} lacks a key", param, ctx)), float(number)
        except ValueError:
            return self.fail(f"{value!r} is not KEY=NUMBER, such as input_blocks.1=0.5", param, ctx)


def flag(field: str, info: FieldInfo | None = None) -> str:
    """``drop_rate`` → ``--drop-rate``; what is given one by one is so called: ``blocks`` → ``--block``."""
    word = field.removesuffix("s") if info is not None and (is_table(info) or is_numbers(info)) else field
    return "--" + word.replace("_", "-")


def component_parameters(cls: type[Component]) -> list[click.Parameter]:
    """Arguments for the models a component works on, then an option for every other field."""
    arguments: list[click.Parameter] = []
    options: list[click.Parameter] = []
    found = ports(cls)
    weights = {port.weights for port in found.values()}  # given with the files they belong to
    for name in own_first(cls):
        info = cls.model_fields[name]
        if name in weights:
            continue
        if is_argument(cls, name):
            nargs = -1 if found[name].many else 1
            metavar = (info.alias or name).upper()
            if found[name].many:
                metavar = f"{metavar.removesuffix('S')}{'[:NUMBER]' if found[name].weights else ''}..."
            arguments.append(click.Argument([FIELD + name], nargs=nargs, required=True, metavar=metavar))
        else:
            options.append(_option(cls, name, info))
    arguments.sort(key=lambda argument: list(cls.model_fields).index((argument.name or "").removeprefix(FIELD)))
    return [*arguments, *options]


def given_options(ctx: click.Context, cls: type[Component]) -> dict[str, Any]:
    """What the user gave of a component's fields, under the names a recipe uses."""
    given: dict[str, Any] = {}
    for name, info in cls.model_fields.items():
        parameter = FIELD + name
        if parameter not in ctx.params:
            continue
        if ctx.get_parameter_source(parameter) is click.core.ParameterSource.DEFAULT and not info.is_required():
            continue
        value = ctx.params[parameter]
        if is_table(info):
            value = _table(ctx, flag(info.alias or name, info), value)
        given[info.alias or name] = list(value) if isinstance(value, tuple) else value
    return given


def _table(ctx: click.Context, word: str, pairs: tuple[tuple[str, float], ...]) -> dict[str, float]:
    table: dict[str, float] = {}
    for key, number in pairs:
        if key in table:
            raise click.UsageError(f"{word} {key} is given twice", ctx)
        table[key] = number
    return table


def _option(cls: type[Component], name: str, info: FieldInfo) -> click.Option:
    default = None if info.default is PydanticUndefined else info.default
    help_text = info.description or ""
    word = flag(info.alias or name, info)
    settings: dict[str, Any] = {"help": help_text, "required": info.is_required()}
    annotation = plain(info.annotation)
    if is_numbers(info):  # a default of its own kind: one for all
        settings["help"] += f"  [default: {', '.join(f'{one:g}' for one in default)}]" if default else ""
    elif default is not None:  # shown only: what the user did not type is left to the component
        settings |= {"default": ",".join(default) if isinstance(default, list) else default, "show_default": True}
    if annotation is bool:
        return click.Option([f"{word}/--no-{word[2:]}", FIELD + name], **settings)
    if name in ports(cls):
        return click.Option([word, FIELD + name], type=str, metavar="FILE", multiple=ports(cls)[name].many, **settings)
    if name in nested(cls):
        return click.Option([word, FIELD + name], type=YamlValue(), metavar="NAME", **settings)
    if get_origin(annotation) is list:
        inner = plain(get_args(annotation)[0])
        if words := choices(inner):
            return click.Option([word, FIELD + name], type=CommaList(words), metavar="LIST", **settings)
        return click.Option([word, FIELD + name], type=_scalar(inner, info), multiple=True, **settings)
    if is_table(info):
        return click.Option(
            [word, FIELD + name],
            type=KeyNumber(),
            metavar="KEY=NUMBER",
            multiple=True,
            help=f"{help_text}  [repeatable]",
        )
    if get_origin(annotation) is dict:
        return click.Option([word, FIELD + name], type=YamlValue(), metavar="{KEY: VALUE}", **settings)
    return click.Option([word, FIELD + name], type=_scalar(annotation, info), **settings)


def _scalar(annotation: Any, info: FieldInfo) -> ParamType:
    if words := choices(annotation):
        return click.Choice(words)
    bounds = limits(info)
    if annotation is int:
        return click.IntRange(**bounds) if bounds else click.INT
    if annotation is float:
        return click.FloatRange(**bounds) if bounds else click.FLOAT
    return click.STRING
