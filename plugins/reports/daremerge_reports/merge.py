"""``report.merge``: what a finished or planned merge did to each block."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from daremerge_core import DaremergeError, RecipeRef, Report, Reporter, strict_json
from daremerge_core.components import Component, ports
from daremerge_core.decisions import Action, Decision, tally
from daremerge_core.dtypes import torch_dtype
from daremerge_core.errors import PlanError
from daremerge_core.recipe import METADATA_KEY
from daremerge_core.values import TensorMeta

from .adding import added
from .blocks import Atlas, By, Group
from .names import name_models
from .words import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from daremerge_core import Model, Survey
    from daremerge_core.plan import Plan
    from daremerge_core.survey import Block
    from daremerge_core.views import ModelView

__all__ = ["MergeReport", "Work"]

Cell = str | int | float | None


@dataclass(frozen=True)
class Work:
    """What a merge did to some tensors, measured: sums, which add up."""

    tensors: int
    elements: int
    selected: int
    """Elements that the mask selects; all of them without a mask."""
    changed: int
    """Elements of the result that are not the anchor's, as the result stores them."""
    taken: int
    """Elements that an input moves, the mask selects, and the result has changed."""
    broken: int
    """Elements of the result that are NaN or infinite."""
    moved: tuple[int, ...]
    """Selected elements that exactly 0, 1, 2 … inputs move."""
    after: float
    """‖result − anchor‖²."""
    anchor: float
    """‖anchor‖²."""
    before: tuple[float, ...]
    """‖delta‖² of each input."""

    @classmethod
    def total(cls, parts: Sequence[Work]) -> Work | None:
        """Of all the parts together, added in their order; None of none."""
        return added(parts) if parts else None

    @property
    def norm_after(self) -> float:
        """‖result − anchor‖."""
        return math.sqrt(self.after)

    @property
    def norm_before(self) -> float | None:
        """Root mean square of the inputs' delta norms: with one input, the norm of its delta."""
        return math.sqrt(math.fsum(self.before) / len(self.before)) if self.before else None

    @property
    def gain(self) -> float | None:
        """Norm after by norm before."""
        return self.norm_after / self.norm_before if self.norm_before else None

    @property
    def relative(self) -> float:
        """‖result − anchor‖ / ‖anchor‖."""
        if self.after == 0:
            return 0.0
        return math.sqrt(self.after / self.anchor) if self.anchor else math.inf

    @property
    def kept(self) -> float | None:
        """Realised keep share: of the elements that could take a change, those that did, 0 to 1."""
        possible = sum(self.moved[1:])
        return self.taken / possible if possible else None

    def expected(self, keep: float | None) -> float | None:
        """The keep share to expect where each input's change of an element is kept with probability ``keep``."""
        possible = sum(self.moved[1:])
        if keep is None or not possible:
            return None
        return math.fsum(count * (1 - (1 - keep) ** k) for k, count in enumerate(self.moved)) / possible


@dataclass(frozen=True)
class Subject:
    """The step whose result is looked at, and what it is compared with."""

    view: ModelView
    result: Model
    anchor: str
    """What the recipe calls the anchor model."""
    base: str | None
    """What it calls the model that deltas are counted from, where the step has one beside its anchor."""
    origin: Model | None
    """That model."""
    inputs: Mapping[str, Model]
    """The other models of a merge by their names. An edit has none: its other models are no changes to take."""

    @classmethod
    def of(cls, view: ModelView, named: Component, result: Model) -> Subject:
        """``named``: the step as the recipe has it, names on its ports."""
        names: dict[str, str] = {}
        found: dict[str, tuple[str, Model]] = {}
        for port, kind in ports(type(named)).items():
            if kind.kind == "model" and not kind.aside and getattr(named, port) is not None:
                for name, model in zip(
                    *map(_listed, (getattr(named, port), getattr(view.component, port))), strict=True
                ):
                    names.setdefault("anchor" if model is view.anchor else port, name)
                    found[name] = (port, model)
        anchor = names["anchor"]
        others = {name: one for name, one in found.items() if name != anchor}
        base = next((name for name, (port, _) in others.items() if port == "base"), None)
        inputs = {name: model for name, (_, model) in others.items() if name != base}
        origin = None if base is None else others[base][1]
        return cls(view, result, anchor, base, origin, inputs if named.kind == "merge" else {})

    @property
    def step(self) -> Component:
        return self.view.component

    def measure(self, survey: Survey) -> dict[str, Work]:
        """What was done to each tensor that the step computes."""
        keys = list(self.view.active_keys())
        mask = self.view.component.mask
        models = [self.view.anchor, self.result, *_given(self.origin), *self.inputs.values()]
        dtypes = {key: self.result.meta(key).dtype for key in keys}
        one = partial(_measure, dtypes, self.origin is not None, mask is not None)
        works = survey.each(keys, [*models, *_given(mask)], one, what="looking at the merge")
        return dict(zip(keys, works, strict=True))

    def keep(self) -> float | None:
        """The probability with which an input's change of an element is kept, where the step leaves it to chance."""
        return self.step.kept_at_random()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _given(value: Any) -> list[Any]:
    """The value in a list, or an empty one for None."""
    return [] if value is None else [value]


