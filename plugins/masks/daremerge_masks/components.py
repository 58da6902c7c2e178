"""Maskers: which elements of a model's float tensors a merge or an edit may change. The maths is in :mod:`.kernels`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import and_, or_, xor
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from daremerge_core import MaskEditor, Masker, MaskerRef, MaskRef, ModelRef, Place, Site
from daremerge_core.select import select

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from daremerge_core.loops import Loop
    from daremerge_core.measuring import Measured
    from daremerge_core.site import TensorSite
    from daremerge_core.tally import Tally

BASE = Field(description="The model that the others were tuned from.")
SEED = Field(0, ge=0, description="Chooses the random mask; the same seed gives the same bytes.")


# --- from names and shapes alone ---------------------------------------------------------------------


class Everything(Masker):
    """Select every element."""

    name = "true"

    def mask(self, site: Site) -> Tensor:
        from . import kernels

        return kernels.constant(True, site.size, site.device)


class Nothing(Masker):
    """Select no element."""

    name = "false"

    def mask(self, site: Site) -> Tensor:
        from . import kernels

        return kernels.constant(False, site.size, site.device)


class Random(Masker):
    """Select each element at random with a given probability.

    The share selected is the probability, give or take √(p(1 − p)/n) of n elements. With one seed, the mask of a lower
    probability lies within that of a higher one.
    """

    name = "random"
    probability: float = Field(0.5, ge=0, le=1, description="Probability that an element is selected.")
    seed: int = SEED

    def mask(self, site: Site) -> Tensor:
        return site.draw(self.seed, self.name).keep(self.probability)


class Gaussian(Masker):
    """Select elements at random where a draw x ~ N(mean, std) exceeds the threshold.

    No x is drawn: an element is selected with probability P(x > threshold) = ½ erfc((threshold − mean)/(std √2)). That
    is the same distribution, sooner, and the same on every device. A std of 0 selects all where mean > threshold, else
    nothing.
    """

    name = "gaussian"
    mean: float = Field(0.0, description="Mean of the draws.")
    std: float = Field(1.0, ge=0, description="Standard deviation of the draws.")
    threshold: float = Field(0.0, description="Draws above this select.")
    seed: int = SEED

    def probability(self) -> float:
        """P(x > threshold)."""
        distance = self.threshold - self.mean
        return 0.5 * math.erfc(distance / self.std / math.sqrt(2.0)) if self.std else float(distance < 0)

    def mask(self, site: Site) -> Tensor:
        return site.draw(self.seed, self.name).keep(self.probability())


class Partition(Masker):
    """Select one of n disjoint random sets that together are everything.

    Each element belongs to one of the n sets, each as likely as the other; masks of one seed and count are one
    partition. Four of them are the Quad Masker of ComfyUI-DareMerge.
    """

    name = "partition"
    count: int = Field(4, ge=2, description="n: how many sets there are.")
    index: int = Field(1, ge=1, description="Which of the sets to select, from 1 to n.")
    seed: int = SEED

    @model_validator(mode="after")
    def _index_is_in_range(self) -> Self:
        if self.index > self.count:
            raise ValueError(f"index is {self.index}, but there are {self.count} sets: give 1 to {self.count}")
        return self

    def mask(self, site: Site) -> Tensor:
        draw = site.draw(self.seed, self.name)  # the masks of one stream are nested: each set is a ring between two
        return draw.keep(self.index / self.count) & ~draw.keep((self.index - 1) / self.count)


class Pattern(Masker):
    """Select by position: stripes, a checkerboard, a triangle or a half of each weight matrix.

    A tensor is a matrix of its first dimension by all others, as (out, rest) of a convolution; a vector is a column,
    a scalar 1 × 1. Stripes and squares begin with a selected one. A triangle halves any rectangle along its diagonal:
    ``upper-triangle`` selects cells whose centre lies on the diagonal or above, ``lower-triangle`` the others.
    ``top`` and ``left`` are the first half, with the middle row or column of an odd number; ``bottom`` and ``right``
    are the others.
    """

    name = "pattern"
    shape: Literal[
        "rows", "columns", "checkerboard", "upper-triangle", "lower-triangle", "top", "bottom", "left", "right"
    ] = Field("checkerboard", description="What is selected of each matrix.")
    size: int = Field(1, ge=1, description="Width of a stripe, or side of a square, in elements.")

    def mask(self, site: Site) -> Tensor:
        from . import kernels

        rows = site.shape[0] if site.shape else 1
        columns = math.prod(site.shape[1:])
        flat = kernels.pattern(self.shape, site.span, rows, columns, self.size, site.device)
        return flat.reshape(site.size)


# --- from the weights --------------------------------------------------------------------------------


class Magnitude(Masker):
    """Select by how far each weight moved from the base: the smallest or largest |model − base|.

    The threshold is the exact quantile, at any size and in bounded memory: of n elements, ``below`` selects the
    k = round(threshold · n) smallest, halves rounded to even, and whatever ties with the k-th; ``above`` selects all
    others. So 0.8 with ``below`` selects at least 80 %, and 0 nothing.

    Magnitudes are compared in float32, float64 ones after rounding. NaN counts as larger than infinity. ``block``
    and ``model`` take one quantile over the tensors of a block (those in no block: of a part) or of the whole model.

    To protect what a fine-tune learned, select ``below`` with the fine-tune as model: what is merged under this mask
    leaves its strongest changes alone.
    """

    name = "magnitude"
    base: ModelRef = BASE
    threshold: float = Field(0.8, ge=0, le=1, description="Quantile: the share of elements that lies below.")
    select: Literal["above", "below"] = Field("below", description="Select the largest or the smallest changes.")
    over: Literal["tensor", "block", "model"] = Field("tensor", description="What one quantile is taken over.")
    threshold_type: Literal["quantile", "median"] = Field(
        "quantile",
        description="For old workflows, which estimated the quantile in one of two ways: both are now exact.",
    )

    def passes(self) -> int:
        return 2

    def scope(self) -> Literal["tensor", "block", "model"]:
        return self.over

    def measure(self, site: Site) -> Tensor:
        from daremerge_core import quantile

        delta = site.model - site["base"]
        return quantile.fine_counts(delta, site.measured[0]) if site.measured else quantile.coarse_counts(delta)

    def tally(self, site: TensorSite) -> Tally:
        from daremerge_core.tally import Magnitudes, Tally

        return Tally("model", "base", (Magnitudes.after(site.measured),))

    def conclude(self, place: Place, total: Measured, measured: tuple[Measured, ...]) -> Measured:
        from daremerge_core import ranks

        if measured:
            return ranks.kth_smallest(total, measured[0])
        return ranks.bin_of_rank(total, round(self.threshold * int(total.sum())))

    def mask(self, site: Site) -> Tensor:
        from daremerge_core import quantile

        above = quantile.reaching(site.model - site["base"], int(site.measured[1]) + 1)
        return above if self.select == "above" else ~above

    def loop(self, site: TensorSite) -> Loop:
        from daremerge_core.reach import Reach

        threshold = int(site.measured[1][0]) + 1 if site.measured else 0
        return Reach("model", "base", threshold, select=self.select == "above")


class SignAgreement(Masker):
    """Select elements that several models moved from the base in the same direction.

    An element is selected where at least so many of the deltas (model − base) have the same sign; a delta of zero has
    none. ``model`` is the first of the models, and gives the tensors.
    """

    name = "sign-agreement"
    others: list[ModelRef] = Field(min_length=1, description="The other models.")
    base: ModelRef = BASE
    at_least: int | None = Field(None, ge=1, description="How many models must agree; all of them by default.")

    @model_validator(mode="after")
    def _so_many_can_agree(self) -> Self:
        count = 1 + len(self.others)
        if self.at_least is not None and self.at_least > count:
            raise ValueError(f"at_least is {self.at_least}, but there are {count} models")
        return self

    def mask(self, site: Site) -> Tensor:
        from . import kernels

        deltas = [tensor - site["base"] for tensor in (site.model, *site["others"])]
        return kernels.same_sign(deltas, self.at_least or len(deltas))


class Overlap(Masker):
    """Select what matters to the model among others: its change is large against the sum of theirs (TALL mask).

    m = |τ| ≥ λ |Στ − τ| with τ = model − base and the sum over the model and all others. A larger λ selects less. What
    none of the models moved is selected, as in the paper, whose λ is the best of 0.2 to 0.6 on validation data.

    Source: Wang et al., "Localizing Task Information for Improved Model Merging and Compression", arXiv 2405.07813.
    """

    name = "overlap"
    others: list[ModelRef] = Field(min_length=1, description="The other models.")
    base: ModelRef = BASE
    strength: float = Field(0.4, ge=0, alias="lambda", description="λ: how large a change must be against the others'.")

    def mask(self, site: Site) -> Tensor:
        from . import kernels

        base = site["base"]
        return kernels.tall_mask(site.model - base, [other - base for other in site["others"]], self.strength)


# --- from other masks --------------------------------------------------------------------------------


def _without(mask: Tensor, other: Tensor) -> Tensor:
    return mask & ~other


class _SetOperation(MaskEditor):
    fold: ClassVar[Callable[[Tensor, Tensor], Tensor]]
    """What two masks make; of more, from the left."""

    masks: list[MaskRef] = Field(min_length=2, description="The masks, two or more.")

    def mask(self, site: Site) -> Tensor:
        selected: Tensor = reduce(type(self).fold, site["masks"])
        return selected


class Union(_SetOperation):
    """Select what any of the masks selects."""

    name = "union"
    fold = or_


class Intersect(_SetOperation):
    """Select what all of the masks select."""

    name = "intersect"
    fold = and_


class Difference(_SetOperation):
    """Select what the first mask selects and none of the others does."""

    name = "difference"
    fold = _without


class Xor(_SetOperation):
    """Select what an odd number of the masks select: of two masks, their union without their intersection."""

    name = "xor"
    fold = xor


class Invert(MaskEditor):
    """Select what the mask does not, of the tensors that it knows; of all the model's with ``model``."""

    name = "invert"
    of: MaskRef = Field(alias="mask", description="The mask.")

    def mask(self, site: Site) -> Tensor:
        given: Tensor = site["of"]
        return ~given


class Edit(MaskEditor):
    """Set some layers of a mask to what another masker selects; the others stay as they are.

    ``to`` is any masker that needs neither weights nor other masks: true, false, random, gaussian, partition, pattern.
    ``include`` must match tensors of the mask, or of the model where one is given.
    """

    name = "edit"
    of: MaskRef = Field(alias="mask", description="The mask to edit.")
    include: str = Field(description="The layers to set, as a selector such as '*.attn2.*'.")
    to: MaskerRef = Field("true", description="What they are set to, such as false or {op: random, probability: 0.3}.")

    @field_validator("to", mode="before")
    @classmethod
    def _yaml_reads_true_as_a_bool(cls, to: Any) -> Any:
        return str(to).lower() if isinstance(to, bool) else to

    @field_validator("to")
    @classmethod
    def _needs_no_weights(cls, to: Any) -> Any:
        if to.passes():
            raise ValueError(f"{to.name} measures weights first, so it cannot be used here: combine masks instead")
        return to

    def for_keys(self, keys: Sequence[str]) -> Callable[[Site], Tensor]:
        chosen = select(keys, self.include, what="include")
        edited, within = self.to.for_keys(chosen), frozenset(chosen)
        return lambda site: edited(site) if site.place.key in within else site["of"]
