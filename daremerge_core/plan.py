"""Plans: a recipe met with real files, by their headers alone.

:func:`make_plan` opens every input, builds the views, and knows every output tensor, byte and warning before any
tensor data is read. It imports no torch.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .catalog import Catalog
from .components import Component, Reporter, ValueKind, ports
from .decisions import Action, Decision, detect_layout, tally
from .dtypes import FLOATS, SPELLINGS, nbytes
from .errors import ModelFileError, OutputError, PlanError, RecipeError, nearest
from .recipe import (
    METADATA_KEY,
    Graph,
    Result,
    holds_tensors,
    kind_of,
    load_recipe,
    recipe_folders,
    references,
    resolve,
)
from .stores import GradientFile, MaskFile, MemoryModel, PackedMask, ShardedFolder, open_model, replaced_by
from .values import Gradient, Mask, Model, TensorMeta, Unsettled
from .version import __version__
from .views import CastView, ModelView, share, view

__all__ = ["Input", "Plan", "make_plan", "read_plan"]


MOST_DEEP = 40
"""Steps in a chain, each read by the next. Python allows a thousand calls within calls, and a step takes a dozen."""


@dataclass(frozen=True)
class Input:
    """One file the recipe reads."""

    name: str
    """As the recipe refers to it: the model's name, or the path itself."""
    named_path: str
    """The path as the user wrote it."""
    path: Path
    kind: ValueKind
    value: Any


@dataclass
class Plan:
    """Everything known before work starts. Close it when done: it holds the inputs open."""

    graph: Graph
    inputs: list[Input]
    views: Mapping[str, Any]
    """Every step's value by name."""
    value: Any
    """What will be written: a model, a mask, a gradient, or the reporter that will answer a report."""
    kind: Result = "model"
    warnings: list[str] = field(default_factory=list)
    made_with: Mapping[str, str] = field(default_factory=dict)
    """Distribution → version of the core and of every plugin used."""
    written: Model | None = None
    """The finished file, opened, where there is one."""

    @cached_property
    def result(self) -> Model:
        """The tensors to write. A gradient and a report have none."""
        if self.kind in ("gradient", "report"):
            return MemoryModel({})
        return PackedMask(self.value) if self.kind == "mask" else self.value

    def lazy(self) -> list[Any]:
        """The values of all steps, those of recipes that are looked at too."""
        inner = [value for one in self.inputs if isinstance(one.value, Plan) for value in one.value.lazy()]
        return [*inner, *self.views.values()]

    @property
    def tensors(self) -> list[TensorMeta]:
        return [self.result.meta(key) for key in self.result.keys()]

    @property
    def decisions(self) -> Mapping[str, Decision]:
        """What happens to each tensor of the anchor model."""
        if isinstance(self.value, ModelView):
            return self.value.decisions
        return {key: Decision(Action.COPY, "not merged") for key in self.value.keys()} if self.kind == "model" else {}

    @property
    def bytes_out(self) -> int:
        return sum(nbytes(meta.dtype, meta.numel) for meta in self.tensors)

    @property
    def bytes_in(self) -> int:
        """Bytes of all tensors of the models read."""
        metas = (one.value.meta(key) for one in self.inputs if one.kind == "model" for key in one.value.keys())
        return sum(nbytes(meta.dtype, meta.numel) for meta in metas)

    def unsettled(self) -> list[Unsettled]:
        """The models whose headers still depend on data, each after those it is made from."""
        models = (value.model if isinstance(value, CastView) else value for value in self.lazy())
        return [model for model in models if isinstance(model, Unsettled) and model.to_settle()]

    def counts(self) -> tuple[int, Counter[str], Counter[str]]:
        """Tensors changed by the step that is written; copied, by reason; left out, by reason."""
        return tally(self.decisions)

    def recipe(self) -> dict[str, Any]:
        """The recipe with every default written out, and what it was run with."""
        return {"version": 1, "recipe": self.graph.resolved(), "made_with": dict(sorted(self.made_with.items()))}

    def provenance(self, identities: Mapping[str, str]) -> dict[str, Any]:
        """How to make these bytes again: the recipe, what it was run with, and what it was run on."""
        inputs = {
            one.name: {"path": one.named_path, "identity": identities[one.name]}
            for one in sorted(self.inputs, key=lambda one: one.name)
        }
        return self.recipe() | {"inputs": inputs}

    def metadata(self, identities: Mapping[str, str]) -> dict[str, str]:
        """The output's metadata: the anchor's own, and its :meth:`provenance`."""
        kept = {k: v for k, v in self.result.metadata.items() if k not in _STALE}
        provenance = json.dumps(self.provenance(identities), separators=(",", ":"), ensure_ascii=False)
        return kept | {METADATA_KEY: provenance}

    def companions(self) -> Mapping[str, Path]:
        """Configuration and tokenizer files of the model that gives the result its tensors, by name."""
        model: Any = self.value
        while True:
            if isinstance(model, CastView):
                model = model.model
            elif isinstance(model, ModelView):
                model = model.anchor
            else:
                return model.companions if isinstance(model, ShardedFolder) else {}

    def close(self) -> None:
        for one in self.inputs:
            if hasattr(one.value, "close"):
                one.value.close()
        if self.written is not None:
            self.written.close()

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_STALE = frozenset({"modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash", METADATA_KEY})
"""Metadata that states a hash of the old tensors, or the making of A: untrue of a merge."""


