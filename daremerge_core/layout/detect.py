"""Recognise a model's architecture from its headers, and place its tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from ..values import TensorMeta
from .generic import block_of, role_of
from .known import COMMON, KNOWN
from .patterns import fill, leading
from .place import Place
from .prefixes import canonical, container
from .spec import LayoutSpec, Shape, Tower

__all__ = ["GENERIC", "Layout", "detect", "detect_by_name"]

GENERIC = "generic"
"""The architecture of a model that no layout describes."""


def detect(metas: Mapping[str, TensorMeta], extra: Sequence[LayoutSpec] = ()) -> Layout:
    """The layout of the model with these tensors.

    ``extra`` is tried before the known architectures, in order. Prefixed networks are sought before bare
    ones, so that a file with a whole checkpoint in it is never taken for a bare denoiser. What fits no
    description is :data:`GENERIC`; that is not an error.
    """
    return _first_that_fits((*extra, *KNOWN), metas)


def detect_by_name(keys: Iterable[str], extra: Sequence[LayoutSpec] = ()) -> Layout:
    """As :func:`detect`, for tensors whose shapes nobody knows: those that a gradient was made for.

    Where shapes alone tell two architectures apart, it is the first of them: their blocks have the same names.
    """
    specs = [replace(spec, requires=dict.fromkeys(spec.requires)) for spec in (*extra, *KNOWN)]
    return _first_that_fits(specs, {key: TensorMeta(key, "F32", ()) for key in keys})


def _first_that_fits(specs: Sequence[LayoutSpec], metas: Mapping[str, TensorMeta]) -> Layout:
    for spec in specs:
        if any(_fits(spec, prefix, metas) for prefix in spec.towers[0].prefixes):
            return Layout(spec.name, (*spec.towers, *COMMON), metas)
    for spec in specs:
        if spec.towers[0].bare and _fits(spec, "", metas):
            return Layout(spec.name, (*spec.towers, *COMMON), metas, bare=True)
    return Layout(GENERIC, COMMON, metas)


def _fits(spec: LayoutSpec, prefix: str, metas: Mapping[str, TensorMeta]) -> bool:
    return all(
        (meta := metas.get(prefix + key)) is not None and _has_shape(meta, shape)
        for key, shape in spec.requires.items()
    ) and not any(prefix + key in metas for key in spec.lacks)


def _has_shape(meta: TensorMeta, shape: Shape | None) -> bool:
    if shape is None:
        return True
    return len(shape) == len(meta.shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, meta.shape, strict=True)
    )


class _Stack(NamedTuple):
    """Blocks that a forward pass visits one after the other."""

    number: int
    """Of the tower among the layout's; one past the last for the generic rule."""
    part: str
    family: str
    """The generic rule's ``blocks`` in ``blocks.3``; empty for a tower."""


class _Spot(NamedTuple):
    """A place before its depth is known."""

    stack: _Stack
    block: str | None
    order: tuple[int, tuple[int, ...]]
    """Step of the stack and the block's numbers. A negative step stands beside the stack."""
    role: str


