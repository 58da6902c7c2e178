"""``report.diff``: how one model differs from another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from daremerge_core import DaremergeError, ModelRef, Report, Reporter
from daremerge_core.dtypes import FLOATS

from .blocks import Atlas, By, Group
from .names import name_models
from .words import words

if TYPE_CHECKING:
    from daremerge_core import Layout, Model, Survey
    from daremerge_core.survey import Block

__all__ = ["Diff", "Difference"]

TOP = 10
"""Tensors named in the text."""


@dataclass(frozen=True)
class Difference:
    """How some elements X of a model differ from the same elements A of another: sums, which add up."""

    tensors: int = 0
    elements: int = 0
    changed: int = 0
    """Elements that are not equal."""
    broken: int = 0
    """Elements that are NaN or infinite in X or A: the sums leave them out."""
    largest: float = 0.0
    """max |X − A|."""
    square: float = 0.0
    """Σ (X − A)²."""
    own: float = 0.0
    """Σ X²."""
    reference: float = 0.0
    """Σ A²."""
    product: float = 0.0
    """Σ X·A."""

    @classmethod
    def total(cls, parts: Iterable[Difference]) -> Difference:
        """Of all the parts together, added in their order."""
        total = cls()
        for one in parts:
            total = cls(
                total.tensors + one.tensors,
                total.elements + one.elements,
                total.changed + one.changed,
                total.broken + one.broken,
                max(total.largest, one.largest),
                total.square + one.square,
                total.own + one.own,
                total.reference + one.reference,
                total.product + one.product,
            )
        return total

    @property
    def relative(self) -> float:
        """‖X − A‖ / ‖A‖; infinite where A is zero and X is not."""
        if self.square == 0:
            return 0.0
        return math.sqrt(self.square / self.reference) if self.reference else math.inf

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between X and A, −1 to 1; None where either is zero."""
        length = math.sqrt(self.own) * math.sqrt(self.reference)
        return max(-1.0, min(self.product / length, 1.0)) if length else None

    @property
    def share(self) -> float:
        """Share of the elements that are not equal, 0 to 1."""
        return self.changed / self.elements if self.elements else 0.0

    def numbers(self) -> dict[str, int | float | None]:
        """As a row of the table, and in the data."""
        return {
            "tensors": self.tensors,
            "elements": self.elements,
            "relative norm": self.relative,
            "cosine": self.cosine,
            "max": self.largest,
            "changed": self.share,
        }


def measure(key: str, blocks: Iterator[Block]) -> Difference:
    """How one tensor differs; ``blocks`` holds its elements X and A."""
    from .compare_kernels import DifferenceSums

    sums = DifferenceSums()
    for x, a in blocks:
        sums.add(x, a)
    return Difference(1, sums.elements, sums.changed, sums.broken, sums.largest, *sums.totals())


@dataclass(frozen=True)
class Shared:
    """Which tensors of two models can be compared, from their headers."""

    floats: list[str] = field(default_factory=list)
    """Float in both, of one shape."""
    others: list[str] = field(default_factory=list)
    """Whole numbers or truth values, of one shape and dtype: equal or not."""
    only: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    """Only in the one, only in the other."""
    shapes: list[str] = field(default_factory=list)
    """Of another shape, or float in one of them only."""
    dtypes: dict[tuple[str, str], int] = field(default_factory=dict)
    """Compared, but stored in two dtypes: how many, by these."""

    @classmethod
    def of(cls, model: Model, reference: Model) -> Shared:
        found = cls()
        theirs = set(reference.keys())
        for key in model.keys():
            if key not in theirs:
                found.only[0].append(key)
                continue
            x, a = model.meta(key), reference.meta(key)
            both_float = x.dtype in FLOATS and a.dtype in FLOATS
            if x.shape != a.shape or not (both_float or x.dtype == a.dtype):
                found.shapes.append(f"{key} ({x.dtype} {list(x.shape)}, {a.dtype} {list(a.shape)})")
                continue
            (found.floats if both_float else found.others).append(key)
            if x.dtype != a.dtype:
                found.dtypes[x.dtype, a.dtype] = found.dtypes.get((x.dtype, a.dtype), 0) + 1
        mine = set(model.keys())
        found.only[1].extend(key for key in reference.keys() if key not in mine)
        return found

    def in_words(self, names: Sequence[str]) -> list[str]:
        """What cannot be compared, a line each."""
        lines = [
            f"Only in {name}: {len(keys)} tensors: {words(keys, 5)}"
            for name, keys in zip(names, self.only, strict=True)
            if keys
        ]
        if self.shapes:
            lines.append(f"Of another shape or kind: {len(self.shapes)} tensors: {words(self.shapes, 5)}")
        lines += [
            f"Stored as {x} in {names[0]} and as {a} in {names[1]}: {count} tensors. Rounding counts as change there."
            for (x, a), count in sorted(self.dtypes.items())
        ]
        return lines

    def data(self) -> dict[str, Any]:
        return {
            "only in model": self.only[0],
            "only in reference": self.only[1],
            "other shape or kind": self.shapes,
            "other dtype": [{"model": x, "reference": a, "tensors": n} for (x, a), n in sorted(self.dtypes.items())],
        }


