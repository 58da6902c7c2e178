"""Names, both ways: which tensors of a checkpoint a LoRA's modules change, and what formats call them."""

from __future__ import annotations

from .architectures import ARCHITECTURES, PARTS, Architecture, Part, locate
from .matching import Matching, architecture_in, architecture_of, match, module_names

__all__ = [
    "ARCHITECTURES",
    "PARTS",
    "Architecture",
    "Matching",
    "Part",
    "architecture_in",
    "architecture_of",
    "locate",
    "match",
    "module_names",
]
