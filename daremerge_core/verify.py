"""Whether a file is what it should be: each promise that can be checked, checked, and why others could not be."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .catalog import Catalog, discover
from .dtypes import FLOATS
from .engine import Pool, Settings
from .errors import DaremergeError, ModelFileError, PlanError, RecipeError
from .nonfinite import count_suspicious
from .plan import Plan
from .recipe import METADATA_KEY
from .stores import GradientFile, MaskFile, open_model
from .stores.atomic import write_text
from .stores.files import read_text
from .stores.identity import content_identity, file_identity
from .stores.mask_file import MASK_METADATA
from .values import Model, Span, TensorMeta

__all__ = ["Check", "sidecar_of", "verify", "write_sidecar"]

Outcome = Literal["ok", "FAILED", "not checked"]
SPAN = 1 << 22
"""Elements looked at in one piece."""
_FORMAT = 1


@dataclass(frozen=True)
class Check:
    """One promise, and what was found."""

    name: str
    outcome: Outcome
    note: str = ""


class _Opened(NamedTuple):
    kind: Literal["model", "mask", "gradient"]
    model: Model | None
    identity: str


def sidecar_of(path: Path) -> Path:
    """Where the checksums of a file or folder are kept: beside it."""
    return path.with_name(f"{path.name}.daremerge.json")


def write_sidecar(path: Path, *, overwrite: bool = False, catalog: Catalog | None = None) -> Path:
    """Take down the checksum of a file, to be compared later; returns where.

    Raises:
        DaremergeError: the file is damaged, or the sidecar is there already.
    """
    opened = _open(path, catalog or discover())
    if opened.model is not None:
        opened.model.close()
    said = {"daremerge": "checksum", "format": _FORMAT, "kind": opened.kind, "identity": opened.identity}
    return write_text(sidecar_of(path), json.dumps(said, indent=1) + "\n", overwrite=overwrite)


def verify(path: Path, *, rebuild: Path | None = None, catalog: Catalog | None = None) -> list[Check]:
    """Check a model, a mask or a gradient.

    Args:
        rebuild: an empty folder in which the recipe inside the file is run again, to compare the results.
    """
    catalog = catalog or discover()
    try:
        opened = _open(path, catalog)
    except DaremergeError as error:
        rest = ("finite", "checksum", "recipe", "inputs", *(["rebuilt"] if rebuild else []))
        unread = [Check(name, "not checked", "the file cannot be read") for name in rest]
        return [Check("readable", "FAILED", error.message), *unread]
    checks = [Check("readable", "ok", f"a {opened.kind}: header, sizes and places agree")]
    try:
        checks.append(_finite(opened))
        checks.append(_checksum(path, opened))
        checks += _made_again(path, opened, catalog, rebuild)
    finally:
        if opened.model is not None:
            opened.model.close()
    return checks


def _open(path: Path, catalog: Catalog) -> _Opened:
    if path.suffix == ".json" and not path.name.endswith(".index.json"):
        GradientFile(path)
        return _Opened("gradient", None, file_identity(path))
    model = open_model(path, openers=[lambda one: catalog.hook.daremerge_open(path=one)])
    if MASK_METADATA in model.metadata:
        MaskFile(path).close()
        return _Opened("mask", model, content_identity(model))
    return _Opened("model", model, content_identity(model))


def _finite(opened: _Opened) -> Check:
    if opened.kind != "model" or opened.model is None:
        return Check("finite", "ok", "by its format")
    model, lock, found = opened.model, threading.Lock(), dict[str, int]()

    def look(meta: TensorMeta, span: Span) -> None:
        from .stores.tensors import stored_bytes

        data = stored_bytes(model, meta.key, span)
        if count_suspicious(data, meta.dtype) and (bad := _count(data, meta.dtype)):
            with lock:
                found[meta.key] = found.get(meta.key, 0) + bad

    pool = Pool(Settings().worker_count(), 1 << 30, threading.Event())
    floats = [meta for key in model.keys() if (meta := model.meta(key)).dtype in FLOATS]
    pool.run((0, lambda m=meta, s=span: look(m, s)) for meta in floats for span in _spans(meta))  # type: ignore[misc]
    if not found:
        return Check("finite", "ok", f"all weights of {len(floats)} tensors")
    names = ", ".join(f"{key} ({found[key]})" for key in sorted(found)[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return Check("finite", "FAILED", f"{sum(found.values())} weights are NaN or infinite, in {names}{more}")


def _count(data: memoryview, dtype: str) -> int:
    import torch

    from .dtypes import torch_dtype

    values = torch.frombuffer(data, dtype=torch_dtype(dtype))
    return int((~(values if values.element_size() > 1 else values.float()).isfinite()).sum())


def _spans(meta: TensorMeta) -> Iterator[Span]:
    for start in range(0, meta.numel, SPAN):
        yield Span(start, min(start + SPAN, meta.numel))


def _checksum(path: Path, opened: _Opened) -> Check:
    sidecar = sidecar_of(path)
    if not os.path.exists(sidecar):
        return Check("checksum", "not checked", f"there is no {sidecar.name}; --write makes one")
    try:
        said = json.loads(read_text(sidecar, 1 << 20, what="a checksum"))
        expected = said["identity"]
    except (ModelFileError, ValueError, KeyError, TypeError, RecursionError):
        return Check("checksum", "FAILED", f"{sidecar.name} cannot be read as a checksum")
    if expected != opened.identity:
        return Check("checksum", "FAILED", f"was {expected}, is {opened.identity}")
    return Check("checksum", "ok", opened.identity)


def _made_again(path: Path, opened: _Opened, catalog: Catalog, rebuild: Path | None) -> list[Check]:
    """The recipe inside, the inputs that it names, and whether it gives this file again."""
    from .plan import read_plan
    from .recipe import load_recipe, read_provenance, resolve

    names = ["inputs", *(["rebuilt"] if rebuild else [])]

    def give_up(recipe: Check, why: str) -> list[Check]:
        return [recipe, *(Check(name, "not checked", why) for name in names)]

    metadata = {} if opened.model is None else opened.model.metadata
    if opened.kind != "gradient" and METADATA_KEY not in metadata:
        return give_up(Check("recipe", "not checked", "the file holds no recipe"), "the file holds no recipe")
    try:
        graph = resolve(load_recipe(path, catalog), catalog)
    except DaremergeError as error:
        return give_up(Check("recipe", "FAILED", error.message), "the recipe cannot be read")
    recipe = Check("recipe", "ok", f"{len(graph.steps)} steps, and every component is installed")
    try:
        plan = read_plan(path, catalog)
    except (PlanError, ModelFileError, RecipeError) as error:
        return give_up(recipe, error.message)
    with closing(plan):
        known = {} if opened.kind == "gradient" else read_provenance(path)["inputs"]
        inputs = _inputs(plan, {name: one.get("identity") for name, one in known.items()})
        if rebuild is None:
            return [recipe, inputs]
        if inputs.outcome == "FAILED":
            return [recipe, inputs, Check("rebuilt", "not checked", "the inputs are not those it was made of")]
        return [recipe, inputs, _rebuilt(plan, path, opened, rebuild, catalog)]


def _inputs(plan: Plan, known: dict[str, Any]) -> Check:
    changed = []
    for one in plan.inputs:
        found = content_identity(one.value) if one.kind == "model" else file_identity(one.path)
        if known.get(one.name, found) != found:
            changed.append(f"{one.name} ({one.path})")
    if changed:
        return Check("inputs", "FAILED", f"changed since: {', '.join(changed)}")
    if not known:
        return Check("inputs", "not checked", "the file does not say what they held")
    return Check("inputs", "ok", f"{len(plan.inputs)} files, with the content they had")


def _rebuilt(plan: Plan, path: Path, opened: _Opened, folder: Path, catalog: Catalog) -> Check:
    from .api import run_plan

    try:
        run_plan(plan, folder / path.name, catalog=catalog)
        found = _open(folder / path.name, catalog)
    except DaremergeError as error:
        return Check("rebuilt", "FAILED", error.message)
    if found.model is not None:
        found.model.close()
    if found.identity != opened.identity:
        return Check("rebuilt", "FAILED", f"the recipe gives {found.identity}, and this is {opened.identity}")
    return Check("rebuilt", "ok", "the recipe gives the same content again")


def failed(checks: Sequence[Check]) -> bool:
    return any(one.outcome == "FAILED" for one in checks)