class Layout:
    """Where each tensor of one model lies. Made by :func:`detect`; never changes; safe to share between threads."""

    def __init__(self, arch: str, towers: Sequence[Tower], keys: Iterable[str], *, bare: bool = False) -> None:
        """``bare``: the first tower stands at the root of the file, without its prefix."""
        self.arch = arch
        """The name of the layout's spec, such as ``"sd15"``, or :data:`GENERIC`."""
        self._root = towers[0].prefixes[0] if bare else None
        if bare:
            towers = (replace(towers[0], prefixes=("",)), *towers[1:])
        self._towers = [(tower, _routes(tower)) for tower in towers]
        self._keys = tuple(keys)

    # Found when first asked for: of most models only the name of the architecture is.

    @cached_property
    def _spots(self) -> dict[str, _Spot]:
        return {key: self._find(key) for key in self._keys}

    @cached_property
    def _stacks(self) -> dict[_Stack, dict[str, _Spot]]:
        return _survey(self._spots.values())

    @cached_property
    def _depths(self) -> dict[tuple[_Stack, str | None], float]:
        return _depths(self._stacks)

    @cached_property
    def _places(self) -> dict[str, Place]:
        return {key: self._settle(key, spot) for key, spot in self._spots.items()}

    def place(self, key: str) -> Place:
        """Where ``key`` lies. Any name has a place; in a block that the model does not hold it has no depth."""
        return self._places.get(key) or self._settle(key, self._find(key))

    def places(self) -> list[Place]:
        """Where each of the model's tensors lies, in the order of the file."""
        return list(self._places.values())

    def blocks(self, part: str) -> list[str]:
        """The blocks this model has in one part, in forward order; those without depth stand before their stack."""
        return [block for stack, blocks in self._stacks.items() if stack.part == part for block in blocks]

    def _settle(self, key: str, spot: _Spot) -> Place:
        in_bare_tower = self._root is not None and spot.stack.number == 0
        return Place(
            key=key,
            name=canonical(f"{self._root}{key}" if in_bare_tower else key),
            part=spot.stack.part,
            block=spot.block,
            depth=self._depths.get((spot.stack, spot.block)),
            role=spot.role,
        )

    def _find(self, key: str) -> _Spot:
        for number, (tower, routes) in enumerate(self._towers):
            for prefix in tower.prefixes:
                if not key.startswith(prefix):
                    continue
                path = key[len(prefix) :]
                for pattern, step, template in routes:
                    if match := pattern.match(path):
                        block = tower.label + fill(template, match.groups())
                        order = (step, tuple(map(int, match.groups())))
                        return _Spot(_Stack(number, tower.part, ""), block, order, role_of(path, tower.roles))
        return self._unclaimed(key)

    def _unclaimed(self, key: str) -> _Spot:
        """What the prefix alone says, and in an unknown architecture the generic rule."""
        found = container(key)
        part = found.part if found else "other"
        block = None
        # A described architecture has the described blocks only; so have text encoders and autoencoders anywhere.
        if self.arch == GENERIC and part in ("unet", "other"):
            block = block_of(key[len(found.prefix) :] if found else key)
        stack = _Stack(len(self._towers), part, block.family if block else "")
        order = (0, (block.number,)) if block else (0, ())
        return _Spot(stack, block.name if block else None, order, role_of(key))


def _routes(tower: Tower) -> list[tuple[re.Pattern[str], int, str]]:
    """Pattern, step of the stack (negative beside it) and block name, in the order to try them."""
    routes = []
    for first_step, table in ((-len(tower.aside), tower.aside), (0, tower.stack)):
        # Several patterns may lead to one block: it stands where the first of them does.
        steps = {block: step for step, block in enumerate(dict.fromkeys(table.values()), first_step)}
        routes += [(leading(pattern), steps[block], block) for pattern, block in table.items()]
    return routes


def _survey(spots: Iterable[_Spot]) -> dict[_Stack, dict[str, _Spot]]:
    """Per stack its blocks in forward order, those beside it first; described towers before generic families."""
    stacks: dict[_Stack, dict[str, _Spot]] = {}
    for spot in spots:
        if spot.block is not None:
            stacks.setdefault(spot.stack, {}).setdefault(spot.block, spot)
    return {
        stack: dict(sorted(blocks.items(), key=lambda item: item[1].order))
        for stack, blocks in sorted(stacks.items(), key=lambda item: item[0].number)
    }


def _depths(stacks: Mapping[_Stack, Mapping[str, _Spot]]) -> dict[tuple[_Stack, str | None], float]:
    """Depth by stack and block: evenly from 0 to 1 over the blocks that the model has.

    Of several families of an unknown architecture nobody knows the order, so none of them has depths.
    """
    families = Counter((stack.number, stack.part) for stack in stacks)
    depths: dict[tuple[_Stack, str | None], float] = {}
    for stack, blocks in stacks.items():
        if families[stack.number, stack.part] == 1:
            visited = [block for block, spot in blocks.items() if spot.order[0] >= 0]
            last = max(len(visited) - 1, 1)
            depths.update(((stack, block), i / last) for i, block in enumerate(visited))
    return depths