def make_plan(
    graph: Graph,
    catalog: Catalog,
    *,
    folders: Sequence[Path] = (),
    output: Path | None = None,
    live: Mapping[str, Any] = {},
    changed_only: bool = False,
) -> Plan:
    """Open the inputs (headers only), build every step, and find what headers can show to be wrong.

    Args:
        folders: where relative paths are looked up, in order.
        output: where the result will go; refused when it is one of the inputs.
        live: values that are there already, by the name the recipe has for them: no file is opened for these.
        changed_only: the result has the tensors that the last step merges, and not those it copies.

    Raises:
        ModelFileError: an input is missing or damaged.
        PlanError: the models do not fit together.
        OutputError: the output is one of the inputs.
    """
    layouts = [spec for group in catalog.hook.daremerge_layouts() for spec in group]
    inputs: list[Input] = []
    try:
        for name, file_kind in graph.files.items():
            if name in live:
                continue
            named = graph.recipe.models.get(name, name)
            path = _find(named, name, file_kind, folders, graph)
            if output is not None and replaced_by(output, path):
                raise OutputError(
                    f"the output {output} is the input {name!r}, or holds it",
                    hint="Inputs are never overwritten: choose another path.",
                )
            inputs.append(Input(name, named, path, file_kind, _open(path, file_kind, catalog)))
        values: dict[str, Any] = {**live, **{one.name: one.value for one in inputs}}
        _check_depth(graph)
        for name, component in graph.steps.items():
            bound = _bound(component, values)
            values[name] = bound if isinstance(bound, Reporter) else view(bound, label=name, layouts=layouts)
        wanted = graph.recipe.output
        result = values[wanted.step]
        if wanted.dtype != "keep":
            dtype = SPELLINGS[wanted.dtype]
            result = result.with_dtype(dtype) if hasattr(result, "with_dtype") else CastView(result, dtype)
        if changed_only and isinstance(result, ModelView):
            result = result.changed()
        share(values.values())
        values[wanted.step] = result
    except BaseException:
        for one in inputs:
            if hasattr(one.value, "close"):
                one.value.close()
        raise
    kind = kind_of(graph.steps[wanted.step]) if wanted.step in graph.steps else "model"
    plan = Plan(graph, inputs, {name: values[name] for name in graph.steps}, result, kind)
    plan.made_with = _versions(graph, catalog)
    plan.warnings = [*_warnings(plan), *(line for lines in catalog.hook.daremerge_planned(plan=plan) for line in lines)]
    return plan


def _check_depth(graph: Graph) -> None:
    """Refuse a chain of steps so long that computing it would end in Python's limit on calls within calls."""
    depths: dict[str, int] = {}
    for name, component in graph.steps.items():
        depths[name] = 1 + max((depths.get(of, 0) for _, of in references(component)), default=0)
        if depths[name] > MOST_DEEP:
            raise PlanError(
                f"step {name!r} is the end of a chain of {depths[name]} steps, and {MOST_DEEP} are the most",
                hint="Write a step in the middle to a file, and go on from that.",
            )


def _bound(component: Component, values: Mapping[str, Any]) -> Component:
    """The component with live values in place of names."""
    live: dict[str, Any] = {}
    for field_name in ports(type(component)):
        value = getattr(component, field_name)
        if isinstance(value, list):
            live[field_name] = [values[one] for one in value]
        elif value is not None:
            live[field_name] = values[value]
    return component.model_copy(update=live)


