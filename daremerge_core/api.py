"""The job from recipe to file, as one call: what the command line and scripts use."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .catalog import Catalog, discover
from .errors import OutputError
from .plan import Plan, make_plan
from .recipe import Recipe, make_component, parse_recipe, resolve
from .sizes import parse_size
from .stores.atomic import resolve_target
from .stores.journal import Journal, forget, layout_digest

if TYPE_CHECKING:
    from torch import Tensor

    from .engine import Progress, Settings, Summary
    from .stores.sink import Sink
    from .values import Report

__all__ = ["compute_plan", "create_sink", "make_report", "merge_recipe", "plan_recipe", "report_on", "run_plan"]

TORCH_NAMES = {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""What a model's ``config.json`` calls storage dtypes."""


def plan_recipe(
    recipe: Recipe | dict[str, Any],
    *,
    catalog: Catalog | None = None,
    folders: Sequence[Path] = (),
    output: Path | None = None,
    live: Mapping[str, Any] = {},
    changed_only: bool = False,
) -> Plan:
    """Check a recipe against the installed plugins and the files it names. Reads headers only.

    See :func:`~daremerge_core.plan.make_plan` for the arguments.

    Raises:
        DaremergeError: naming the step, field, tensor or file that is wrong.
    """
    catalog = catalog or discover()
    parsed = recipe if isinstance(recipe, Recipe) else parse_recipe(recipe)
    graph = resolve(parsed, catalog)
    return make_plan(graph, catalog, folders=folders, output=output, live=live, changed_only=changed_only)


def create_sink(
    plan: Plan, path: Path, *, overwrite: bool = False, catalog: Catalog | None = None, at: Path | None = None
) -> Sink:
    """Where the result goes: a plugin's format if one claims the path, else safetensors, sharded when asked.

    Args:
        at: where it is written until it is whole, so that it can be resumed.
    """
    from .stores import SafetensorsWriter, ShardedWriter

    catalog = catalog or discover()
    custom: Sink | None = catalog.hook.daremerge_create(path=path, plan=plan)
    if custom is not None:
        if at is not None:
            custom.abort()
            raise OutputError(f"{path}: this format cannot be resumed", hint="Run it without --resume.")
        return custom
    placeholder = plan.metadata({one.name: f"blake3:{'0' * 64}" for one in plan.inputs})
    shard_size = shard_size_for(plan, path)
    if shard_size is not None:
        return ShardedWriter(
            path,
            plan.tensors,
            placeholder,
            shard_size=parse_size(shard_size),
            overwrite=overwrite,
            companions=plan.companions(),
            stored_as=TORCH_NAMES.get(plan.graph.recipe.output.dtype),
            at=at,
        )
    _check_suffix(path, ".safetensors", "Name the output *.safetensors, or pass --shard-size for a folder.")
    return SafetensorsWriter(path, plan.tensors, placeholder, overwrite=overwrite, at=at)


def shard_size_for(plan: Plan, path: Path) -> str | None:
    """The size of shards, where the result is a folder: as asked, or because folders merge into a folder."""
    asked = plan.graph.recipe.output.shard_size
    return "5GB" if asked is None and not path.suffix and plan.companions() else asked


def _check_suffix(path: Path, wanted: str, hint: str) -> None:
    if path.suffix != wanted:
        raise OutputError(f"cannot tell the format of {path}", hint=hint)


def _write_gradient(plan: Plan, path: Path, *, overwrite: bool) -> Summary:
    from .engine import Summary
    from .stores import write_gradient

    _check_suffix(path, ".json", "Name the output *.json: a gradient is a small JSON file.")
    ratios = {key: plan.value.ratio(key) for key in plan.value.keys()}
    written = write_gradient(path, ratios, plan.recipe(), overwrite=overwrite)
    return Summary([written], {}, sum(ratio is not None for ratio in ratios.values()), Counter(), Counter())


