"""A LoRA in another format."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from daremerge_core import LoraRef, LoraTool, Model

from ..formats import open_lora

__all__ = ["Convert"]


class Convert(LoraTool):
    """Write a LoRA in another format: kohya's names, diffusers', or ComfyUI's.

    What a module does stays the same to the bit where the format has a name for it; what has none is an error.
    """

    name = "convert"
    lora_file: LoraRef = Field(alias="lora", description="The LoRA to convert.")
    format: Literal["kohya", "diffusers", "comfy"] = Field(description="The format to write.")

    def lora(self) -> Model:
        from ..convert import converted

        return converted(open_lora(self.lora_file), self.format)
