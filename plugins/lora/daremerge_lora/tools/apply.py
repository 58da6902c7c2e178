"""LoRAs into a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from daremerge_core import LoraRef, ModelEdit, Place, Site, WeightedBy
from daremerge_core.errors import PlanError

from ..applied import Recent, Step, steps
from ..formats import LoraFile
from ..targets import Matching, architecture_in, architecture_of, locate, match
from .sources import opened

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

__all__ = ["Apply"]

SHOWN = 10
"""How many reasons a message lists."""


class Apply(ModelEdit):
    """Put LoRAs into a checkpoint, each at a strength: W + Σ strength · ΔW.

    ΔW is ``alpha / rank · up @ down`` for LoRA (arXiv 2106.09685), the products of LoHa and LoKr (arXiv 2108.06098,
    2309.14859), or a full difference. A DoRA (arXiv 2402.09353) takes the weight, with what LoRAs named before it have
    changed, part of the way to m · (W + ΔW) / ‖W + ΔW‖; for magnitudes of rows ComfyUI up to 0.3 divides by ‖W‖.

    Every common format is understood; modules find their tensors in checkpoints of SD1.5, SDXL, SD3 and Flux whatever
    names both use. A module without a tensor, or a tensor that no module explains, is an error unless allowed. Limited
    to parts of the checkpoint, modules for other parts are left out.

    A ratio, a gradient or a mask applies to all LoRAs together: per-block weights are a gradient, 1 keeps the model, 0
    makes the whole change. Products come from a BLAS library: other libraries or processors may round the last bit of
    ΔW differently; the number of threads and spans changes nothing.
    """

    kind: ClassVar[str] = "lora"
    name = "apply"
    loras: Annotated[list[LoraRef], WeightedBy("strengths")] = Field(
        min_length=1, description="The LoRAs; FILE:0.8 puts one in at strength 0.8."
    )
    strengths: list[float] | None = Field(None, description="A strength for each LoRA; 1 by default.")
    unet_strength: float = Field(1.0, description="Multiplies the strengths in the U-Net or transformer.")
    clip_strength: float = Field(1.0, description="Multiplies the strengths in the text encoders.")
    allow_unmatched: bool = Field(
        False, description="Leave out, with a warning, what of a LoRA finds no tensor in the model."
    )

    @model_validator(mode="after")
    def _a_strength_each(self) -> Self:
        if self.strengths is not None and len(self.strengths) != len(self.loras):
            raise ValueError(f"{len(self.strengths)} strengths for {len(self.loras)} LoRAs")
        return self

    def leaves_alone(self, place: Place) -> str | None:
        self._check_unmatched()
        return None if place.key in self._steps else "no LoRA changes it"

    def needs_whole_tensors(self) -> bool:
        return any(step.needs_weight for some in self._steps.values() for step in some)

    def edit(self, site: Site) -> Tensor:
        result = site.model
        for step in self._steps[site.place.key]:
            result = step.added(result, site, self._recent)
        return result

    @cached_property
    def unmatched(self) -> Sequence[str]:
        """What of the LoRAs has no effect, a line for each reason: modules without a tensor, tensors of no module."""
        return [line for lora, matching in self._found for line in _unmatched(lora, matching, self.parts)]

    @cached_property
    def _found(self) -> Sequence[tuple[LoraFile, Matching]]:
        try:
            files = [opened(model) for model in self.loras]
        except ValueError as error:
            raise PlanError(str(error)) from None
        return [(lora, match(lora, self.model)) for lora in files]

    @cached_property
    def _steps(self) -> Mapping[str, Sequence[Step]]:
        strengths = self.strengths or [1.0] * len(self.loras)
        found = [(lora, matching, strength) for (lora, matching), strength in zip(self._found, strengths, strict=True)]
        return steps(found, lambda part: self.unet_strength if part == "unet" else self.clip_strength)

    @cached_property
    def _recent(self) -> Recent:
        return Recent()

    def _check_unmatched(self) -> None:
        lines = () if self.allow_unmatched else self.unmatched
        if lines:
            self._check_architectures()
            shown = "\n".join(f"  {line}" for line in lines[:SHOWN])
            more = f"\n  … and {len(lines) - SHOWN} more reasons" if len(lines) > SHOWN else ""
            raise PlanError(
                f"the model has no place for a part of the LoRAs:\n{shown}{more}",
                hint="To leave that part out, pass --allow-unmatched.",
            )

    def _check_architectures(self) -> None:
        mine = architecture_in(self.model)
        for lora, _ in self._found:
            theirs = architecture_of(lora)
            if mine is not None and theirs is not None and mine != theirs:
                raise PlanError(f"{lora.name} is for {theirs.title}, and the model is {mine.title}")


def _unmatched(lora: LoraFile, matching: Matching, parts: Sequence[str] | None) -> Iterator[str]:
    """A line for each reason: how many modules, or tensors, it is of, and some names.

    Limited to ``parts``, what is for others is not wanted, and so not missed.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in matching.reasons.items():
        if parts is None or ("unet" if locate(name)[0] == "unet" else "clip") in parts:
            by_reason.setdefault(reason, []).append(name)
    for reason, names in sorted(by_reason.items(), key=lambda one: -len(one[1])):
        yield f"{lora.name}: {_some(names, 'module')}: {reason}"
    if lora.unknown:
        yield f"{lora.name}: {_some(lora.unknown, 'tensor')}: of no kind that is understood"


def _some(names: Sequence[str], what: str) -> str:
    """``module x``, or ``12 modules, such as x``."""
    return f"{what} {names[0]}" if len(names) == 1 else f"{len(names)} {what}s, such as {names[0]}"
