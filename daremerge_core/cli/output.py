"""The options every command that writes a model shares, and how a run is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Set
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..api import make_report, plan_recipe, report_on, run_plan
from ..catalog import Catalog, discover
from ..errors import CatalogError, OutputError
from ..plan import Plan
from ..printable import printable
from ..recipe import OnNonfinite, Recipe, StorageDtype, kind_of
from ..rendering import check_report_path, write_report
from ..rendering.text import print_report
from ..sizes import parse_size
from ..stores import open_model, replaced_by
from ..stores.journal import kept_beside
from ..views import ModelView
from .options import ParamType
from .show import as_typed, show_plan, show_summary

if TYPE_CHECKING:
    from ..engine import Settings

__all__ = ["WRITTEN", "output_parameters", "perform", "settings_from"]

F = TypeVar("F", bound=Callable[..., Any])

WRITTEN = ("dtype", "shard_size", "on_nonfinite")
"""Options that are fields of a recipe's output."""
_DTYPES = list(StorageDtype.__args__)  # type: ignore[attr-defined]


class Size(ParamType):
    """``1GiB``, ``500MB``, ``4096``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_OUTPUT = click.Option(
    ["-o", "--output"], type=click.Path(path_type=Path, readable=False), metavar="FILE", help="Where to write."
)
_MODEL = [
    click.Option(["--dtype"], type=click.Choice(_DTYPES), help="Storage dtype of float tensors.  [default: keep]"),
    click.Option(["--shard-size"], metavar="SIZE", help="Write a folder of shards of at most SIZE, e.g. 5GB."),
    click.Option(
        ["--on-nonfinite"],
        type=click.Choice(OnNonfinite.__args__),  # type: ignore[attr-defined]
        help="NaN and infinite values: write them, stop, or write zeros.  [default: keep]",
    ),
]
_MACHINE = [
    click.Option(["--device"], default="auto", show_default=True, help="auto, cpu, cuda, mps, …"),
    click.Option(["--threads"], type=click.IntRange(min=0), default=0, help="Worker threads.  [default: one a core]"),
    click.Option(["--memory"], type=Size(), default="1GiB", show_default=True, help="Memory for the work."),
]
_RUN = [
    click.Option(["--overwrite"], is_flag=True, help="Replace an existing output."),
    click.Option(["--dry-run"], is_flag=True, help="Check everything, show the plan, write nothing."),
]
_RESUME = click.Option(
    ["--resume"], is_flag=True, help="Go on with an interrupted run; keep what is finished if this one is interrupted."
)
_SHA256 = click.Option(["--sha256"], is_flag=True, help="Also take the SHA-256 of the file, as model sites list it.")
_REPORT = click.Option(
    ["--report"],
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Also write a report of what was done: .html, .png, .json or .txt.",
)
_THEME = click.Option(
    ["--theme"], type=click.Choice(["light", "dark"]), default="light", show_default=True, help="Colours of a .png."
)
_QUIET = click.Option(["--quiet", "-q"], is_flag=True, help="No progress.")


def output_parameters(
    kind: str = "merge", *, reports: bool = True, beside: Iterable[click.Parameter] = ()
) -> list[click.Parameter]:
    """Where the result of a component of this kind goes, and how the run may use the machine.

    Args:
        reports: whether ``--report`` has something to tell of it: of a merge or an edit.
        beside: the component's own parameters. A word that they use is theirs: ``--output`` is then ``-o`` alone, and
            an option that would be left without any has ``--run-`` before it.
    """
    options = {
        "gradient": [_OUTPUT, *_RUN],
        "mask": [_OUTPUT, *_MACHINE, *_RUN, _RESUME, _SHA256, _QUIET],
        "report": [_OUTPUT, _THEME, *_MACHINE, *_RUN, _QUIET],
    }.get(kind, [_OUTPUT, *_MODEL, *_MACHINE, *_RUN, _RESUME, _SHA256, *([_REPORT] if reports else []), _QUIET])
    taken = {word for parameter in beside for word in parameter.opts}
    return [_without(option, taken) for option in options]


def _without(option: click.Option, taken: Set[str]) -> click.Option:
    if taken.isdisjoint(option.opts):
        return option
    left = copy(option)
    left.opts = [word for word in option.opts if word not in taken] or [f"--run-{option.opts[0].lstrip('-')}"]
    return left


def settings_from(params: dict[str, Any]) -> Settings:
    from ..engine import Settings

    return Settings(
        threads=params["threads"],
        memory=params["memory"],
        device=params["device"],
        sha256=params.get("sha256", False),
    )


def perform(
    recipe: Recipe,
    params: dict[str, Any],
    *,
    folders: list[Path],
    target: Path | None,
    expected: dict[str, str] | None = None,
) -> None:
    """Plan a recipe, then show the plan (``--dry-run``) or run it and show what was done."""
    catalog = discover()
    kind = _kind(recipe, catalog)
    if target is None and not params["dry_run"] and kind != "report":
        suffix = "json" if kind == "gradient" else "safetensors"
        raise click.UsageError(f"Say where to write: -o OUT.{suffix}")
    reports = [path for path in (target if kind == "report" else None, params.get("report")) if path is not None]
    for path in reports:
        check_report_path(path, overwrite=params["overwrite"])
    with plan_recipe(recipe, catalog=catalog, folders=folders, output=target) as plan:
        for warning in plan.warnings:
            click.echo(f"warning: {printable(warning)}", err=True)
        about = _about(plan, params["report"], catalog) if params.get("report") else None
        if params["dry_run"]:
            show_plan(plan)
        elif plan.kind == "report":
            _report(plan, params, target)
        else:
            assert target is not None
            _run(plan, params, target, expected)
            if about is not None:
                plan.written = open_model(target)
                _report(about, params, params["report"])


def _about(plan: Plan, path: Path, catalog: Catalog) -> Plan:
    """What ``--report`` asks for, beside a plan: refused before any work where there will be nothing to tell."""
    if not isinstance(plan.value, ModelView):
        raise click.UsageError("--report tells what a merge or an edit did, and this is neither")
    for one in plan.inputs:
        if replaced_by(path, one.path):
            raise OutputError(
                f"the report {path} is the input {one.name!r}, or holds it",
                hint="Inputs are never overwritten: choose another path.",
            )
    return report_on(plan, "merge", catalog=catalog)


def _kind(recipe: Recipe, catalog: Catalog) -> str:
    """What kind of value the recipe's output is, as far as it can be told before the recipe is checked."""
    try:
        return kind_of(catalog.op(str(recipe.steps[recipe.output.step]["op"])))
    except (CatalogError, KeyError):
        return "model"


