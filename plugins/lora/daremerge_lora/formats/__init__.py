"""LoRA files of every common format, taken apart into modules."""

from __future__ import annotations

from .file import FORMATS, Format, LoraFile, open_lora
from .slots import WRITABLE, Writable, tensor_name

__all__ = ["FORMATS", "WRITABLE", "Format", "LoraFile", "Writable", "open_lora", "tensor_name"]