def make_report(
    plan: Plan,
    *,
    catalog: Catalog | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Report:
    """The report that a plan is for: a plan whose output is a step of kind ``report``."""
    from .engine import Settings, survey

    catalog = catalog or discover()
    layouts = [spec for group in catalog.hook.daremerge_layouts() for spec in group]
    return survey(plan, settings or Settings(), progress=progress, cancel=cancel, layouts=layouts)


def report_on(plan: Plan, name: str, *, options: Mapping[str, Any] = {}, catalog: Catalog | None = None) -> Plan:
    """A plan for the report called ``name`` on ``plan``, which the reporter's port ``recipe`` takes.

    Args:
        options: the reporter's other fields.

    Raises:
        CatalogError: there is no such report; says what to install.
    """
    catalog = catalog or discover()
    cls = catalog.get("report", name)
    reporter = make_component(cls, {"recipe": plan, **options}, catalog, where=f"report.{name}")
    return Plan(plan.graph, [], plan.views, reporter, "report")


def run_plan(
    plan: Plan,
    output: Path,
    *,
    catalog: Catalog | None = None,
    overwrite: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    expected: Mapping[str, str] | None = None,
    resume: bool = False,
) -> Summary:
    """Compute a plan's result and write it to ``output``, whole or not at all: a model, a mask or a gradient.

    A report is made by :func:`make_report`, and written by :func:`daremerge_core.rendering.write_report`.

    Args:
        expected: content identities that the inputs must have, by name.
        resume: go on with an interrupted run of the same plan, and keep what is finished where this one is.
    """
    catalog = catalog or discover()
    if plan.kind == "gradient":
        summary = _write_gradient(plan, output, overwrite=overwrite)
    else:
        from .engine import Settings, execute, settle  # before there is anything to clean up: this imports torch

        settings = settings or Settings()
        if resume or plan.unsettled():  # before there is a sink to do it
            resolve_target(output, overwrite=overwrite, folder=shard_size_for(plan, output) is not None)
        with Journal(output) if resume else nullcontext() as journal:
            if journal:
                journal.check(plan.recipe())
            if plan.unsettled():  # then the file's header is not known yet
                settle(plan, settings, progress=progress, cancel=cancel)
            if journal:
                journal.check({"tensors": layout_digest(plan.tensors)})
            at = journal.partial if journal else None
            sink = create_sink(plan, output, overwrite=overwrite, catalog=catalog, at=at)
            summary = execute(
                plan, sink, settings, progress=progress, cancel=cancel, expected=expected, journal=journal
            )
        forget(output)
    catalog.hook.daremerge_finished(plan=plan, summary=summary)
    return summary


def compute_plan(
    plan: Plan,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> dict[str, Tensor]:
    """A plan's tensors in memory, by name, instead of in a file: of a model, or the packed ones of a mask."""
    from .engine import Settings, execute, settle
    from .stores.memory_sink import MemorySink

    if plan.unsettled():
        settle(plan, settings or Settings(), progress=progress, cancel=cancel)
    sink = MemorySink(plan.tensors)
    execute(plan, sink, settings or Settings(), progress=progress, cancel=cancel)
    return sink.tensors


def merge_recipe(
    recipe: Recipe | dict[str, Any],
    output: str | Path,
    *,
    folder: str | Path = ".",
    overwrite: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    resume: bool = False,
) -> Summary:
    """Run a recipe and write its result to ``output``.

    Args:
        folder: where the recipe's relative paths start.
        overwrite: replace an existing output.
        settings: threads, memory, device; none of it changes the result.
        resume: go on with an interrupted run of the same recipe, and keep what is finished where this one is.

    Raises:
        DaremergeError: anything the caller can mend; nothing is left at ``output``.
    """
    catalog = discover()
    target = Path(output)
    with plan_recipe(recipe, catalog=catalog, folders=[Path(folder)], output=target) as plan:
        return run_plan(
            plan,
            target,
            catalog=catalog,
            overwrite=overwrite,
            settings=settings,
            progress=progress,
            cancel=cancel,
            resume=resume,
        )
