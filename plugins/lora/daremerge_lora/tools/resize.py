"""A LoRA at another rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from daremerge_core import LoraRef, LoraTool, Model

from .. import provenance
from ..factors.modules import Extra
from ..formats import LoraFile
from ..made import MadeLora, NewModule
from ..modules import Module
from .sources import Ranks, Source, format_of, in_format, opened, reduced, refuse_unknown, stored_dtype

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Resize"]


class Resize(LoraTool):
    """Bring a LoRA to another rank, or to the ranks that keep a share of its energy.

    Each module is cut to the best approximation of its rank (Eckart and Young, 1936): the squared error is the sum of
    the squares of the singular values that are dropped. The decomposition is of the factors, not of the whole change,
    so it takes no longer for large layers. A module whose rank is small enough keeps it.

    ``energy`` keeps, of each module by itself, as few terms as hold that share of Σ s²; ranks then differ from module
    to module, and ``rank`` is the most. (Kohya's ``sv_fro`` of 0.9 is an energy of 0.81.)

    LoHa and LoKr become plain LoRA: their rank is cut from the whole change. A DoRA keeps its magnitudes: direction is
    what is approximated. Full differences stay as they are.
    """

    name = "resize"
    lora_file: LoraRef = Field(alias="lora", description="The LoRA to resize.")
    rank: int | None = Field(None, ge=1, description="The rank, or the most there may be where an energy is given.")
    conv_rank: int | None = Field(
        None, ge=1, description="The same for convolutions larger than 1 x 1; that of the others by default."
    )
    energy: float | None = Field(
        None, gt=0, le=1, description="Keep this share of each module's squared norm, such as 0.95."
    )

    @model_validator(mode="after")
    def _something_is_asked(self) -> Self:
        if self.rank is None and self.energy is None:
            raise ValueError("give a rank, an energy, or both")
        return self

    def lora(self) -> Model:
        found = opened(self.lora_file)
        names = format_of(found)
        lora = in_format(found, names)
        refuse_unknown([lora])
        ranks = Ranks(self.rank, self.conv_rank, self.energy)
        modules = [
            reduced(name, [Source(lora, module)], ranks, extras=_magnitudes(lora, module))
            for name, module in lora.modules.items()
        ]

        def metadata(made: Sequence[NewModule]) -> Mapping[str, str]:
            return provenance.of_resize(lora.model.metadata, made)

        return MadeLora(modules, format=names, dtype=stored_dtype(lora), metadata=metadata)


def _magnitudes(lora: LoraFile, module: Module) -> list[Extra]:
    """A DoRA module's magnitudes, as they are."""
    if not module.is_dora:
        return []
    key = module.tensors["dora_scale"]
    return [Extra("dora_scale", lora.model.meta(key).shape, lambda: lora.model.read(key))]
