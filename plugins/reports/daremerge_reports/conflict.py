"""``report.conflict``: how the changes that several models make to one base get in each other's way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pydantic import Field

from daremerge_core import DaremergeError, ModelRef, Report, Reporter
from daremerge_core.dtypes import FLOATS

from .adding import added
from .blocks import Atlas, By, Group
from .names import name_models
from .words import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from daremerge_core import Layout, Model, Survey
    from daremerge_core.survey import Block

__all__ = ["Conflict", "Tension"]

WORST = 5
"""Blocks named in the text."""


@dataclass(frozen=True)
class Tension:
    """What the deltas τᵢ = θᵢ − θ₀ of n models have to do with each other over some elements: sums, which add up."""

    tensors: int
    elements: int
    moved: int
    """Elements that any model changes."""
    shared: int
    """Elements that two models change, or more."""
    opposed: int
    """Elements that one model raises and another lowers."""
    movement: float
    """Σ |τᵢ| over all elements and models."""
    opposed_movement: float
    """The same over the opposed elements."""
    net: float
    """Σ |Σᵢ τᵢ| over all elements: what is left of the movement when the deltas are added."""
    broken: int
    """Elements that are NaN or infinite in any model or in the base: left out of all else but ``elements``."""
    products: tuple[tuple[float, ...], ...]
    """Σ τᵢ·τⱼ, by i and j."""
    pairs: tuple[tuple[int, ...], ...]
    """Elements that models i and j both change."""
    pairs_opposed: tuple[tuple[int, ...], ...]
    """Elements that models i and j change in opposite directions."""

    @classmethod
    def total(cls, parts: Iterable[Tension]) -> Tension:
        """Of all the parts together, added in their order; there must be one at least."""
        return added(parts)

    @property
    def conflict(self) -> float:
        """Sign conflict: the share of moved elements that are opposed, 0 to 1."""
        return self.opposed / self.moved if self.moved else 0.0

    @property
    def weighted(self) -> float:
        """Sign conflict by magnitude: the share of the movement that lies in opposed elements, 0 to 1."""
        return self.opposed_movement / self.movement if self.movement else 0.0

    @property
    def cancelled(self) -> float:
        """The share of the movement that adding the deltas cancels, 0 to 1: 1 − Σ|Σᵢ τᵢ| / Σ|τᵢ|."""
        return max(1 - self.net / self.movement, 0.0) if self.movement else 0.0

    @property
    def overlap(self) -> float:
        """The share of moved elements that two models move, or more, 0 to 1."""
        return self.shared / self.moved if self.moved else 0.0

    def norm(self, i: int) -> float:
        """‖τᵢ‖."""
        return math.sqrt(self.products[i][i])

    def cosine(self, i: int, j: int) -> float | None:
        """Cosine of the angle between two deltas, −1 to 1; None where one is zero."""
        length = self.norm(i) * self.norm(j)
        return max(-1.0, min(self.products[i][j] / length, 1.0)) if length else None

    def pair_conflict(self, i: int, j: int) -> float:
        """The share of the elements that models i and j both change which they change in opposite directions."""
        both = self.pairs[i][j]
        return self.pairs_opposed[i][j] / both if both else 0.0

    def mean_cosine(self) -> float | None:
        """Mean cosine of all pairs that have one."""
        found = [c for i, j in combinations(range(len(self.products)), 2) if (c := self.cosine(i, j)) is not None]
        return math.fsum(found) / len(found) if found else None

    def cosines(self) -> list[list[float | None]]:
        several = range(len(self.products))
        return [[self.cosine(i, j) for j in several] for i in several]

    def numbers(self, names: Sequence[str]) -> dict[str, int | float | None]:
        """As a row of the table."""
        return {
            "tensors": self.tensors,
            "elements": self.elements,
            "sign conflict": self.conflict,
            "by magnitude": self.weighted,
            "cancelled": self.cancelled,
            "overlap": self.overlap,
            "mean cosine": self.mean_cosine(),
        } | {f"‖Δ‖ {name}": self.norm(i) for i, name in enumerate(names)}


def measure(key: str, blocks: Iterator[Block]) -> Tension:
    """The deltas' tension over one tensor; ``blocks`` holds its elements in the base, then in each model."""
    from .compare_kernels import TensionSums

    sums: TensionSums | None = None
    for base, *models in blocks:
        sums = sums or TensionSums(len(models))
        sums.add(base, models)
    assert sums is not None  # a tensor without elements has one empty block
    return Tension(1, *sums.totals())


