"""What a mask selects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from daremerge_core import MaskRef, Report, Reporter

from .order import Block, by_block, by_part, by_role
from .words import how_many, words, words_of_shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from daremerge_core import Layout, Mask, Survey

__all__ = ["MaskReport"]


@dataclass(frozen=True, slots=True)
class Share:
    """How many of some elements a mask selects."""

    elements: int = 0
    selected: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(self.elements + other.elements, self.selected + other.selected)

    @property
    def percent(self) -> float | None:
        """None where there are no elements."""
        return 100 * self.selected / self.elements if self.elements else None


class MaskReport(Reporter):
    """How much a mask selects, of each block or each tensor.

    A mask may be a file or a step of a recipe; one that is computed is computed once, piece by piece.
    """

    name: ClassVar[str] = "mask"

    mask: MaskRef = Field(description="The mask.")
    show: Literal["size", "details"] = Field("size", description="A row for each block, or for each tensor.")

    def report(self, survey: Survey) -> Report:
        from .kernels import count_selected

        mask: Mask = self.mask
        shapes = {key: shape for key in mask.keys() if (shape := mask.shape(key)) is not None}
        counts = survey.each(list(shapes), [mask], lambda key, blocks: count_selected(blocks), what="reading the mask")
        shares = {
            key: Share(math.prod(shape), count) for (key, shape), count in zip(shapes.items(), counts, strict=True)
        }
        layout = survey.layout(mask)
        blocks = by_block(layout, shares)
        of_blocks = {block: sum((shares[key] for key in keys), Share()) for block, keys in blocks.items()}
        of_roles = {
            block: {role: sum((shares[key] for key in found), Share()) for role, found in by_role(layout, keys).items()}
            for block, keys in blocks.items()
        }
        whole = sum(shares.values(), Share())
        return Report(
            title=f"Mask: {_percent(whole)} selected",
            text=_text(shares, of_blocks, whole),
            rows=_details(layout, blocks, shapes, shares)
            if self.show == "details"
            else _sizes(blocks, of_blocks, whole),
            data=_data(layout, shapes, shares, of_blocks, of_roles, whole),
            figures={
                "Percent selected of each block": partial(_bars, of_blocks),
                "Percent selected of each role in each block": partial(_map, of_roles),
            }
            if shares
            else {},
        )


def _percent(share: Share) -> str:
    """Never rounded to nothing or to all when it is neither."""
    if share.percent is None:
        return "nothing to select"
    shown = f"{share.percent:.2f}"
    if shown == "0.00" and share.selected:
        return "less than 0.01 %"
    if shown == "100.00" and share.selected < share.elements:
        return "more than 99.99 %"
    return f"{shown} %"


def _text(shares: Mapping[str, Share], of_blocks: Mapping[Block, Share], whole: Share) -> str:
    if not whole.elements:
        return "The mask knows no tensor that has elements, so it selects nothing."
    full = [key for key, share in shares.items() if share.elements and share.selected == share.elements]
    none = [key for key, share in shares.items() if share.elements and not share.selected]
    lines = [f"{whole.selected:,} of {whole.elements:,} elements in {how_many(len(shares))} are selected."]
    parts = {
        part: sum(found.values(), Share())
        for part, found in by_part(of_blocks).items()
        if sum(found.values(), Share()).elements
    }
    if len(parts) > 1:
        lines.append("By part: " + ", ".join(f"{part} {_percent(share)}" for part, share in parts.items()) + ".")
    if full or none:
        lines.append(f"Selected whole: {_count(full, len(shares))}. Not at all: {_count(none, len(shares))}.")
    return "\n".join(lines)


def _count(keys: Sequence[str], total: int) -> str:
    if not keys or len(keys) == total:
        return "all tensors" if keys else "none"
    return f"{len(keys):,} tensors, such as {keys[0]}" if len(keys) > 2 else words(keys)


def _sizes(
    blocks: Mapping[Block, Sequence[str]], of_blocks: Mapping[Block, Share], whole: Share
) -> list[dict[str, Any]]:
    rows = [_row(block.part, block.name, len(blocks[block]), share) for block, share in of_blocks.items()]
    return [*rows, _row("all", "", sum(map(len, blocks.values())), whole)] if rows else []


def _row(part: str, block: str, tensors: int, share: Share) -> dict[str, Any]:
    return {
        "part": part,
        "block": block,
        "tensors": tensors,
        "elements": share.elements,
        "selected": share.selected,
        "share %": share.percent,
    }


def _details(
    layout: Layout,
    blocks: Mapping[Block, Sequence[str]],
    shapes: Mapping[str, tuple[int, ...]],
    shares: Mapping[str, Share],
) -> list[dict[str, Any]]:
    return [
        {
            "tensor": key,
            "role": layout.place(key).role,
            "shape": words_of_shape(shapes[key]),
            "selected": shares[key].selected,
            "share %": shares[key].percent,
        }
        for keys in blocks.values()
        for key in keys
    ]


def _data(
    layout: Layout,
    shapes: Mapping[str, tuple[int, ...]],
    shares: Mapping[str, Share],
    of_blocks: Mapping[Block, Share],
    of_roles: Mapping[Block, Mapping[str, Share]],
    whole: Share,
) -> dict[str, Any]:
    return {
        "architecture": layout.arch,
        **_numbers(whole),
        "blocks": [
            {
                "part": block.part,
                "block": block.name,
                **_numbers(share),
                "roles": {role: _numbers(of_role) for role, of_role in of_roles[block].items()},
            }
            for block, share in of_blocks.items()
        ],
        "tensors": {key: {"shape": list(shapes[key]), **_numbers(share)} for key, share in shares.items()},
    }


def _numbers(share: Share) -> dict[str, Any]:
    percent = share.percent
    return {
        "elements": share.elements,
        "selected": share.selected,
        "share": None if percent is None else share.selected / share.elements,
    }


def _bars(of_blocks: Mapping[Block, Share]) -> Figure:
    from .charts import PART_COLOURS, panels

    parts = by_part(of_blocks)

    def draw(axes: Axes, part: str, blocks: Sequence[str]) -> None:
        heights = [parts[part][block].percent or 0.0 for block in blocks]
        axes.bar(range(len(blocks)), heights, width=0.8, color=PART_COLOURS[part])
        axes.set_ylim(0, 100)
        axes.set_ylabel("selected, %")
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    return panels({part: list(blocks) for part, blocks in parts.items()}, draw)


def _map(of_roles: Mapping[Block, Mapping[str, Share]]) -> Figure:
    from .charts import heat_maps

    shares = {
        block: {role: share.percent for role, share in roles.items() if share.percent is not None}
        for block, roles in of_roles.items()
    }
    return heat_maps(by_part(shares), "selected, %", limits=(0.0, 100.0))
