"""The named methods: each is a :class:`~.tasks.Scheme` with the options that its paper has."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from daremerge_core import Shares, Sparsifier, SparsifierRef

from .options import ELECT, NORMALIZE, RESCALE, SEED, density
from .sparsifiers import Breadcrumbs, Della, Magnitude
from .tasks import Election, Normalization, Scheme, SchemeMerge, SparseMerge, installed_sparsifier

__all__ = [
    "BreadcrumbsMerge",
    "BreadcrumbsTies",
    "DareLinear",
    "DareTies",
    "DellaLinear",
    "DellaMerge",
    "TaskArithmetic",
    "Tasks",
    "Ties",
]

WEIGHTED = Field(True, description="Whether the models' weights count in the election.")
GAMMA = Field(0.01, ge=0, le=1, description="γ: share of the largest changes that is dropped as outliers.")
EPSILON = Field(0.1, ge=0, le=1, description="ε: how far the keeping probabilities range over a row, in all.")
SUM: Any = Field("none", description=NORMALIZE.description)
"""``normalize`` of methods that add changes up."""


class TaskArithmetic(SchemeMerge):
    """Add up what each fine-tune changed: base + λ Σ wᵢτᵢ.

    τᵢ = model − base. With ``normalize`` a mean instead of a sum. One model at weight 1 is that model, up to the
    rounding of base + (model − base).

    The baseline to beat: a study of public language-model checkpoints (arXiv 2511.21437) found it the only method that
    helped reliably, and in the digits experiment it beats DARE-TIES.

    Source: Ilharco et al., "Editing Models with Task Arithmetic", arXiv 2212.04089.
    """

    name = "task-arithmetic"
    normalize: Normalization = SUM

    def make_scheme(self) -> Scheme:
        return Scheme(normalize=self.normalize)


class Ties(SparseMerge):
    """Trim, elect, merge: the largest changes of each model, where they agree on a sign (TIES).

    τ̂ᵢ keeps the largest ``density`` of |τᵢ| over the whole model, exactly: two measuring passes in bounded memory. For
    each element γ = sgn Σ wᵢτ̂ᵢ is elected, and those wᵢτ̂ᵢ of that sign are averaged over the weights of the models that
    have it: base + λτ. Where changes cancel out exactly, the base stays. N = 1 is trimming alone, density 0 the base.

    The paper, and PEFT, elect without weights and divide by the count of models: ``weighted`` off, ``normalize`` count;
    with equal weights that is the same. mergekit trims each tensor on its own: ``over`` tensor. A tied count goes to
    the larger mass; PEFT and mergekit give it to +.

    Source: Yadav et al., "TIES-Merging", arXiv 2306.01708.
    """

    name = "ties"
    density: Shares = density(0.2)  # type: ignore[assignment]
    over: Literal["tensor", "block", "model"] = Field(
        "model", description="What the largest changes are sought in: each tensor, each block, or the whole model."
    )
    elect: Election = ELECT
    weighted: bool = WEIGHTED
    normalize: Normalization = NORMALIZE

    def make_scheme(self) -> Scheme:
        return Scheme((Magnitude(over=self.over),), self.elect, self.weighted, self.normalize)


class _Dare(SparseMerge):
    density: Shares = density(0.1)  # type: ignore[assignment]
    rescale: bool = RESCALE
    seed: int = SEED

    def _dare(self) -> Sparsifier:
        return installed_sparsifier("dare", rescale=self.rescale, seed=self.seed)


class DareLinear(_Dare):
    """Keep a random share of each model's changes, rescaled, and add them up: base + λ Σ wᵢ dare(τᵢ).

    Each element of each task vector is kept with probability d = ``density`` and divided by d, so the expectation is
    task arithmetic and every model has a mask of its own. Works while changes are small: up to about 0.002 a weight,
    9 of 10 can go; near 0.03 DARE fails, and the plan warns. Density 1 is task arithmetic, 0 the base.

    Source: Yu et al., "Language Models are Super Mario", arXiv 2311.03099.
    """

    name = "dare-linear"
    normalize: Normalization = SUM

    def make_scheme(self) -> Scheme:
        return Scheme((self._dare(),), "none", True, self.normalize)


class DareTies(_Dare):
    """Keep a random share of each model's changes, rescaled, where they agree on a sign (DARE, then TIES's election).

    dare(τᵢ) with density d, then as in ``ties``: elect a sign for each element and average the changes that have it.
    At low density few elements are kept by more than one model, so most of what is kept is kept whole: mean and sum
    (``normalize`` none, mergekit's default) differ little. ``trim`` keeps only the largest changes of what is left,
    over the whole model, as the paper's code does.

    Source: Yu et al., "Language Models are Super Mario", arXiv 2311.03099, with arXiv 2306.01708.
    """

    name = "dare-ties"
    trim: float | None = Field(
        None, gt=0, le=1, description="Keep only this share of the elements, the largest after dropping."
    )
    elect: Election = ELECT
    weighted: bool = WEIGHTED
    normalize: Normalization = NORMALIZE

    def make_scheme(self) -> Scheme:
        trim = () if self.trim is None else (Magnitude(density=self.trim, over="model"),)
        return Scheme((self._dare(), *trim), self.elect, self.weighted, self.normalize)


class _DellaBase(SparseMerge):
    density: Shares = density(0.5)  # type: ignore[assignment]
    epsilon: float = EPSILON
    rescale: bool = RESCALE
    seed: int = SEED

    def _della(self) -> Sparsifier:
        return Della(epsilon=self.epsilon, rescale=self.rescale, seed=self.seed, density=1.0)


class DellaMerge(_DellaBase):
    """Keep changes at random, large ones more likely, where they agree on a sign (DELLA).

    In each row, the element of rank r from the smallest of n is kept with probability d − ε/2 + ε r/(n − 1) and divided
    by it; then election and mean as in ``ties``. ε = 0 is DARE-TIES. A row is a weight matrix's row, (out, rest) of a
    convolution, and the whole of a vector.

    Source: Deep et al., "DELLA-Merging", arXiv 2406.11617. mergekit's epsilon is half of ours.
    """

    name = "della"
    elect: Election = ELECT
    weighted: bool = WEIGHTED
    normalize: Normalization = NORMALIZE

    def make_scheme(self) -> Scheme:
        return Scheme((self._della(),), self.elect, self.weighted, self.normalize)


class DellaLinear(_DellaBase):
    """Keep changes at random, large ones more likely, and add them up (DELLA without election).

    Source: Deep et al., "DELLA-Merging", arXiv 2406.11617.
    """

    name = "della-linear"
    normalize: Normalization = SUM

    def make_scheme(self) -> Scheme:
        return Scheme((self._della(),), "none", True, self.normalize)


class _Breadcrumbs(SparseMerge):
    density: Shares = density(0.9)  # type: ignore[assignment]
    gamma: float = GAMMA

    def _crumbs(self) -> Sparsifier:
        return Breadcrumbs(gamma=self.gamma)


class BreadcrumbsMerge(_Breadcrumbs):
    """Leave out each tensor's largest changes, as outliers, and its smallest; add up the rest (Breadcrumbs).

    Of each task vector's tensor the γ share with the largest |τ| is dropped, and the ``density`` share next in size
    kept: base + λ Σ wᵢτ̂ᵢ.

    Source: Davari and Belilovsky, "Model Breadcrumbs", arXiv 2312.06795.
    """

    name = "breadcrumbs"
    normalize: Normalization = SUM

    def make_scheme(self) -> Scheme:
        return Scheme((self._crumbs(),), "none", True, self.normalize)


class BreadcrumbsTies(_Breadcrumbs):
    """Leave out each tensor's largest and smallest changes; of the rest, those that agree on a sign.

    Breadcrumbs, then the election and the mean of ``ties``.

    Source: arXiv 2312.06795 with arXiv 2306.01708.
    """

    name = "breadcrumbs-ties"
    elect: Election = ELECT
    weighted: bool = WEIGHTED
    normalize: Normalization = NORMALIZE

    def make_scheme(self) -> Scheme:
        return Scheme((self._crumbs(),), self.elect, self.weighted, self.normalize)


class Tasks(SparseMerge):
    """Any combination: base + λ · combine(sparsify(τᵢ), weights), of which the named methods are presets.

    ``sparsify`` is any installed sparsifier (magnitude, dare, della, breadcrumbs), with its options in a recipe:
    ``sparsify: {op: magnitude, over: model}``; its density is the merge's. ``then`` thins the result out once more.
    """

    name = "tasks"
    density: Shares = density(1.0)  # type: ignore[assignment]
    sparsify: SparsifierRef = Field("magnitude", description="Which changes of each model are kept, up to the density.")
    then: SparsifierRef | None = Field(None, description="A second sparsifier, after the first; with its own density.")
    elect: Election = Field("none", description=ELECT.description)
    weighted: bool = WEIGHTED
    normalize: Normalization = SUM

    def make_scheme(self) -> Scheme:
        stages = (self.sparsify,) if self.then is None else (self.sparsify, self.then)
        return Scheme(stages, self.elect, self.weighted, self.normalize)
