"""What the families share of their options: the words for parts, and that something must be given."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from daremerge_core import GradientFamily

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NeedsAny", "Part"]

Part = Literal["unet", "clip", "vae", "lm", "other"]
"""One of :data:`daremerge_core.layout.PARTS`, as a choice."""


class NeedsAny(GradientFamily):
    """A family of which at least one option must be given: without any, nothing has a ratio."""

    any_of: ClassVar[tuple[str, ...]]
    """The options of which one must be given: neither None nor empty."""

    @model_validator(mode="after")
    def _something_is_given(self) -> Self:
        if all(getattr(self, name) in (None, {}) for name in self.any_of):
            raise ValueError(f"give at least one of {', '.join(self.any_of)}: without any, nothing has a ratio")
        return self