def _find(named: str, name: str, kind: str, folders: Sequence[Path], graph: Graph) -> Path:
    given = Path(os.path.expanduser(named))  # which leaves alone the home of somebody who is not there
    tried = [given] if given.is_absolute() else [folder / given for folder in (folders or [Path()])]
    for path in tried:
        if os.path.exists(path):  # unlike Path.exists, False for any name that no file can have
            return path
    if name == named and "/" not in named and "." not in named:
        known = [*graph.recipe.models, *graph.recipe.steps]
        raise RecipeError(
            f"{named!r} is neither a step, nor a model, nor a file.{nearest(named, known)}",
            hint=f"Known: {', '.join(known)}",
        )
    label = "" if name == named else f"{name}: "
    places = [str(path) for path in tried]
    raise ModelFileError(
        f"{label}no such {kind} file: {places[0]}" + "".join(f", nor {other}" for other in places[1:]),
        hint=_neighbours(tried[0]),
    )


def _neighbours(path: Path) -> str | None:
    try:
        names = [one.name for one in path.parent.iterdir()]
    except OSError:
        return f"The folder {path.parent} does not exist." if not os.path.exists(path.parent) else None
    return nearest(path.name, names).strip() or None


def read_plan(path: Path, catalog: Catalog, *, folders: Sequence[Path] = ()) -> Plan:
    """The plan of a recipe file, or of the recipe inside a file that was made by one.

    Raises what :func:`~daremerge_core.recipe.load_recipe` and :func:`make_plan` raise.
    """
    plan = make_plan(resolve(load_recipe(path, catalog), catalog), catalog, folders=[*folders, *recipe_folders(path)])
    if holds_tensors(path):
        plan.written = open_model(path, openers=[lambda one: catalog.hook.daremerge_open(path=one)])
    return plan


def _open(path: Path, kind: ValueKind, catalog: Catalog) -> Model | Mask | Gradient | Plan:
    if kind == "recipe":
        return read_plan(path, catalog)
    if kind == "mask":
        return MaskFile(path)
    if kind == "gradient":
        return GradientFile(path)
    return open_model(path, openers=[lambda one: catalog.hook.daremerge_open(path=one)])


def _versions(graph: Graph, catalog: Catalog) -> dict[str, str]:
    used = {"daremerge-core": __version__}
    for step in graph.steps.values():
        for component in (step, *step.nested_components()):
            plugin = catalog.plugin_of(type(component))
            used[plugin.distribution] = plugin.version
    return used


def _strangers(step: str, port: str, value: Mask | Gradient | None, anchor: Model) -> Iterable[str]:
    """A warning where a step's mask or gradient is for tensors that its model does not have."""
    keys = [] if value is None else list(value.keys())
    unknown = set(keys) - set(anchor.keys())
    if unknown:
        yield (
            f"step {step!r}: the {port} is for {len(keys)} tensors, and the model lacks {len(unknown)} of them, "
            f"such as {min(unknown)!r}: was it made for another model?"
        )


def _warnings(plan: Plan) -> Iterable[str]:
    for name, value in plan.views.items():
        if isinstance(value, ModelView) and all(d.action is not Action.MERGE for d in value.decisions.values()):
            yield f"step {name!r} changes nothing: every ratio is 1"
        for port in ("mask", "gradient") if isinstance(value, ModelView) else ():
            yield from _strangers(name, port, getattr(value.component, port), value.anchor)
    beside = {name for step in plan.graph.steps.values() for port, name in references(step) if port.aside}
    models = [one for one in plan.inputs if one.kind == "model" and one.name not in beside and plan.kind != "report"]
    archs = {one.name: detect_layout(one.value).arch for one in models}
    if "generic" in archs.values() and len(set(archs.values())) > 1:
        unknown = ", ".join(sorted(name for name, arch in archs.items() if arch == "generic"))
        yield f"architecture not recognised: {unknown}; merged by tensor name and shape alone"
    if plan.graph.recipe.output.dtype in ("fp8_e4m3", "fp8_e5m2"):
        small = sum(1 for meta in plan.tensors if meta.dtype in FLOATS and len(meta.shape) < 2)
        yield f"fp8 output also rounds {small} small tensors (biases, norms), which most programs keep in fp16"
