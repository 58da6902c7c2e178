"""What the tools that make LoRAs from LoRAs share: files in one format, weighted modules, and their sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from daremerge_core import Model
from daremerge_core.dtypes import FLOATS

from ..convert import converted
from ..deltas import Change, LowRank, bias_change, read_change
from ..factors.modules import EXACT, Decomposition, DenseModule, Extra, FullModule, Keep, Product, ProductModule
from ..formats import WRITABLE, LoraFile, Writable, open_lora
from ..made import NewModule
from ..modules import Family, Module

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Ranks",
    "Source",
    "dense_sum",
    "format_of",
    "in_format",
    "opened",
    "reduced",
    "refuse_unknown",
    "stored_dtype",
]

_TITLES: Mapping[Family, str] = {"loha": "LoHa", "lokr": "LoKr"}


@dataclass(frozen=True)
class Ranks:
    """How many terms the modules of a new file keep."""

    rank: int | None
    conv_rank: int | None
    """Of convolutions with a kernel of more than one element; None for as many as others keep."""
    energy: float | None

    def keep(self, shape: Sequence[int]) -> Keep:
        """What a layer of this shape keeps."""
        rank = self.conv_rank if is_convolution(shape) and self.conv_rank is not None else self.rank
        return Keep(rank, self.energy)


def is_convolution(shape: Sequence[int]) -> bool:
    """Whether a weight is that of a convolution larger than 1 × 1, which is a linear layer at each place."""
    return any(size > 1 for size in shape[2:])


@dataclass(frozen=True)
class Source:
    """A module of a file, and the number its change is multiplied with."""

    lora: LoraFile
    module: Module
    weight: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the change; ``()`` for a module that changes a bias only."""
        return self.lora.shape(self.module)

    @property
    def terms(self) -> int:
        """The rank of a low-rank module's product."""
        return self.lora.model.meta(self.module.tensors["up"]).shape[1]

    def change(self) -> Change:
        return read_change(self.lora, self.module)


def opened(model: Model) -> LoraFile:
    """A LoRA file. Raises ``ValueError`` for one that holds no module, such as a checkpoint."""
    lora = open_lora(model)
    if not lora.modules:
        raise ValueError(f"{lora.name} holds no LoRA module: is it a checkpoint, or of a kind that is not understood?")
    return lora


def in_format(lora: LoraFile, wanted: Writable) -> LoraFile:
    """A file with its modules named as in a format."""
    if lora.format == wanted:
        return lora
    return open_lora(converted(lora, wanted), name=lora.name)


def format_of(lora: LoraFile) -> Writable:
    """The format to write what is made from a file in: its own if that can be written, else kohya's."""
    return next((one for one in WRITABLE if one == lora.format), "kohya")


def refuse_unknown(loras: Sequence[LoraFile]) -> None:
    """Raise ``ValueError`` for tensors that belong to no module: what is made would silently lack them."""
    for lora in loras:
        if lora.unknown:
            more = f" and {len(lora.unknown) - 3} more" if len(lora.unknown) > 3 else ""
            raise ValueError(f"{lora.name} holds tensors of no known kind: {', '.join(lora.unknown[:3])}{more}")


def stored_dtype(lora: LoraFile) -> str:
    """The dtype of most of a file's tensors, if it is one of 16 or 32 bits; else F16."""
    counts = Counter(lora.model.meta(key).dtype for key in lora.model.keys())
    floats = [dtype for dtype, _ in counts.most_common() if dtype in FLOATS]
    return floats[0] if floats and floats[0] in ("F32", "F16", "BF16") else "F16"


def reduced(
    name: str,
    sources: Sequence[Source],
    ranks: Ranks,
    *,
    extras: Sequence[Extra] = (),
    decomposition: Decomposition = EXACT,
) -> NewModule:
    """The weighted sum of modules of one layer as one module: factors where it can be, a difference where one is.

    Args:
        extras: tensors of the module beside its factors and the sum of its biases.
        decomposition: of a sum that is computed whole.

    Raises ``ValueError`` for a change that only a decomposition makes low-rank, where no rank is wanted.
    """
    shape = max((one.shape for one in sources), key=len)
    extras = [*bias_sum(sources), *extras]
    if len(shape) < 2 or any(one.module.family == "full" for one in sources):
        return FullModule(name, shape, partial(dense_sum, [one for one in sources if one.shape]), extras=extras)
    keep = ranks.keep(shape)
    if all(one.module.family == "lora" for one in sources):
        count = sum(one.terms for one in sources)
        return ProductModule(name, shape, partial(_products, sources), terms=count, keep=keep, extras=extras)
    if keep == Keep():
        family = next(one.module.family for one in sources if one.module.family != "lora")
        raise ValueError(f"{name} is a {_TITLES[family]}, which is made a LoRA by cutting it to a rank: give a rank")
    delta = partial(dense_sum, sources)
    return DenseModule(name, shape, delta, keep=keep, decomposition=decomposition, extras=extras)


def dense_sum(sources: Sequence[Source]) -> Tensor:
    """Σ weight · ΔW, ``[out, width]`` in float32, in the order of the sources."""
    return _added([_rows(one.change(), one.weight) for one in sources])


def bias_sum(sources: Sequence[Source]) -> list[Extra]:
    """The weighted sum of the changes of a bias, where there are any."""
    having = [one for one in sources if "diff_b" in one.module.tensors]
    if not having:
        return []
    shape = having[0].lora.model.meta(having[0].module.tensors["diff_b"]).shape

    def compute() -> Tensor:
        return _added([_rows(bias_change(one.lora, one.module), one.weight) for one in having]).reshape(shape)

    return [Extra("diff_b", shape, compute)]


def _products(sources: Sequence[Source]) -> list[Product]:
    """The products of low-rank modules, each with its scale and weight in one number."""
    found: list[Product] = []
    for one in sources:
        change = one.change()
        assert isinstance(change, LowRank)
        found.append((change.scale * one.weight, change.up, change.down))
    return found


def _rows(change: Change, weight: float) -> Tensor:
    return change.rows(0, change.size[0], weight)


def _added(changes: Sequence[Tensor]) -> Tensor:
    total = changes[0]
    for one in changes[1:]:
        total = total + one
    return total
