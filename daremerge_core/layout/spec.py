"""What a known architecture is made of: plain data, which a plugin may add to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..errors import CatalogError, nearest
from .patterns import is_pattern
from .place import PARTS, ROLES

__all__ = ["LayoutSpec", "Shape", "Tower", "same"]

Shape = tuple[int | None, ...]
"""A shape to recognise; None stands for any size."""


def same(*patterns: str) -> dict[str, str]:
    """Blocks named as they stand in the file: ``same("out")`` is ``{"out": "out"}``."""
    return {pattern: pattern for pattern in patterns}


@dataclass(frozen=True, slots=True)
class Tower:
    """One network of a checkpoint: a denoiser, a text encoder, an autoencoder, a decoder.

    Patterns are dotted segments in which ``#`` stands for a number. The patterns of ``stack`` and
    ``aside`` must match from the tower's prefix on; those of ``roles`` may match any run of whole
    segments. In each table the first pattern that matches decides.
    """

    part: str
    prefixes: tuple[str, ...]
    """What a tensor's name may begin with in this tower, such as ``"diffusion_model."``."""
    stack: Mapping[str, str]
    """Pattern → block name, in the order in which a forward pass visits the blocks."""
    roles: Mapping[str, str]
    """Pattern → role."""
    aside: Mapping[str, str] = field(default_factory=dict)
    """Pattern → block name, for blocks that have no depth."""
    label: str = ""
    """Put before block names, to tell the towers of one part from each other: ``"clip_l."``."""
    bare: bool = False
    """Whether a file may hold this tower alone, with no prefix at all. Counts for a spec's first tower only."""

    def __post_init__(self) -> None:
        for table in ("stack", "aside", "roles"):
            object.__setattr__(self, table, MappingProxyType(dict(getattr(self, table))))
        if self.part not in PARTS:
            raise CatalogError(
                f"A layout's tower has the unknown part {self.part!r}.", hint=f"The parts are {', '.join(PARTS)}."
            )
        for pattern in (*self.stack, *self.aside, *self.roles):
            _check_pattern(pattern)
        for pattern, block in (*self.stack.items(), *self.aside.items()):
            _check_pattern(block)
            if pattern.split(".").count("#") != block.split(".").count("#"):
                raise CatalogError(
                    f"A layout's pattern {pattern!r} and its block {block!r} do not hold the same number of '#'.",
                    hint="Each '#' of the pattern gives the number for one '#' of the block's name.",
                )
        for pattern, role in self.roles.items():
            if role not in ROLES:
                raise CatalogError(
                    f"A layout gives {pattern!r} the unknown role {role!r}.{nearest(role, ROLES)}",
                    hint=f"The roles are {', '.join(ROLES)}.",
                )


@dataclass(frozen=True, slots=True)
class LayoutSpec:
    """One architecture: how to recognise it, and its towers.

    The first tower is the one it is recognised by. Text encoders and autoencoders under their usual
    names are known to every layout and need not be listed.
    """

    name: str
    towers: tuple[Tower, ...]
    requires: Mapping[str, Shape | None]
    """Tensors of the first tower (whole names less the prefix) that must all be there; shape, or None for any."""
    lacks: tuple[str, ...] = ()
    """Tensors of the first tower that must not be there."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "requires", MappingProxyType(dict(self.requires)))
        if not self.towers or not self.requires:
            raise CatalogError(
                f"The layout {self.name!r} has no towers or nothing to recognise it by.",
                hint="Give it at least one Tower, and in `requires` the tensors that only this architecture has.",
            )


def _check_pattern(pattern: str) -> None:
    if not is_pattern(pattern):
        raise CatalogError(
            f"A layout holds the malformed pattern {pattern!r}.",
            hint="Write whole segments between single dots; '#' alone stands for a number: layers.#.mlp",
        )
