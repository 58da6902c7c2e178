"""Several LoRAs as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from daremerge_core import LoraRef, LoraTool, Model, Span, WeightedBy

from .. import provenance
from ..factors.modules import Decomposition, DenseModule, FullModule
from ..formats import LoraFile, Writable
from ..made import MadeLora, NewModule
from ..targets import Architecture, architecture_of
from .sources import (
    Ranks,
    Source,
    bias_sum,
    dense_sum,
    format_of,
    in_format,
    opened,
    reduced,
    refuse_unknown,
    stored_dtype,
)

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

__all__ = ["Merge"]

Layer = tuple[object, ...]
"""What a module changes: the same for all names that a layer has."""


class Merge(LoraTool):
    """Several LoRAs as one, which does to a model what all of them would together.

    ``sum`` is Σ weight · ΔW by concatenation of the factors: exact but for rounding, at a rank that is the sum of the
    ranks. A ``rank`` or an ``energy`` then cuts each module to the best approximation of that rank. The weights are
    part of the factors and alpha is the rank, so the merge is used at strength 1.

    ``ties`` (arXiv 2306.01708) keeps the largest changes, ``density`` of each LoRA's elements in each layer; then the
    sign that wins the sum is elected for each element, and the mean of those that have it is taken. ``dare`` (arXiv
    2311.03099) keeps a random share and divides by it; the changes are added up. ``dare-ties`` keeps a random share and
    then elects. All three compute the whole change of each layer, which is no longer of low rank, and cut it to
    ``rank``: what is lost so is considerable for ``dare`` at low density, and shown in the plugin's README.

    LoRAs of different ranks, alphas and formats mix. LoHa and LoKr need a rank. A DoRA cannot be merged: what it does
    depends on the model, and a sum of DoRAs is none; put it into the model, and extract.
    """

    name = "merge"
    loras: Annotated[list[LoraRef], WeightedBy("weights")] = Field(
        min_length=1, description="The LoRAs; FILE:0.8 weighs one by 0.8."
    )
    weights: list[float] | None = Field(None, description="A weight for each LoRA; 1 by default.")
    method: Literal["sum", "ties", "dare", "dare-ties"] = Field(
        "sum", description="How changes are combined: added up, by TIES, by DARE, or by DARE and then TIES's election."
    )
    rank: int | None = Field(None, ge=1, description="Cut each module to this rank; needed by all methods but sum.")
    conv_rank: int | None = Field(
        None, ge=1, description="The same for convolutions larger than 1 x 1; that of the others by default."
    )
    energy: float | None = Field(
        None, gt=0, le=1, description="Keep this share of each module's squared norm, at most at --rank."
    )
    density: float = Field(0.5, gt=0, le=1, description="The share of each LoRA's elements that ties and dare keep.")
    decomposition: Literal["exact", "randomised"] = Field(
        "exact", description="How whole changes are cut: best, or nearly as well in a fraction of the time."
    )
    seed: int = Field(0, ge=0, description="Of dare and randomised; the same seed gives the same bytes.")
    format: Literal["kohya", "diffusers", "comfy"] | None = Field(
        None, description="How the result names its modules; as the first LoRA by default."
    )

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.loras):
            raise ValueError(f"{len(self.weights)} weights for {len(self.loras)} LoRAs")
        if self.method != "sum" and self.rank is None and self.energy is None:
            raise ValueError(f"the method {self.method} gives changes of full rank: give a rank or an energy")
        return self

    def lora(self) -> Model:
        found = [opened(model) for model in self.loras]
        names: Writable = self.format or format_of(found[0])
        files = [in_format(lora, names) for lora in found]
        refuse_unknown(files)
        _refuse_dora(files)
        ranks = Ranks(self.rank, self.conv_rank, self.energy)
        modules = [self._module(name, sources, ranks) for name, sources in self._layers(files)]
        inputs = [lora.model.metadata for lora in files]

        def metadata(made: Sequence[NewModule]) -> Mapping[str, str]:
            return provenance.of_merge(inputs, made)

        return MadeLora(modules, format=names, dtype=stored_dtype(files[0]), metadata=metadata)

    def _layers(self, files: Sequence[LoraFile]) -> list[tuple[str, list[_Numbered]]]:
        """For each layer that any LoRA changes, the name of its module and what changes it.

        Raises ``ValueError`` for LoRAs that do not fit together.
        """
        architectures = [architecture_of(lora) for lora in files]
        _refuse_different(files, architectures)
        weights = self.weights or [1.0] * len(files)
        found: dict[Layer, tuple[str, list[_Numbered]]] = {}
        for index, (lora, architecture, weight) in enumerate(zip(files, architectures, weights, strict=True)):
            for name, module in lora.modules.items():
                layer = _layer(architecture, name)
                found.setdefault(layer, (name, []))[1].append(_Numbered(lora, module, weight, index))
        _refuse_overlaps(found)
        for name, sources in found.values():
            _refuse_shapes(name, sources)
        return list(found.values())

    def _module(self, name: str, sources: Sequence[_Numbered], ranks: Ranks) -> NewModule:
        how = Decomposition(self.decomposition, seed=self.seed)
        if self.method == "sum":
            return reduced(name, sources, ranks, decomposition=how)
        shape = max((one.shape for one in sources), key=len)
        delta = partial(self._combined, name, [one for one in sources if one.shape])
        extras = bias_sum(sources)  # biases are only added up
        if len(shape) < 2 or any(one.module.family == "full" for one in sources):
            return FullModule(name, shape, delta, extras=extras)
        return DenseModule(name, shape, delta, keep=ranks.keep(shape), decomposition=how, extras=extras)

    def _combined(self, name: str, sources: Sequence[_Numbered]) -> Tensor:
        """The change of one layer by the method, ``[out, width]``."""
        from ..merging import kernels

        thinned = [self._thinned(name, one) for one in sources]
        if self.method != "dare":
            return kernels.elected_mean(thinned)
        total = thinned[0]
        for one in thinned[1:]:
            total = total + one
        return total

    def _thinned(self, name: str, source: _Numbered) -> Tensor:
        """Its weighted change, what it does not keep at zero."""
        from daremerge_core.rng import Stream

        from ..merging import kernels

        delta = dense_sum([source])
        if self.method == "ties":
            return kernels.trim(delta, self.density)
        stream = Stream.derive(self.seed, "lora.merge", name, model=source.index)
        keep = stream.keep(Span(0, delta.numel()), self.density).reshape(delta.shape)
        return kernels.drop(delta, keep, self.density)


@dataclass(frozen=True)
class _Numbered(Source):
    """A module, and which of the merged LoRAs it is of."""

    index: int = 0


def _layer(architecture: Architecture | None, name: str) -> Layer:
    """What a module's name stands for, whatever the spelling; the name itself where it is unknown."""
    located = architecture.find(name) if architecture is not None else None
    return (name,) if located is None else (located[0], *located[1].entries)


