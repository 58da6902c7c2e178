"""``daremerge merge NAME``, ``edit``, ``mask``, ``gradient``, ``report``: a subcommand for every installed component,
made from its fields. Each builds the one-step recipe that a user could have written, and runs it."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..catalog import discover, shipped_by
from ..components import Component, LoraTool, ports
from ..errors import CatalogError, RecipeError
from ..recipe import parse_recipe
from .loading import loading
from .options import component_parameters, flag, given_options, is_argument
from .output import WRITTEN, output_parameters, perform

__all__ = ["Components", "edit_command", "gradient_command", "mask_command", "merge_command", "report_command"]

STEP = {"merge": "merged", "edit": "edited", "mask": "mask", "gradient": "gradient", "lora": "made", "report": "report"}
"""The name of the one step, by kind."""


class Components(click.Group):
    """One command for each installed component of a kind, which is the group's name, and any added by hand."""

    @property
    def kind(self) -> str:
        assert self.name
        return self.name

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*discover().names(self.kind), *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (own := super().get_command(ctx, cmd_name)) is not None:
            return own
        try:
            with loading():
                cls = discover().get(self.kind, cmd_name)
        except CatalogError as error:
            raise click.UsageError(str(error), ctx) from None
        return _command(cls)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(cls.name, cls.summary()) for cls in discover().all(self.kind)]
        rows = sorted([*rows, *((name, one.get_short_help_str(80)) for name, one in self.commands.items())])
        with formatter.section("Names"):
            formatter.write_dl(rows or [("(none)", f"install some: pip install {' '.join(shipped_by(self.kind))}")])


@click.group(name="merge", cls=Components)
def merge_command() -> None:
    """Merge models. A ratio of 1 keeps A, 0 takes B.

    \b
    daremerge merge lerp A.safetensors B.safetensors --ratio 0.5 -o OUT.safetensors
    daremerge merge dare A.safetensors B.safetensors --base BASE.safetensors -o OUT.safetensors
    """


@click.group(name="edit", cls=Components)
def edit_command() -> None:
    """Change one model. A ratio of 1 keeps it as it is, 0 takes the whole edit.

    \b
    daremerge edit normalize A.safetensors B.safetensors -o OUT.safetensors
    daremerge edit noise A.safetensors --std 0.01 --seed 7 -o OUT.safetensors
    """


@click.group(name="mask", cls=Components)
def mask_command() -> None:
    """Make a mask: which parameters a merge or an edit may change (--mask FILE).

    \b
    daremerge mask magnitude A.safetensors --base BASE.safetensors --threshold 0.8 -o MASK.safetensors
    daremerge mask union ONE.safetensors OTHER.safetensors -o MASK.safetensors
    """


@click.group(name="gradient", cls=Components)
def gradient_command() -> None:
    """Make a layer gradient: how strongly each layer mixes (--gradient FILE). 1 keeps A, 0 takes B.

    \b
    daremerge gradient mbw A.safetensors --block input_blocks.1=0 --rest 0.5 -o GRADIENT.json
    daremerge gradient depth A.safetensors --point 0=1 --point 1=0.2 -o GRADIENT.json
    """


@click.group(name="report", cls=Components)
def report_command() -> None:
    """Look at models, masks, gradients, LoRAs and merges: text and a table here, pictures and more in a file.

    \b
    daremerge report diff X.safetensors A.safetensors
    daremerge report merge OUT.safetensors -o REPORT.html
    """


def _command(cls: type[Component]) -> click.Command:
    doc = (cls.__doc__ or "").strip().replace("``", "")
    own = component_parameters(cls)
    return click.Command(
        cls.name,
        params=[*own, *output_parameters(cls.kind, reports=not issubclass(cls, LoraTool), beside=own)],
        callback=click.pass_context(partial(_run_step, cls)),
        help="\n\n".join(" ".join(part.split()) for part in doc.split("\n\n")),
        short_help=cls.summary(),
    )


def _run_step(cls: type[Component], ctx: click.Context, /, **params: Any) -> None:
    options = given_options(ctx, cls)
    models: dict[str, str] = {}
    for field, port in ports(cls).items():
        name = cls.model_fields[field].alias or field
        if port.kind != "model" or name not in options:
            continue
        if port.weights is not None:
            options |= _weighed(options[name], name, port.weights)
        if port.many:
            names = [f"{name.removesuffix('s')}_{index}" for index in range(1, len(options[name]) + 1)]
            models |= dict(zip(names, options[name], strict=True))
            options[name] = names
        else:
            models[name] = options[name]
            options[name] = name
    step = STEP[cls.kind]
    output = {"step": step} | {field: params[field] for field in WRITTEN if params.get(field)}
    data = {"models": models, "steps": {step: {"op": f"{cls.kind}.{cls.name}", **options}}, "output": output}
    try:
        perform(parse_recipe(data), params, folders=[Path()], target=params["output"])
    except RecipeError as error:
        raise RecipeError(_as_flags(error.message, cls), hint=error.hint) from None


def _weighed(given: list[str], name: str, weights: str) -> dict[str, Any]:
    """``["a.safetensors:0.8", "b.safetensors"]`` → the paths and, where any has one, the numbers; 1 for the others."""
    paths: list[str] = []
    numbers: list[float | None] = []
    for text in given:
        path, colon, number = text.rpartition(":")
        try:
            found = (path, float(number)) if colon and path and not os.path.exists(text) else (text, None)
        except ValueError:  # a colon of the path's own
            found = (text, None)
        paths.append(found[0])
        numbers.append(found[1])
    if all(number is None for number in numbers):
        return {name: paths}
    return {name: paths, weights: [1.0 if number is None else number for number in numbers]}


def _as_flags(message: str, cls: type[Component]) -> str:
    """``steps.merged.drop_rate: …`` → ``--drop-rate: …``: the words this user typed."""

    fields = {info.alias or name: (name, info) for name, info in cls.model_fields.items()}

    def word(match: re.Match[str]) -> str:
        said = match.group(1)
        name, info = fields.get(said, (said, None))
        return said.upper() if info and is_argument(cls, name) else flag(said, info)

    step = rf"steps\.{STEP[cls.kind]}"
    return re.sub(rf"{step}: ", "", re.sub(rf"{step}\.(\w+)", word, message))