def _measure(dtypes: Mapping[str, str], has_base: bool, has_mask: bool, key: str, blocks: Iterator[Block]) -> Work:
    from .compare_kernels import WorkSums

    dtype = torch_dtype(dtypes[key])
    sums: WorkSums | None = None
    for block in blocks:
        anchor, result, *others = block
        selected = others.pop() if has_mask else None
        origin = others.pop(0) if has_base else anchor
        sums = sums or WorkSums(len(others))
        sums.add(anchor, result, [other - origin for other in others], selected, dtype)
    assert sums is not None  # a tensor without elements has one empty block
    return Work(1, *sums.totals())


class MergeReport(Reporter):
    """What a merge did, finished or planned: ratios, norms before and after, what was kept, and where it comes from.

    Looks at the recipe's last step, a merge or an edit, and lists the others. A file that daremerge wrote is read as it
    is; of a recipe the result is computed, and nothing is written.
    """

    name = "merge"
    recipe: RecipeRef = Field(description="A recipe, or a model that daremerge wrote.")
    by: By = Field("block", description="What a row of the table is: a part, a block, a role of a part, or a tensor.")

    def report(self, survey: Survey) -> Report:
        from daremerge_core.views import ModelView

        plan: Plan = self.recipe
        if plan.kind != "model":
            raise DaremergeError(
                f"this recipe gives a {plan.kind}, not a model",
                hint=f"Look at it with: daremerge report {plan.kind} FILE"
                if plan.kind != "report"
                else "Run it with: daremerge run",
            )
        history = _History.of(plan)
        if not isinstance(plan.value, ModelView):
            return Report(history.title, history.text([]), (), history.data())
        result = plan.result
        if plan.written is not None:
            result = plan.written
            _check_match(plan.tensors, result)
        subject = Subject.of(plan.value, plan.graph.steps[plan.graph.recipe.output.step], result)
        found = _Found(subject, subject.measure(survey))
        return Report(
            history.title,
            history.text(found.paragraphs()),
            found.rows(self.by),
            {**history.data(), **found.data()},
            {
                "Relative change by block and role": found.draw_cells,
                "Ratio over depth: 1 keeps the anchor, 0 takes the merge": found.draw_ratios,
                "Norms over depth": found.draw_norms,
            },
        )


def _check_match(planned: Sequence[TensorMeta], written: Model) -> None:
    """Refuse a file that its recipe would not give any more."""
    known = set(written.keys())
    wrong = [meta.key for meta in planned if meta.key not in known or written.meta(meta.key) != meta]
    if wrong or len(planned) != len(known):
        raise PlanError(
            f"the file and the recipe in it do not fit together: {words(wrong or sorted(known), 2)} differ",
            hint="Have its input files been replaced since? Bring back those it was made from.",
        )


# --- where it comes from --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _History:
    """What is known of a merge without looking at any tensor."""

    title: str
    steps: list[dict[str, Any]]
    inputs: list[dict[str, str | None]]
    made_with: Mapping[str, str]
    warnings: Sequence[str]
    finished: bool

    @classmethod
    def of(cls, plan: Plan) -> _History:
        said = _provenance(plan.written)
        known = said.get("inputs") or {}
        inputs: list[dict[str, str | None]] = [
            {"name": one.name, "path": one.named_path, "identity": _said_identity(known.get(one.name))}
            for one in plan.inputs
        ]
        if plan.written is None:
            # Over models that are in memory already there is nothing to plan: it is the merge itself.
            title = f"{'Planned' if plan.inputs else 'Merge'}: {plan.graph.recipe.output.step}"
        else:
            title = f"Merged: {name_models({'the result': plan.written})['the result']}"
        steps = [_step(name, component, plan.views[name]) for name, component in plan.graph.steps.items()]
        made_with = said.get("made_with") or dict(plan.made_with)
        return cls(title, steps, inputs, made_with, plan.warnings, plan.written is not None)

    def text(self, about_the_result: Sequence[str]) -> str:
        return "\n\n".join([*about_the_result, self._steps(), self._inputs(), *self._warnings()])

    def _steps(self) -> str:
        lines = [
            f"  {one['name']}: {one['op']}{_in_words(one['options'])}: {one['did']}" for one in reversed(self.steps)
        ]
        return "\n".join(["Steps, the last first:", *lines])

    def _inputs(self) -> str:
        lines = [
            f"  {one['name']}"
            + (f" ({one['path']})" if one["path"] != one["name"] else "")
            + _identity(one["identity"])
            for one in self.inputs
        ]
        versions = ", ".join(f"{name} {version}" for name, version in sorted(self.made_with.items()))
        if self.finished:
            head = "Inputs, as they were when the file was made; what is compared is what lies there now:"
            return "\n".join([head, *lines, f"Made with {versions}."])
        if not self.inputs:
            return f"Made with {versions}."
        head = "Inputs; their identities are known once the merge is run:"
        return "\n".join([head, *lines, f"Planned with {versions}."])

    def _warnings(self) -> list[str]:
        return ["\n".join(f"Warning: {warning}" for warning in self.warnings)] if self.warnings else []

    def data(self) -> dict[str, Any]:
        return {
            "finished": self.finished,
            "steps": self.steps,
            "inputs": self.inputs,
            "made with": dict(self.made_with),
            "warnings": list(self.warnings),
        }