def _report(plan: Plan, params: dict[str, Any], target: Path | None) -> None:
    """Make a report, and write it or show it."""
    from .progress import make_progress

    progress = make_progress(sys.stderr, quiet=params["quiet"])
    report = make_report(plan, settings=settings_from(params), progress=progress)
    if target is None:
        print_report(report, sys.stdout)
    else:
        write_report(report, target, theme=params.get("theme", "light"), overwrite=params["overwrite"])
        click.echo(f"wrote {printable(str(target))}")


def _run(plan: Plan, params: dict[str, Any], target: Path, expected: dict[str, str] | None) -> None:
    """Write a model, a mask or a gradient, and show what was done."""
    if plan.kind == "gradient":
        summary = run_plan(plan, target, overwrite=params["overwrite"])
    else:
        from .progress import make_progress

        if not params["resume"] and (kept := kept_beside(target)):
            where = printable(str(kept))
            click.echo(f"note: an interrupted run was kept in {where}: --resume would go on with it", err=True)
        summary = run_plan(
            plan,
            target,
            overwrite=params["overwrite"],
            settings=settings_from(params),
            progress=make_progress(sys.stderr, quiet=params["quiet"]),
            expected=expected,
            resume=params["resume"],
        )
    show_summary(plan, summary, target)
    for path, digest in summary.sha256.items():
        click.echo(f"sha256 {digest}  {as_typed(path, target)}")
