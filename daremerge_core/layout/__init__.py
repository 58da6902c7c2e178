"""Tensor name → part, block, depth and role, for known architectures and, carefully, for the rest."""

from __future__ import annotations

from .detect import GENERIC, Layout, detect, detect_by_name
from .known import KNOWN
from .place import PARTS, ROLES, Place
from .spec import LayoutSpec, Shape, Tower, same

__all__ = [
    "GENERIC",
    "KNOWN",
    "PARTS",
    "ROLES",
    "Layout",
    "LayoutSpec",
    "Place",
    "Shape",
    "Tower",
    "detect",
    "detect_by_name",
    "same",
]