def _refuse_dora(files: Sequence[LoraFile]) -> None:
    for lora in files:
        dora = next((name for name, module in lora.modules.items() if module.is_dora), None)
        if dora is not None:
            raise ValueError(
                f"{lora.name} is a DoRA (module {dora}): what it does depends on the model, so it cannot be merged as "
                "a LoRA. Put it into the model with lora apply, then lora extract the difference"
            )


def _refuse_different(files: Sequence[LoraFile], architectures: Sequence[Architecture | None]) -> None:
    known = [(lora, one) for lora, one in zip(files, architectures, strict=True) if one is not None]
    for lora, one in known[1:]:
        if one.name != known[0][1].name:
            raise ValueError(f"{known[0][0].name} is for {known[0][1].title} and {lora.name} for {one.title}")


def _refuse_overlaps(found: Mapping[Layer, tuple[str, Sequence[_Numbered]]]) -> None:
    """A fused weight in one LoRA and its parts in another are different layers to a merge, and the same to a model."""
    fused = {(layer[0], part): name for layer, (name, _) in found.items() if len(layer) > 2 for part in layer[1:]}
    for layer, (name, _) in found.items():
        if len(layer) == 2 and layer in fused:
            raise ValueError(
                f"{name} in one LoRA is a part of {fused[layer[0], layer[1]]} in another: convert them to one format "
                "first, with lora convert"
            )


def _refuse_shapes(name: str, sources: Sequence[_Numbered]) -> None:
    sizes = {(shape[0], math.prod(shape)): shape for one in sources if (shape := one.shape)}
    if len(sizes) > 1:
        shown = " and ".join(str(list(shape)) for shape in sizes.values())
        raise ValueError(f"{name} changes weights of different shapes, {shown}: the LoRAs are for different models")
