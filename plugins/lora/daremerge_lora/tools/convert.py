"""A LoRA in another format."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from daremerge_core import LoraRef, LoraTool, Model

from ..convert import converted
from .sources import opened

__all__ = ["Convert"]


class Convert(LoraTool):
    """Write a LoRA in another format: kohya's names, diffusers', or ComfyUI's.

    Modules are renamed; where one format has a fused weight and the other its parts, split or fused, which is exact. A
    fused module has the sum of its parts' ranks. diffusers' files hold plain LoRA and DoRA, their scales in the factors
    instead of an alpha. What a format cannot hold is an error unless allowed.
    """

    name = "convert"
    lora_file: LoraRef = Field(alias="lora", description="The LoRA to convert.")
    format: Literal["kohya", "diffusers", "comfy"] = Field(description="The format to write.")

    allow_unmatched: bool = Field(False, description="Leave out what the format has no name for.")

    def lora(self) -> Model:
        return converted(opened(self.lora_file), self.format, allow=self.allow_unmatched)
