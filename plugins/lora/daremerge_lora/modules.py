"""What a LoRA file holds, whatever its format: modules, and the tensors of a checkpoint that they change.

A *module* is one layer's change: for plain LoRA the two factors of ``ΔW = scale · up @ down``. Its tensors are found by
*slot*, a word that does not depend on the format. A *target* is the tensor of a checkpoint, or the rows of it, that a
module changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["SLOTS", "Family", "Module", "Target"]

Family = Literal["lora", "loha", "lokr", "full"]

SLOTS: Mapping[Family, frozenset[str]] = MappingProxyType(
    {
        "lora": frozenset({"up", "down", "mid"}),
        "loha": frozenset({"w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"}),
        "lokr": frozenset({"w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"}),
        "full": frozenset({"diff"}),
    }
)
"""The slots of each family, beside those that any module may have: ``alpha``, ``dora_scale`` and ``diff_b``.

``mid``, ``t1`` and ``t2`` are the Tucker cores of convolutions. ``diff`` is a change of the weight as it is, ``diff_b``
one of the bias."""


@dataclass(frozen=True, slots=True)
class Module:
    """One layer's change as a file holds it."""

    name: str
    """As the file writes it, less the slot: ``lora_unet_down_blocks_0_attentions_0_proj_in``."""
    family: Family
    tensors: Mapping[str, str]
    """Slot → name of the tensor in the file."""

    @property
    def is_dora(self) -> bool:
        """Whether the weight is decomposed into magnitude and direction (arXiv 2402.09353)."""
        return "dora_scale" in self.tensors


@dataclass(frozen=True, slots=True)
class Target:
    """What a module changes in a checkpoint."""

    key: str
    """The weight's name in the checkpoint at hand."""
    rows: tuple[int, int] | None = None
    """The half-open range of rows (dimension 0) that are the module's in a fused weight, such as a ``qkv``; None for
    all of them."""
    transposed: bool = False
    """Whether the checkpoint holds the transpose of what the module was trained for (OpenCLIP's text projection)."""
    swapped: bool = False
    """Whether the checkpoint holds the two halves of the rows in the other order: diffusers' last modulation is scale,
    shift, and that of SD3's and Flux's own code shift, scale."""

    @property
    def bias(self) -> str:
        """The name of the bias beside the weight: ``….attn.in_proj_bias`` beside ``….attn.in_proj_weight``."""
        return self.key.removesuffix("weight") + "bias"