class Conflict(Reporter):
    """How the changes that models make to one base agree and conflict: read it before merging them.

    For the deltas τᵢ = θᵢ − θ₀ of each model from the base: where their signs conflict, how much they overlap, the
    cosines between them, and their norms; in all, and by block and role. Elements count as moved where they are not
    equal, as stored; a whole fine-tune moves nearly all of them.

    Sign conflict is what TIES (arXiv 2306.01708) elects signs against.
    """

    name = "conflict"
    origin: ModelRef = Field(alias="base", description="The model that the others were tuned from.")
    models: list[ModelRef] = Field(min_length=2, description="The models to be merged over it, two or more.")
    by: By = Field("block", description="What a row of the table is: a part, a block, a role of a part, or a tensor.")

    def report(self, survey: Survey) -> Report:
        words = {"base": self.origin} | {f"model {at}": model for at, model in enumerate(self.models, start=1)}
        named = name_models(words)
        base, *names = named.values()
        keys, left_out = _comparable(self.origin, self.models)
        if not keys:
            raise DaremergeError(
                f"{base} and {', '.join(names)} share no float tensor of one name and shape",
                hint="A conflict is between models tuned from one base: check that they are of one architecture.",
            )
        layout = survey.layout(self.origin)
        measured = survey.each(keys, [self.origin, *self.models], measure, what="comparing")
        found = _Found(layout, Atlas(layout, keys), dict(zip(keys, measured, strict=True)), names, left_out)
        return Report(
            f"Conflict of {', '.join(names)} over {base}",
            found.text(base),
            found.rows(self.by),
            {"base": base, "models": names, **found.data()},
            {
                "Cosines of the deltas, and sign conflict of each pair": found.draw_matrices,
                "Sign conflict by block and role": found.draw_cells,
                "Norms of the deltas over depth": found.draw_depth,
            },
        )


def _comparable(base: Model, models: Sequence[Model]) -> tuple[list[str], list[str]]:
    """The float tensors that all have in one shape, and the other float tensors of the base or of any model."""
    metas = [{key: model.meta(key) for key in model.keys()} for model in (base, *models)]
    floats = list(dict.fromkeys(key for found in metas for key, meta in found.items() if meta.dtype in FLOATS))
    keys = [
        key
        for key in floats
        if all(
            key in found and found[key].dtype in FLOATS and found[key].shape == metas[0][key].shape for found in metas
        )
    ]
    known = set(keys)
    return keys, [key for key in floats if key not in known]


