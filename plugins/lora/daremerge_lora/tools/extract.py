"""A LoRA from the difference of two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from daremerge_core import LoraTool, Model, ModelRef, Span
from daremerge_core.decisions import detect_layout
from daremerge_core.dtypes import FLOATS
from daremerge_core.select import select

from .. import provenance
from ..factors.modules import Decomposition, DenseModule, Extra, FullModule, Keep
from ..formats import Writable
from ..made import MadeLora, NewModule
from ..modules import Target
from ..targets import architecture_in, module_names
from .sources import is_convolution

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

__all__ = ["Extract"]


class Extract(LoraTool):
    """Make a LoRA of what a tuned model changed over its base.

    The difference of each layer is cut to the best approximation of a rank (Eckart and Young, 1936): the squared error
    is the sum of the squares of the singular values that are dropped. ``energy`` keeps, of each layer by itself, as few
    terms as hold that share of Σ s²; ``rank`` is then the most. Layers that are the same in both get no module.

    ``exact`` decomposes by the eigenvectors of ΔW ΔWᵀ or ΔWᵀ ΔW, in float64. ``randomised`` (Halko, Martinsson and
    Tropp, arXiv 0909.4061) looks at the range of ΔW on rank + 16 random vectors after two power iterations; it is many
    times faster, and its squared error about a percent above the best for spectra that fall slowly, less for others.

    Linear layers and 1 x 1 convolutions have a module by default, larger convolutions with a ``conv_rank``. What no
    module can hold, norms, biases, embeddings and the autoencoder, is not in the LoRA; ``full`` writes the differences
    themselves, of weights and biases, with nothing lost but the rounding to the dtype.

    Eigenvectors come from LAPACK: other libraries or processors may round the last bits differently.
    """

    name = "extract"
    tuned: ModelRef = Field(description="The model whose changes are wanted.")
    base: ModelRef = Field(description="The model it was tuned from.")
    rank: int = Field(32, ge=1, description="The rank, or the most there may be where an energy is given.")
    conv_rank: int = Field(0, ge=0, description="The same for convolutions larger than 1 x 1; 0 leaves them out.")
    energy: float | None = Field(
        None, gt=0, le=1, description="Keep this share of each layer's squared norm, such as 0.95."
    )
    full: bool = Field(False, description="Write whole differences instead of factors, for all layers.")
    min_diff: float = Field(0.0, ge=0, description="Leave out layers where no element changes by more than this.")
    clamp_quantile: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Cut entries of factors down to this quantile of their sizes; kohya takes 0.99.",
    )
    decomposition: Literal["exact", "randomised"] = Field(
        "exact", description="The best approximation, or one nearly as good in a fraction of the time."
    )
    oversampling: int = Field(16, ge=1, description="Of randomised: random vectors beyond the rank.")
    power_iterations: int = Field(2, ge=0, description="Of randomised: each brings the result nearer to exact.")
    seed: int = Field(0, ge=0, description="Of randomised: chooses the vectors; the same seed gives the same bytes.")
    parts: list[Literal["unet", "clip", "lm"]] | None = Field(
        None, description="Limit to these parts of the models: unet, clip, lm."
    )
    include: str | None = Field(None, description="Only tensors matching this selector, e.g. '*.attn2.*'.")
    exclude: str | None = Field(None, description="Leave out tensors matching this selector.")
    format: Literal["kohya", "diffusers", "comfy"] = Field("kohya", description="How the LoRA names its modules.")

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.full and self.format == "diffusers":
            raise ValueError("the format diffusers has no whole differences: choose kohya or comfy")
        return self

    def lora(self) -> Model:
        tuned, base = architecture_in(self.tuned), architecture_in(self.base)
        if tuned != base:
            titles = [one.title if one else "of no known architecture" for one in (tuned, base)]
            raise ValueError(f"tuned is {titles[0]} and base is {titles[1]}: they must be of one architecture")
        layout = detect_layout(self.tuned)
        names: Writable = self.format
        chosen = self._chosen({key: layout.place(key).part for key in self.tuned.keys()})
        modules = [
            module
            for name, target in module_names(self.tuned, names)
            if target.key in chosen and (module := self._module(name, target)) is not None
        ]
        if not modules:
            raise ValueError("nothing is selected that a LoRA could change")

        def metadata(made: Sequence[NewModule]) -> Mapping[str, str]:
            return provenance.of_extraction(tuned.name if tuned else "", made)

        return MadeLora(modules, format=names, dtype=self._dtype(), metadata=metadata)

    @cached_property
    def _base_keys(self) -> frozenset[str]:
        return frozenset(self.base.keys())

    def _chosen(self, parts: Mapping[str, str]) -> frozenset[str]:
        """The tensors that ``parts``, ``include`` and ``exclude`` select."""
        keys = list(parts)
        found = {key for key in keys if self.parts is None or parts[key] in self.parts}
        if self.include is not None:
            found &= set(select(keys, self.include, what="include"))
        if self.exclude is not None:
            found -= set(select(keys, self.exclude, what="exclude"))
        return frozenset(found)

    def _module(self, name: str, target: Target) -> NewModule | None:
        """The module of a layer; None where it has none."""
        shape = self._shape(target)
        delta = partial(self._delta, target)
        if self.full:
            return FullModule(name, shape, delta, min_diff=self.min_diff, extras=self._bias(target))
        rank = self.conv_rank if is_convolution(shape) else self.rank
        if rank == 0:
            return None
        how = Decomposition(self.decomposition, self.oversampling, self.power_iterations, self.seed)
        return DenseModule(
            name,
            shape,
            delta,
            keep=Keep(rank, self.energy),
            decomposition=how,
            min_diff=self.min_diff,
            clamp_quantile=self.clamp_quantile,
        )

    def _shape(self, target: Target) -> tuple[int, ...]:
        """The shape of a module's change. Raises ``ValueError`` for a layer that differs in more than its numbers."""
        if target.key not in self.base.keys():
            raise ValueError(
                f"{target.key} is not in base: what it changed cannot be told. Leave it out with --exclude"
            )
        mine, theirs = self.tuned.meta(target.key), self.base.meta(target.key)
        if mine.shape != theirs.shape:
            raise ValueError(f"{target.key} is {list(mine.shape)} in tuned and {list(theirs.shape)} in base")
        for label, meta in (("tuned", mine), ("base", theirs)):
            if meta.dtype not in FLOATS:
                raise ValueError(
                    f"{target.key} is {meta.dtype} in {label}: a quantised model has no differences to take"
                )
        rows = target.rows or (0, mine.shape[0])
        shape = (rows[1] - rows[0], *mine.shape[1:])
        return shape[::-1] if target.transposed else shape

    def _delta(self, target: Target) -> Tensor:
        """What a module's layer changed, as a matrix, in the module's orientation, in float32."""
        shape = self.tuned.meta(target.key).shape
        delta = self._difference(target.key, target.rows).reshape(-1, *shape[1:]).flatten(1)
        if target.swapped:
            delta = delta.roll(len(delta) // 2, 0)
        return delta.T.contiguous() if target.transposed else delta

    def _bias(self, target: Target) -> list[Extra]:
        """The change of the bias beside a weight, if both models have one."""
        if target.bias == target.key or target.bias not in self._base_keys & frozenset(self.tuned.keys()):
            return []
        rows = target.rows or (0, self.tuned.meta(target.bias).shape[0])

        def compute() -> Tensor:
            found = self._difference(target.bias, rows)
            return found.roll(len(found) // 2, 0) if target.swapped else found

        return [Extra("diff_b", (rows[1] - rows[0],), compute)]

    def _difference(self, key: str, rows: tuple[int, int] | None) -> Tensor:
        """tuned − base of some rows of a tensor, 1-D, in float32."""
        meta = self.tuned.meta(key)
        width = meta.numel // meta.shape[0]
        span = meta.whole if rows is None else Span(rows[0] * width, rows[1] * width)
        tuned: Tensor = self.tuned.read(key, span).float()
        base: Tensor = self.base.read(key, span).float()
        return tuned - base

    def _dtype(self) -> str:
        """That of the tuned model's tensors, if it is one of 16 or 32 bits."""
        dtypes = [dtype for key in self.tuned.keys() if (dtype := self.tuned.meta(key).dtype) in FLOATS]
        most = max(sorted(set(dtypes)), key=dtypes.count)
        return most if most in ("F32", "F16", "BF16") else "F16"
