"""Recipes: what the user wants, as data.

A recipe names model files, steps (each a component and its options) and the output. It is read from YAML or JSON,
from the metadata of a merged file, or built by the command line; it is strict, and every error names the field.
:func:`resolve` checks the whole graph against the catalog before any file is opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .catalog import Catalog
from .components import Component, Port, ValueKind, ports
from .dtypes import SPELLINGS
from .errors import CatalogError, ModelFileError, RecipeError, nearest
from .printable import printable, shortened
from .strict_yaml import MAX_BYTES, parse_yaml

__all__ = [
    "Graph",
    "OnNonfinite",
    "Output",
    "Recipe",
    "Result",
    "StorageDtype",
    "apply_settings",
    "holds_tensors",
    "kind_of",
    "load_recipe",
    "parse_recipe",
    "recipe_folders",
    "references",
    "resolve",
]

_MAX_JSON = 64 << 20  # bytes
_MOST_PROBLEMS = 20
_LONGEST = 100  # characters of a name shown in full

METADATA_KEY = "daremerge"
"""Where a merged file's metadata holds its provenance: recipe, inputs with identities, versions."""

OnNonfinite = Literal["keep", "error", "zero"]
StorageDtype = Literal["keep", "fp64", "fp32", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2"]
assert set(SPELLINGS) | {"keep"} == set(StorageDtype.__args__)  # type: ignore[attr-defined]


class Output(BaseModel):
    """Which step to write, where and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    step: str = Field(description="The step (or model) to write.")
    path: str | None = Field(None, description="Where to write; relative to the recipe's folder.")
    dtype: StorageDtype = Field("keep", description="Storage dtype of float tensors.")
    shard_size: str | None = Field(None, description="Write a folder of shards of at most this size, e.g. 5GB.")
    on_nonfinite: OnNonfinite = Field("keep", description="What to do with weights that are NaN or infinite.")


class Recipe(BaseModel):
    """A graph of components over model files."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    models: dict[str, str] = Field(default_factory=dict, description="Model files by name.")
    steps: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Steps by name: op and options.")
    output: Output

    @model_validator(mode="before")
    @classmethod
    def _short_output(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("output"), str):
            return data | {"output": {"step": data["output"]}}
        return data


# --- reading ------------------------------------------------------------------------------------------


def parse_recipe(data: Any, *, source: str = "recipe") -> Recipe:
    """A recipe from plain data. Raises RecipeError naming the field and the nearest valid word."""
    if not isinstance(data, dict):
        raise RecipeError(f"{source}: a recipe is a mapping with models, steps and output, not {_kind(data)}")
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(_explain(error, source, Recipe)) from None
    both = sorted(set(recipe.models) & set(recipe.steps))
    if both:
        raise RecipeError(f"{source}: {both[0]!r} is both a model and a step", hint="Rename one of them.")
    return recipe


def load_recipe(path: Path, catalog: Catalog | None = None) -> Recipe:
    """A recipe from a YAML or JSON file, or the one inside a model, mask or gradient that was written.

    Args:
        catalog: whose plugins may know other tools' configurations: they are translated.

    Raises:
        RecipeError: the file is no recipe, or breaks its rules.
    """
    if holds_tensors(path):
        provenance = read_provenance(path)
        return parse_recipe(provenance["recipe"], source=f"the recipe inside {path}")
    data = _read(path)
    if isinstance(data, dict) and data.get("daremerge") == "gradient":
        made_by = data.get("made_by")
        recipe = made_by.get("recipe") if isinstance(made_by, dict) else None
        return parse_recipe(recipe, source=f"the recipe inside {path}")
    if catalog is not None and isinstance(data, dict) and "output" not in data:
        data = catalog.hook.daremerge_recipe(data=data, source=str(path)) or data
    return parse_recipe(data, source=str(path))


def _read(path: Path) -> Any:
    """The plain data in a YAML or JSON file. JSON may be long: gradients are, and hold recipes."""
    from . import strict_json
    from .stores.files import read_text

    is_json = path.suffix.lower() == ".json"
    try:
        text = read_text(path, _MAX_JSON if is_json else MAX_BYTES, what="a recipe")
        return strict_json.loads(text) if is_json else parse_yaml(text, source=str(path))
    except ModelFileError as error:
        raise RecipeError(error.message, hint=error.hint) from None
    except strict_json.JsonError as error:
        raise RecipeError(f"{path}: not valid JSON: {error}") from None


def holds_tensors(path: Path) -> bool:
    """Whether a recipe is sought in the metadata of this file or folder, rather than as text."""
    return os.path.isdir(path) or path.suffix == ".safetensors"


def recipe_folders(path: Path) -> list[Path]:
    """Where a recipe's relative paths start: beside it; for the one inside an output, here first."""
    beside = path if os.path.isdir(path) else path.parent
    return [Path(), beside] if holds_tensors(path) else [beside]


def read_provenance(path: Path) -> dict[str, Any]:
    """What a merged file says of its making. Raises RecipeError when it says nothing."""
    from . import strict_json
    from .stores import open_model

    model = open_model(path)
    try:
        text = model.metadata.get(METADATA_KEY)
    finally:
        model.close()
    if text is None:
        raise RecipeError(f"{path} holds no recipe", hint="Only files that daremerge wrote carry one.")
    try:
        found: dict[str, Any] = strict_json.loads(text)
        if not (isinstance(found["recipe"], dict) and all(map(_is_input, found["inputs"].values()))):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RecipeError(f"{path}: the recipe in its metadata is damaged") from None
    return found


def _is_input(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("identity"), str)


def apply_settings(data: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Apply ``step.field=value`` overrides; the value is read as YAML. Returns new data."""
    result: dict[str, Any] = json.loads(json.dumps(data))
    for setting in settings:
        target, equals, text = setting.partition("=")
        path = target.strip().split(".")
        if not equals or len(path) < 2 or not all(path):
            raise RecipeError(f"--set {setting!r}: write step.field=value, for example merged.drop_rate=0.8")
        if path[0] == "steps":
            path = path[1:]
        value = parse_yaml(text, source=f"--set {target}")
        steps = result.get("steps") or {}
        node: Any
        if path[0] == "models":
            node, path = result.setdefault("models", {}), [".".join(path[1:])]
        elif path[0] == "output" and "output" not in steps:
            if not isinstance(result.get("output"), dict):
                result["output"] = {"step": result.get("output")}
            node, path = result["output"], path[1:]
        elif path[0] in steps:
            node, path = steps[path[0]], path[1:]
        else:
            raise RecipeError(
                f"--set {target}: there is no step {path[0]!r}.{nearest(path[0], steps)}",
                hint=f"Steps: {', '.join(steps) or 'none'}; also models.NAME and output.FIELD",
            )
        for part in path[:-1]:
            node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise RecipeError(f"--set {target}: {'.'.join(path[:-1])} is not a mapping")
        node[path[-1]] = value
    return result


# --- the graph ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Graph:
    """A recipe, checked: the steps its output needs, each after what it needs itself, and the files they read."""

    recipe: Recipe
    steps: Mapping[str, Component]
    files: Mapping[str, ValueKind]
    """Every file the recipe reads, by the reference that names it (a model's name, or a path), and what it must be."""

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out, ready for JSON. Holds no output path.

        Models and steps are sorted by name. Within a step nothing is: the order of a table may carry meaning.
        """
        output = self.recipe.output.model_dump(exclude={"path"})
        steps = {
            name: {"op": f"{step.kind}.{step.name}", **step.model_dump(mode="json", by_alias=True)}
            for name, step in sorted(self.steps.items())
        }
        models = {name: path for name, path in sorted(self.recipe.models.items()) if name in self.files}
        return {"models": models, "steps": steps, "output": output}


Result = Literal["model", "mask", "gradient", "report"]

_GIVES: Mapping[str, Result] = {
    "merge": "model",
    "edit": "model",
    "lora": "model",
    "mask": "mask",
    "gradient": "gradient",
    "report": "report",
}


def kind_of(component: Component | type[Component]) -> Result:
    """What kind of value a step of this component gives. A report is for people: no step takes one."""
    return _GIVES[component.kind]


def resolve(recipe: Recipe, catalog: Catalog) -> Graph:
    """Check a recipe against the installed components: names, fields, ranges, references, kinds, cycles.

    Raises:
        RecipeError: naming the step, the field and the nearest valid word.
    """
    components: dict[str, Component] = {}
    for name, raw in recipe.steps.items():
        components[name] = _component(name, raw, catalog)
    files: dict[str, ValueKind] = {}
    edges: dict[str, list[str]] = {name: [] for name in components}
    for name, component in components.items():
        for field, port in ports(type(component)).items():
            value = getattr(component, field)
            for reference in value if isinstance(value, list) else [value]:
                if reference is None:
                    continue
                if not isinstance(reference, str):
                    raise RecipeError(f"steps.{name}.{field}: a recipe holds names and paths, not values")
                if reference in components:
                    given = kind_of(components[reference])
                    if given != port.kind:
                        raise RecipeError(
                            f"steps.{name}.{field}: {reference!r} is a {given}, where a {port.kind} is wanted"
                        )
                    edges[name].append(reference)
                    continue
                if reference in recipe.models and port.kind != "model":
                    raise RecipeError(f"steps.{name}.{field}: {reference!r} is a model, where a {port.kind} is wanted")
                _add_file(files, reference, port, f"steps.{name}.{field}")
    wanted = recipe.output.step
    if wanted in components:
        kind = kind_of(components[wanted])
        unfit = {
            "dtype": recipe.output.dtype != "keep",
            "shard_size": recipe.output.shard_size is not None,
            "on_nonfinite": recipe.output.on_nonfinite != "keep",
        }
        if kind != "model" and any(unfit.values()):
            field = next(name for name, given in unfit.items() if given)
            raise RecipeError(f"output.{field}: step {wanted!r} is a {kind}, and {field} is for models")
    elif wanted in recipe.models:
        files.setdefault(wanted, "model")
    else:
        known = [*components, *recipe.models]
        raise RecipeError(
            f"output: there is no step {wanted!r}.{nearest(wanted, known)}", hint=f"Known: {', '.join(known)}"
        )
    order = _order(edges)
    used = _reachable(edges, wanted)
    needed = {reference for name in used for _, reference in references(components[name])} | {wanted}
    return Graph(
        recipe,
        {name: components[name] for name in order if name in used},
        {reference: kind for reference, kind in files.items() if reference in needed},
    )


def _add_file(files: dict[str, Any], reference: str, port: Port, where: str) -> None:
    if files.setdefault(reference, port.kind) != port.kind:
        raise RecipeError(f"{where}: {reference!r} is used as a {files[reference]} and as a {port.kind}")


def references(component: Component) -> list[tuple[Port, Any]]:
    """Every value on a component's ports, each with its port; in a recipe the names and paths."""
    found: list[tuple[Port, Any]] = []
    for field, port in ports(type(component)).items():
        value = getattr(component, field)
        found.extend((port, one) for one in (value if isinstance(value, list) else [value]) if one is not None)
    return found


def _component(name: str, raw: Mapping[str, Any], catalog: Catalog) -> Component:
    op = raw.get("op")
    if not isinstance(op, str):
        raise RecipeError(f"steps.{name}: `op` is missing", hint="For example: op: merge.lerp")
    try:
        cls = catalog.op(op)
    except CatalogError as error:
        raise RecipeError(f"steps.{name}.op: {error.message}", hint=error.hint) from None
    if cls.kind not in _GIVES:
        raise RecipeError(f"steps.{name}.op: {op} is not a step: it is used inside one")
    options = {key: value for key, value in raw.items() if key != "op"}
    return make_component(cls, options, catalog, where=f"steps.{name}")


def make_component(cls: type[Component], options: Mapping[str, Any], catalog: Catalog, *, where: str) -> Component:
    """A component from options; raises RecipeError naming each wrong field."""
    try:
        return cls.model_validate(dict(options), context={"catalog": catalog})
    except ValidationError as error:
        raise RecipeError(_explain(error, where, cls)) from None
    except CatalogError as error:
        raise RecipeError(f"{where}: {error.message}", hint=error.hint) from None


def _order(edges: Mapping[str, list[str]]) -> list[str]:
    """Steps after the steps they need, otherwise as written. Raises RecipeError on a cycle, naming it."""
    from graphlib import CycleError, TopologicalSorter

    try:
        return list(TopologicalSorter({name: sorted(set(needs)) for name, needs in edges.items()}).static_order())
    except CycleError as error:
        raise RecipeError(f"steps form a cycle: {' needs '.join(reversed(error.args[1]))}") from None


def _reachable(edges: Mapping[str, list[str]], start: str) -> set[str]:
    seen: set[str] = set()
    stack = [start] if start in edges else []
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack.extend(edges[name])
    return seen


# --- words for pydantic's errors ---------------------------------------------------------------------------


def _explain(error: ValidationError, where: str, cls: type[BaseModel]) -> str:
    """One line per wrong field: where, what is wrong, what was given, the nearest valid word."""
    lines: list[str] = []
    problems = error.errors(include_url=False)
    for problem in problems[:_MOST_PROBLEMS]:
        parts = [str(part) for part in problem["loc"] if not str(part).startswith("function-")]
        path = ".".join([where, *(printable(part) if len(part) <= _LONGEST else shortened(part) for part in parts)])
        given = problem.get("input")
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            fields = [field.alias or name for name, field in cls.model_fields.items()]
            message = f"unknown field.{nearest(str(problem['loc'][-1]), fields)}"
        elif problem["type"] == "missing":
            message = "is required"
        elif isinstance(given, (str, int, float, bool)) or given is None:
            message = f"{message} (given: {shortened(given)})"
        lines.append(f"{path}: {message}")
    if len(problems) > _MOST_PROBLEMS:
        lines.append(f"{where}: and {len(problems) - _MOST_PROBLEMS} more problems")
    return "\n".join(dict.fromkeys(lines))


def _kind(value: object) -> str:
    return {"NoneType": "nothing", "str": "text", "list": "a list"}.get(type(value).__name__, type(value).__name__)
