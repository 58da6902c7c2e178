"""``daremerge merge METHOD``: a subcommand for every installed merge method, made from its fields."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..catalog import discover
from ..components import Component, ports
from ..errors import CatalogError, RecipeError
from ..recipe import parse_recipe
from .options import OPTION_PORTS, component_parameters, flag, given_options
from .output import output_parameters, perform

__all__ = ["merge_command"]

STEP = "merged"


class Methods(click.Group):
    """One command for each installed merge method."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return discover().names("merge")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        try:
            cls = discover().get("merge", cmd_name)
        except CatalogError as error:
            raise click.UsageError(str(error), ctx) from None
        return _command(cls)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(cls.name, cls.summary()) for cls in discover().all("merge")]
        with formatter.section("Methods"):
            formatter.write_dl(rows or [("(none)", "install one: pip install daremerge-merge-basic")])


@click.group(name="merge", cls=Methods)
def merge_command() -> None:
    """Merge models. A ratio of 1 keeps A, 0 takes B.

    \b
    daremerge merge lerp A.safetensors B.safetensors --ratio 0.5 -o OUT.safetensors
    daremerge merge dare A.safetensors B.safetensors --base BASE.safetensors -o OUT.safetensors
    """


def _command(cls: type[Component]) -> click.Command:
    doc = (cls.__doc__ or "").strip().replace("``", "")
    return click.Command(
        cls.name,
        params=[*component_parameters(cls), *output_parameters()],
        callback=click.pass_context(partial(_merge, cls)),
        help="\n\n".join(" ".join(part.split()) for part in doc.split("\n\n")),
        short_help=cls.summary(),
    )


def _merge(cls: type[Component], ctx: click.Context, /, **params: Any) -> None:
    """Build the recipe a user could have written, and run it."""
    options = given_options(ctx, cls)
    models: dict[str, str] = {}
    for name, port in ports(cls).items():
        if port.kind != "model" or name not in options:
            continue
        if port.many:
            names = [f"{name}_{index}" for index in range(1, len(options[name]) + 1)]
            models |= dict(zip(names, options[name], strict=True))
            options[name] = names
        else:
            models[name] = options[name]
            options[name] = name
    output: dict[str, Any] = {"step": STEP}
    if params["dtype"]:
        output["dtype"] = params["dtype"]
    if params["shard_size"]:
        output["shard_size"] = params["shard_size"]
    data = {"models": models, "steps": {STEP: {"op": f"{cls.kind}.{cls.name}", **options}}, "output": output}
    try:
        perform(parse_recipe(data), params, folders=[Path()], target=params["output"])
    except RecipeError as error:
        raise RecipeError(_as_flags(error.message, cls), hint=error.hint) from None


def _as_flags(message: str, cls: type[Component]) -> str:
    """``steps.merged.drop_rate: …`` → ``--drop-rate: …``: the words this user typed."""

    def word(match: re.Match[str]) -> str:
        field = match.group(1)
        return field.upper() if field in ports(cls) and field not in OPTION_PORTS else flag(field)

    return re.sub(rf"steps\.{STEP}\.(\w+)", word, message)