@dataclass(frozen=True)
class _Found:
    """All that was measured, and the ways to show it."""

    layout: Layout
    atlas: Atlas
    tensors: Mapping[str, Tension]
    names: Sequence[str]
    left_out: Sequence[str]

    def sums(self, groups: Mapping[Group, Iterable[str]]) -> dict[Group, Tension]:
        return {group: Tension.total(self.tensors[key] for key in keys) for group, keys in groups.items()}

    @property
    def whole(self) -> Tension:
        return Tension.total(self.tensors.values())

    def text(self, base: str) -> str:
        whole = self.whole
        norms = "\n".join(f"  {name}: {whole.norm(i):.4g}" for i, name in enumerate(self.names))
        notes = [f"{whole.tensors} float tensors with {whole.elements:,} elements are compared ({self.layout.arch})."]
        if self.left_out:
            notes.append(f"Not in all of the models, or of another shape: {len(self.left_out)} tensors: ")
            notes[-1] += words(self.left_out, 5)
        if whole.broken:
            notes.append(f"NaN or infinite somewhere: {whole.broken:,} elements, left out.")
        notes += [
            f"{name} does not differ from {base} at all." for i, name in enumerate(self.names) if not whole.norm(i)
        ]
        return "\n\n".join(
            [
                self._in_short(),
                f"Norm of each delta, ‖θ − {base}‖:\n{norms}",
                self._pairs(),
                self._where(),
                "\n".join(notes),
            ]
        )

    def _in_short(self) -> str:
        whole = self.whole
        if not whole.moved:
            return "No model changes any element of the base: there is nothing to conflict."
        return (
            f"{100 * whole.moved / max(whole.elements, 1):.4g} % of the elements are moved by a model, and "
            f"{100 * whole.overlap:.4g} % of these by two or more. Signs conflict in {100 * whole.conflict:.4g} % of "
            f"the moved elements, which hold {100 * whole.weighted:.4g} % of the movement. Adding the deltas cancels "
            f"{100 * whole.cancelled:.4g} % of the movement: that much is lost to a plain sum or mean, and is what "
            "electing signs (TIES) or keeping fewer changes of each model (DARE) can act on.\n\n"
            "For comparison: deltas that have nothing to do with each other have cosines near 0, and where "
            f"{'both' if len(self.names) == 2 else f'all {len(self.names)}'} models move, their signs conflict in "
            f"{100 * self._by_chance():.4g} % of the elements."
        )

    def _by_chance(self) -> float:
        """How often n independent signs do not all agree: 1 − 2/2ⁿ."""
        return 1 - 2.0 ** (1 - len(self.names))

    def _pairs(self) -> str:
        whole = self.whole
        pairs = sorted(combinations(range(len(self.names)), 2), key=lambda pair: -whole.pair_conflict(*pair))
        lines = []
        for i, j in pairs:
            cosine = whole.cosine(i, j)
            angle = "no cosine" if cosine is None else f"cosine {cosine:.4g}"
            signs = f"signs conflict in {100 * whole.pair_conflict(i, j):.4g} % of what both move"
            lines.append(f"  {self.names[i]} and {self.names[j]}: {signs}, {angle}")
        return "\n".join(["Pairs, the most conflicting first:", *lines])

    def _where(self) -> str:
        blocks = {group: one for group, one in self.sums(self.atlas.groups("block")).items() if one.opposed}
        worst = sorted(blocks, key=lambda group: -blocks[group].weighted)[:WORST]
        if not worst:
            return "Signs conflict nowhere."
        lines = [
            f"  {group}: {100 * blocks[group].weighted:.4g} % of the movement, {100 * blocks[group].conflict:.4g} % of "
            "the moved elements"
            for group in worst
        ]
        return "\n".join(["Blocks with the most sign conflict, by magnitude:", *lines])

    def rows(self, by: By) -> list[dict[str, str | int | float | None]]:
        return [group.row() | one.numbers(self.names) for group, one in self.sums(self.atlas.groups(by)).items()]

    def data(self) -> dict[str, Any]:
        whole = self.whole
        several = range(len(self.names))
        return {
            "architecture": self.layout.arch,
            "whole": whole.numbers(self.names) | {"not finite": whole.broken},
            "cosines": whole.cosines(),
            "sign conflict of pairs": [
                [whole.pair_conflict(i, j) if i != j else 0.0 for j in several] for i in several
            ],
            **{f"{by}s": self.rows(by) for by in ("part", "role", "tensor")},
            "blocks": [
                group.row() | one.numbers(self.names) | {"cosines": one.cosines()}
                for group, one in self.sums(self.atlas.groups("block")).items()
            ],
            "left out": list(self.left_out),
        }

    def draw_matrices(self) -> Figure:
        from .curves import matrices

        whole = self.whole
        several = range(len(self.names))
        conflicts = [[whole.pair_conflict(i, j) if i != j else None for j in several] for i in several]
        return matrices(self.names, {"cosine": (whole.cosines(), (-1, 1)), "sign conflict": (conflicts, (0, 1))})

    def draw_cells(self) -> Figure:
        from .charts import heat_maps

        cells = self.sums(self.atlas.cells())
        shares = {cell: one.conflict if one.moved else None for cell, one in cells.items()}
        most = max((share for share in shares.values() if share), default=1.0)
        label = "share of moved elements whose signs conflict"
        return heat_maps(self.atlas.laid_out(shares), label, limits=(0, most))

    def draw_depth(self) -> Figure:
        from .curves import curves

        blocks = self.sums(self.atlas.groups("block"))
        series = {name: {block: one.norm(i) for block, one in blocks.items()} for i, name in enumerate(self.names)}
        return curves(self.atlas, series, label="‖θ − base‖", log=True)