def _provenance(written: Model | None) -> dict[str, Any]:
    """What a finished file says of its making."""
    text = None if written is None else written.metadata.get(METADATA_KEY)
    try:
        found = strict_json.loads(text or "{}")
    except strict_json.JsonError:
        return {}
    return {key: one for key, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def _said_identity(said: Any) -> str | None:
    found = said.get("identity") if isinstance(said, dict) else None
    return found if isinstance(found, str) else None


def _step(name: str, component: Component, value: Any) -> dict[str, Any]:
    return {
        "name": name,
        "op": f"{component.kind}.{component.name}",
        "options": component.options(),
        "did": _did(value),
    }


def _did(value: Any) -> str:
    """What a step did, in tensors."""
    from daremerge_core.views import GradientView, MaskView, ModelView

    if isinstance(value, ModelView):
        changed, copied, left_out = tally(value.decisions)
        words = [f"{changed} tensors {'merged' if value.component.kind == 'merge' else 'edited'}"]
        words += [f"{count} copied ({reason})" for reason, count in sorted(copied.items())]
        words += [f"{count} left out ({reason})" for reason, count in sorted(left_out.items())]
        return ", ".join(words)
    if isinstance(value, MaskView):
        return f"a mask of {len(value.keys())} tensors"
    if isinstance(value, GradientView):
        ratios = [ratio for key in value.keys() if (ratio := value.ratio(key)) is not None]
        return f"a ratio for {len(ratios)} tensors, {min(ratios):g} to {max(ratios):g}"
    return f"{len(value.keys())} tensors"


def _in_words(options: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{key}={value}' for key, value in options.items())})" if options else ""


def _identity(identity: str | None) -> str:
    return f": {identity}" if identity else ""


# --- what was measured ------------------------------------------------------------------------------------


class _Found:
    """What was done to each tensor, and the ways to show it."""

    def __init__(self, subject: Subject, works: Mapping[str, Work]) -> None:
        self.subject = subject
        self.works = works
        self.decisions: Mapping[str, Decision] = subject.view.decisions
        self.atlas = Atlas(subject.view.layout, list(self.decisions))
        self.keep = subject.keep()
        self.has_mask = subject.view.component.mask is not None

    def sums(self, groups: Mapping[Group, Iterable[str]]) -> dict[Group, Work | None]:
        return {
            group: Work.total([self.works[key] for key in keys if key in self.works]) for group, keys in groups.items()
        }

    def ratios(self, groups: Mapping[Group, Iterable[str]]) -> dict[Group, list[float]]:
        """The ratios of the tensors that are merged, in each group that has any."""
        found = {
            group: [self.decisions[key].ratio for key in keys if self.decisions[key].action is Action.MERGE]
            for group, keys in groups.items()
        }
        return {group: ratios for group, ratios in found.items() if ratios}

    def paragraphs(self) -> list[str]:
        whole = Work.total(list(self.works.values()))
        if whole is None:
            return ["Nothing was changed: every tensor is the anchor's own."]
        step, anchor = self.subject.step, self.subject.anchor
        first = (
            f"{step.kind}.{step.name} changed {100 * whole.changed / max(whole.elements, 1):.4g} % of the elements of "
            f"{whole.tensors} tensors, by a relative norm ‖result − {anchor}‖ / ‖{anchor}‖ of {whole.relative:.4g}."
        )
        found = [first]
        if whole.before:
            lines = [
                f"  ‖{name} − {self.subject.base or anchor}‖ = {math.sqrt(square):.4g}"
                for name, square in zip(self.subject.inputs, whole.before, strict=True)
            ]
            lines.append(f"  ‖result − {anchor}‖ = {whole.norm_after:.4g}{_times(whole.gain)}")
            found.append("\n".join(["Norms before and after:", *lines]))
        if self.has_mask:
            found.append(f"The mask selects {100 * whole.selected / max(whole.elements, 1):.4g} % of the elements.")
        if self.keep is not None and whole.kept is not None:
            expected = whole.expected(self.keep)
            assert expected is not None
            found.append(
                f"Kept: {100 * whole.kept:.4g} % of the changes, where the step's options lead one to expect "
                f"{100 * expected:.4g} %. This is the share of elements in which the result differs from {anchor}, "
                f"among those that an input moves{' and the mask selects' if self.has_mask else ''}. A change that "
                "rounding to the stored dtype undoes does not count as kept, nor does one that an election leaves out."
            )
        if whole.broken:
            found.append(f"{whole.broken:,} elements of the result are NaN or infinite.")
        return found

    def rows(self, by: By, *, ranges: bool = False) -> list[dict[str, Cell]]:
        """A table. ``ranges``: the ratio as its two ends, even where no group has several."""
        groups = self.atlas.groups(by)
        ratios = self.ratios(groups)
        single = not ranges and all(min(found) == max(found) for found in ratios.values())
        rows: list[dict[str, Cell]] = []
        for group, work in self.sums(groups).items():
            actions = Counter(self.decisions[key].action for key in groups[group])
            row: dict[str, Cell] = {**group.row(), "merged": actions[Action.MERGE], "copied": actions[Action.COPY]}
            if any(one.action is Action.SKIP for one in self.decisions.values()):
                row["left out"] = actions[Action.SKIP]
            found = ratios.get(group)
            if single:
                row["ratio"] = found[0] if found else None
            else:
                row |= {"ratio from": min(found) if found else None, "ratio to": max(found) if found else None}
            rows.append(row | self._numbers(work))
        return rows

    def _numbers(self, work: Work | None) -> dict[str, Cell]:
        """What was measured of a group, as cells; empty ones where nothing was merged."""
        cells: dict[str, Cell] = {}
        if self.has_mask:
            cells["mask"] = work.selected / work.elements if work and work.elements else None
        if self.subject.inputs:
            cells["before"] = work.norm_before if work else None
        cells["after"] = work.norm_after if work else None
        if self.subject.inputs:
            cells["after/before"] = work.gain if work else None
        cells["relative change"] = work.relative if work else None
        cells["changed"] = work.changed / work.elements if work and work.elements else None
        if self.subject.inputs:
            cells["kept"] = work.kept if work else None
        if self.keep is not None:
            cells["expected"] = work.expected(self.keep) if work else None
        return cells

    def data(self) -> dict[str, Any]:
        whole = Work.total(list(self.works.values()))
        changed, copied, left_out = tally(self.decisions)
        return {
            "architecture": self.subject.view.layout.arch,
            "whole": {"elements": whole.elements if whole else 0, **self._numbers(whole)},
            "delta norms": dict(zip(self.subject.inputs, map(math.sqrt, whole.before) if whole else (), strict=False)),
            "merged": changed,
            "copied": dict(copied),
            "left out": dict(left_out),
            "reasons": {key: one.reason for key, one in self.decisions.items() if one.action is not Action.MERGE},
            **{f"{by}s": self.rows(by, ranges=True) for by in ("part", "block", "role", "tensor")},
        }

    def draw_cells(self) -> Figure:
        from .charts import heat_maps

        cells = self.sums(self.atlas.cells())
        values = {cell: work.relative if work else 0.0 for cell, work in cells.items()}
        label = "‖result − anchor‖ / ‖anchor‖ (grey: unchanged)"
        return heat_maps(self.atlas.laid_out(values), label, log=True)

    def draw_ratios(self) -> Figure:
        from .curves import curves

        ratios = self.ratios(self.atlas.groups("block"))
        means: dict[Group, float | None] = {block: math.fsum(found) / len(found) for block, found in ratios.items()}
        bands = {block: (min(found), max(found)) for block, found in ratios.items()}
        label = "ratio: mean and range of a block's tensors"
        return curves(self.atlas, {"": means}, label=label, band=bands, within=(0, 1))

    def draw_norms(self) -> Figure:
        from .curves import curves

        blocks = {block: work for block, work in self.sums(self.atlas.groups("block")).items() if work}
        after: dict[Group, float | None] = {block: work.norm_after for block, work in blocks.items()}
        if not self.subject.inputs:
            return curves(self.atlas, {"": after}, label="‖result − anchor‖", log=True)
        before = {block: work.norm_before for block, work in blocks.items()}
        subject = self.subject
        first = ", ".join(subject.inputs) if len(subject.inputs) == 1 else "inputs (root mean square)"
        origin = subject.base or subject.anchor
        names = {f"before: {first} − {origin}": before, f"after: result − {subject.anchor}": after}
        return curves(self.atlas, names, label="norm", log=True)


def _times(gain: float | None) -> str:
    return "" if gain is None else f": {gain:.4g} times the norm before"
