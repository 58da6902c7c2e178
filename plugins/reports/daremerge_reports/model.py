"""What the weights of a model are like: block by block, or of some layers, drawn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from daremerge_core import ModelRef, Report, Reporter
from daremerge_core.dtypes import FLOATS
from daremerge_core.layout import PARTS
from daremerge_core.select import select

from .layers import Pool, Scaling, layers, numbers_of
from .order import Block, by_block, by_part, by_role
from .statistics import Statistics, together
from .words import how_many

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from daremerge_core import Layout, Model, Survey, TensorMeta

__all__ = ["ModelReport"]


class ModelReport(Reporter):
    """The weights of a model block by block; with ``--layer``, a plot of one layer or some.

    A layer is drawn as a matrix of its first dimension by all others, whatever its shape and dtype; a vector is
    folded into rows. What is larger than a picture is reduced to cells, each the element of greatest magnitude in it
    (pool extreme, so that nothing hides) or the mean.

    Scaling divides by the layer's mean, max, min or std (standard deviation), or shows the logarithm (base 10) of the
    magnitude, where the sign is not seen.
    """

    name: ClassVar[str] = "model"

    model: ModelRef = Field(description="The model.")
    layer: str | None = Field(
        None, description="Tensors to look at: a name, or a selector, e.g. input_blocks.1 or '*.attn1.to_q.weight'."
    )
    scaling: Scaling = Field("none", description="What a layer's weights are divided by before they are drawn, or log.")
    pool: Pool = Field("extreme", description="What a cell shows that stands for several weights.")

    def report(self, survey: Survey) -> Report:
        if self.layer is None:
            return overview(self.model, survey)
        known = self.model.keys()
        keys = [self.layer] if self.layer in known else select(known, self.layer, what="layer")
        return layers(self.model, survey, keys, self.scaling, self.pool)


# --- the whole model ------------------------------------------------------------------------------------


def overview(model: Model, survey: Survey) -> Report:
    """The weights block by block. Tensors that are no floats are counted, not read."""
    from .kernels import statistics

    layout = survey.layout(model)
    metas = {key: model.meta(key) for key in model.keys()}
    keys = [key for key, meta in metas.items() if meta.dtype in FLOATS]
    read = survey.each(keys, [model], lambda key, blocks: statistics(blocks), what="reading the model")
    found = dict(zip(keys, read, strict=True))
    blocks = by_block(layout, metas)
    of_blocks = {block: _of(found, members) for block, members in blocks.items()}
    rows = [_row(block, [metas[key] for key in blocks[block]], of_block) for block, of_block in of_blocks.items()]
    whole = together(found.values())
    return Report(
        title=f"Model: {layout.arch}, {_parameters(metas.values()):,} parameters",
        text=_about(layout, metas, whole),
        rows=rows,
        data={
            "architecture": layout.arch,
            "parameters": _parameters(metas.values()),
            **numbers_of(whole),
            "blocks": [
                {
                    "part": block.part,
                    "block": block.name,
                    "tensors": len(members),
                    **numbers_of(of_blocks[block]),
                    "roles": {role: numbers_of(_of(found, keys)) for role, keys in by_role(layout, members).items()},
                }
                for block, members in blocks.items()
            ],
            "tensors": {
                key: {
                    "dtype": meta.dtype,
                    "shape": list(meta.shape),
                    **numbers_of(found.get(key, Statistics())),
                }
                for key, meta in metas.items()
            },
        },
        figures={
            "Standard deviation of the weights of each block, and the largest magnitude among them": partial(
                _profile, of_blocks
            ),
            "Root mean square of each role in each block, against that role's median over blocks": partial(
                _map, layout, blocks, found
            ),
        }
        if whole.finite
        else {},
    )


def _of(found: Mapping[str, Statistics], keys: Sequence[str]) -> Statistics:
    return together(found[key] for key in keys if key in found)


def _parameters(metas: Collection[TensorMeta]) -> int:
    return sum(meta.numel for meta in metas)


def _dtypes(metas: Sequence[TensorMeta]) -> str:
    counts: Counter[str] = Counter()
    for meta in metas:
        counts[meta.dtype] += meta.numel
    return ", ".join(dtype for dtype, _ in counts.most_common())


def _row(block: Block, metas: Sequence[TensorMeta], found: Statistics) -> dict[str, Any]:
    return {
        "part": block.part,
        "block": block.name,
        "tensors": len(metas),
        "parameters": _parameters(metas),
        "dtype": _dtypes(metas),
        "norm": found.norm if found.finite else None,
        "std": found.std,
        "max |w|": found.largest,
        **({"not finite": found.nonfinite} if found.nonfinite else {}),
    }


def _about(layout: Layout, metas: Mapping[str, TensorMeta], whole: Statistics) -> str:
    lines = [f"Architecture {layout.arch}: {how_many(len(metas))}, {_parameters(metas.values()):,} parameters."]
    parts: dict[str, list[TensorMeta]] = {}
    for key, meta in metas.items():
        parts.setdefault(layout.place(key).part, []).append(meta)
    lines += [
        f"  {part}: {how_many(len(found))}, {_parameters(found):,} parameters, {_dtypes(found)}"
        for part, found in sorted(parts.items(), key=lambda item: PARTS.index(item[0]))
    ]
    if whole.finite:
        lines.append(f"Weights: std {whole.std:.4g}, norm {whole.norm:.4g}, largest magnitude {whole.largest:.4g}.")
    if whole.nonfinite:
        lines.append(f"{whole.nans:,} are NaN and {whole.infinities:,} infinite: see `daremerge report health`.")
    return "\n".join(lines)


def _profile(of_blocks: Mapping[Block, Statistics]) -> Figure:
    """For each block a mark at the standard deviation and one at the largest magnitude, on a logarithmic scale."""
    from matplotlib.lines import Line2D

    from .charts import PART_COLOURS, panels

    parts = by_part({block: found for block, found in of_blocks.items() if found.largest})
    sizes = [value for found in of_blocks.values() for value in (found.std, found.largest) if value]

    def draw(axes: Axes, part: str, blocks: Sequence[str]) -> None:
        colour = PART_COLOURS[part]
        for at, block in enumerate(blocks):
            found = parts[part][block]
            largest = found.largest or 0.0
            axes.plot([at, at], [found.std or largest, largest], color=colour, alpha=0.4, linewidth=2)
            axes.plot(at, largest, "_", color=colour, markersize=9, markeredgewidth=2)
            if found.std:
                axes.plot(at, found.std, "o", color=colour, markersize=6)
        axes.set_yscale("log")
        axes.set_ylim(min(sizes) / 2, max(sizes) * 2)
        axes.set_ylabel("|weight|")
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    figure = panels({part: list(blocks) for part, blocks in parts.items()}, draw)
    handles = [
        Line2D([], [], linestyle="", marker="_", color="0.5", markeredgewidth=2, markersize=9, label="largest"),
        Line2D([], [], linestyle="", marker="o", color="0.5", label="standard deviation"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _map(layout: Layout, blocks: Mapping[Block, Sequence[str]], found: Mapping[str, Statistics]) -> Figure:
    """Each role against its own median: norms are near 1 and weights far from it, which would hide all else."""
    from .charts import diverging, heat_maps

    sizes = {
        block: {
            role: math.log2(rms) for role, keys in by_role(layout, members).items() if (rms := _of(found, keys).rms)
        }
        for block, members in blocks.items()
    }
    usual = {
        (part, role): median(row[role] for row in rows.values() if role in row)
        for part, rows in by_part(sizes).items()
        for role in {role for row in rows.values() for role in row}
    }
    relative = {
        block: {role: size - usual[block.part, role] for role, size in row.items()} for block, row in sizes.items()
    }
    bound = max([1.0, *(abs(value) for row in relative.values() for value in row.values())])
    return heat_maps(
        by_part(relative), "times the median of the role, log2", colours=diverging(), limits=(-bound, bound)
    )