class Diff(Reporter):
    """How a model differs from another: by how much, in which blocks, in which tensors.

    For each tensor X of the model and A of the reference: the relative norm ‖X − A‖ / ‖A‖, the cosine of X and A, the
    largest |X − A|, and the share of elements that are not equal. Of several tensors together they are those of all
    their elements.
    """

    name = "diff"
    model: ModelRef = Field(description="The model to look at.")
    reference: ModelRef = Field(description="The model to compare it with; norms are relative to this one's.")
    by: By = Field("block", description="What a row of the table is: a part, a block, a role of a part, or a tensor.")

    def report(self, survey: Survey) -> Report:
        names = name_models({"model": self.model, "reference": self.reference})
        x, a = names["model"], names["reference"]
        shared = Shared.of(self.model, self.reference)
        if not shared.floats:
            raise DaremergeError(
                f"{x} and {a} share no float tensor of one name and shape, so there is nothing to compare",
                hint=f"{x} has {words(self.model.keys(), 2)}; {a} has {words(self.reference.keys(), 2)}.",
            )
        layout = survey.layout(self.model)
        models = [self.model, self.reference]
        measured = survey.each(shared.floats, models, measure, what="comparing")
        other = [
            key
            for key, same in zip(
                shared.others,
                survey.each(shared.others, models, partial(_equal, *models), what="comparing"),
                strict=True,
            )
            if not same
        ]
        atlas = Atlas(layout, shared.floats)
        found = _Found(layout, atlas, dict(zip(shared.floats, measured, strict=True)), shared, other)
        return Report(
            f"{x} against {a}",
            found.text(x, a),
            found.rows(self.by),
            {"models": names, **found.data()},
            {
                f"Relative norm of {x} − {a} by block and role": found.draw_cells,
                f"Relative norm of {x} − {a} over depth": found.draw_depth,
            },
        )


def _equal(model: Model, reference: Model, key: str, blocks: Iterator[Block]) -> bool:
    """Whether a tensor of whole numbers is the same in both. It is read as stored: floats cannot hold every one."""
    import torch

    return torch.equal(model.read(key), reference.read(key))


@dataclass(frozen=True)
class _Found:
    """All that was measured, and the ways to show it."""

    layout: Layout
    atlas: Atlas
    tensors: Mapping[str, Difference]
    shared: Shared
    differing: Sequence[str]
    """Tensors that are not float and not equal."""

    def sums(self, groups: Mapping[Group, Iterable[str]]) -> dict[Group, Difference]:
        return {group: Difference.total(self.tensors[key] for key in keys) for group, keys in groups.items()}

    @property
    def whole(self) -> Difference:
        return Difference.total(self.tensors.values())

    def text(self, x: str, a: str) -> str:
        whole = self.whole
        notes = self.shared.in_words((x, a))
        if self.differing:
            notes.append(f"Not float, and not equal: {len(self.differing)} tensors: {words(self.differing, 5)}")
        if whole.broken:
            notes.append(f"NaN or infinite in either: {whole.broken:,} elements, left out of norms and cosines.")
        compared = f"{whole.tensors} float tensors with {whole.elements:,} elements are compared ({self.layout.arch})."
        if not whole.changed and not self.differing:
            same = "every tensor is" if not notes else "every tensor that both have is"
            return "\n\n".join([f"No difference: {same} equal, element by element.", compared, "\n".join(notes)])
        cosine = "" if whole.cosine is None else f", the cosine {whole.cosine:.6g}"
        first = (
            f"The whole differs by a relative norm of {whole.relative:.4g}{cosine}, the largest change is "
            f"{whole.largest:.4g}, and {100 * whole.share:.4g} % of the elements are not equal."
        )
        parts = "\n".join(
            f"  {group.part}: {one.relative:.4g}, {100 * one.share:.4g} % changed"
            for group, one in self.sums(self.atlas.groups("part")).items()
        )
        paragraphs = [first, f"Relative norm by part:\n{parts}", self._most_changed(), compared, "\n".join(notes)]
        return "\n\n".join(paragraphs)

    def _most_changed(self) -> str:
        ranked = sorted(self.tensors, key=lambda key: -self.tensors[key].relative)
        lines = [f"  {self.tensors[key].relative:.4g}  {key}" for key in ranked[:TOP] if self.tensors[key].changed]
        return "\n".join(["Most changed tensors, by relative norm:", *lines])

    def rows(self, by: By) -> list[dict[str, str | int | float | None]]:
        return [group.row() | one.numbers() for group, one in self.sums(self.atlas.groups(by)).items()]

    def data(self) -> dict[str, Any]:
        tables = {f"{by}s": self.rows(by) for by in ("part", "block", "role", "tensor")}
        return {
            "architecture": self.layout.arch,
            "whole": self.whole.numbers() | {"not finite": self.whole.broken},
            **tables,
            **self.shared.data(),
            "not float and not equal": list(self.differing),
        }

    def draw_cells(self) -> Any:
        from .charts import heat_maps

        cells = self.sums(self.atlas.cells())
        found = self.atlas.laid_out({cell: one.relative for cell, one in cells.items()})
        return heat_maps(found, "‖X − A‖ / ‖A‖ (grey: equal)", log=True)

    def draw_depth(self) -> Any:
        from .curves import curves

        blocks = self.sums(self.atlas.groups("block"))
        series = {"": {block: one.relative for block, one in blocks.items()}}
        return curves(self.atlas, series, label="‖X − A‖ / ‖A‖", log=True)
