"""What the families share of their options: the words for parts, and that something must be given."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

__all__ = ["Part", "needs_any"]

Part = Literal["unet", "clip", "vae", "lm", "other"]
"""One of :data:`daremerge_core.layout.PARTS`, as a choice."""


def needs_any(options: BaseModel, *names: str) -> None:
    """Raise ``ValueError`` where each of these options is None or empty: such a gradient has no ratio anywhere."""
    if all(getattr(options, name) in (None, {}) for name in names):
        raise ValueError(f"give at least one of {', '.join(names)}: without any, nothing has a ratio")
