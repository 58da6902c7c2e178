"""``daremerge run``, ``daremerge plan`` and ``daremerge import``: recipes, and other tools' configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from ..catalog import discover
from ..printable import printable
from ..recipe import (
    Recipe,
    apply_settings,
    holds_tensors,
    load_recipe,
    parse_recipe,
    read_provenance,
    recipe_folders,
)
from ..stores.atomic import write_text
from .output import WRITTEN, output_parameters, perform

__all__ = ["import_command", "plan_command", "run_command"]


def _load(path: Path, settings: tuple[str, ...], params: dict[str, Any]) -> Recipe:
    recipe = load_recipe(path, discover())
    data = recipe.model_dump(exclude_none=True)
    given = {field: params.get(field) for field in WRITTEN}
    data["output"] |= {key: value for key, value in given.items() if value}
    return parse_recipe(apply_settings(data, settings), source=str(path)) if settings or any(given.values()) else recipe


_SET = click.Option(
    ["--set", "settings"], multiple=True, metavar="STEP.FIELD=VALUE", help="Change a field; repeatable."
)
_MODELS = click.Option(
    ["--models", "model_folders"],
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Look here first for the files the recipe names; repeatable.",
)


def _run(recipe: Path, settings: tuple[str, ...], model_folders: tuple[Path, ...], **params: Any) -> None:
    """Run a recipe (YAML or JSON), or run again the recipe inside a merged file.

    A merged file's recipe gives the same bytes again; a run whose inputs have changed since is refused. A mergekit
    configuration is run too, as far as it can be translated: see daremerge import.
    """
    loaded = _load(recipe, settings, params)
    expected = None
    if holds_tensors(recipe) and not params.pop("changed_inputs"):
        expected = {name: one["identity"] for name, one in read_provenance(recipe)["inputs"].items()}
    target: Path | None = params["output"]
    if target is None and loaded.output.path is not None:
        target = recipe.parent / loaded.output.path
    perform(loaded, params, folders=[*model_folders, *recipe_folders(recipe)], target=target, expected=expected)


def _plan(recipe: Path, settings: tuple[str, ...], model_folders: tuple[Path, ...]) -> None:
    """Check a recipe against its files (headers only) and show what it would do."""
    loaded = _load(recipe, settings, {})
    perform(loaded, {"dry_run": True}, folders=[*model_folders, *recipe_folders(recipe)], target=None)


def _import(recipe: Path, output: Path | None, overwrite: bool) -> None:
    """Translate another tool's configuration, such as mergekit's, into a recipe.

    \b
    daremerge import mergekit.yml -o recipe.yaml
    daremerge run recipe.yaml -o MERGED

    Without -o the recipe is shown. What has no counterpart is refused by name.
    """
    data = load_recipe(recipe, discover()).model_dump(exclude_none=True, exclude_defaults=True)
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
    if not text.replace("\n", "").isprintable():
        text = yaml.safe_dump(data, sort_keys=False, width=120)  # which spells all that is not ASCII
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text(output, text, overwrite=overwrite)
        click.echo(f"wrote {printable(str(output))}")


_RECIPE = click.Argument(["recipe"], type=click.Path(path_type=Path), metavar="RECIPE")

run_command = click.Command(
    "run",
    params=[
        _RECIPE,
        _SET,
        _MODELS,
        click.Option(["--changed-inputs"], is_flag=True, help="Accept inputs that changed since the file was merged."),
        *output_parameters(),
    ],
    callback=_run,
    help=_run.__doc__,
)
import_command = click.Command(
    "import",
    params=[
        _RECIPE,
        click.Option(
            ["-o", "--output"],
            type=click.Path(path_type=Path, readable=False),
            metavar="FILE",
            help="Where to write it.",
        ),
        click.Option(["--overwrite"], is_flag=True, help="Replace an existing file."),
    ],
    callback=_import,
    help=_import.__doc__,
)
plan_command = click.Command("plan", params=[_RECIPE, _SET, _MODELS], callback=_plan, help=_plan.__doc__)
