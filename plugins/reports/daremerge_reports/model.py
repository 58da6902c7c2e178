"""What the weights of a model are like: block by block, or of some layers, drawn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from daremerge_core import Layout, Model, ModelRef, Report, Reporter, Survey, TensorMeta
from daremerge_core.dtypes import FLOATS
from daremerge_core.select import select

from .order import Block, by_block, by_part, by_role, words_of_shape
from .statistics import Statistics, together

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from .kernels import Grid

__all__ = ["ModelReport"]

Scaling = Literal["none", "mean", "log", "max", "min", "std"]
Pool = Literal["extreme", "mean"]

DRAWN = 6
"""Layers that are drawn at most."""
QUANTILES = (0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999)
CELLS = 512
"""Rows and columns that a picture has at most."""


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
        None, description="Tensors to look at: a name, or a selector such as 'input_blocks.1.*.to_q.weight'."
    )
    scaling: Scaling = Field("none", description="What a layer's weights are divided by before they are drawn, or log.")
    pool: Pool = Field("extreme", description="What a cell shows that stands for several weights.")

    def report(self, survey: Survey) -> Report:
        if self.layer is None:
            return overview(self.model, survey)
        keys = select(self.model.keys(), self.layer, what="layer")
        return layers(self.model, survey, keys, self.scaling, self.pool)


# --- the whole model ------------------------------------------------------------------------------------


def overview(model: Model, survey: Survey) -> Report:
    """The weights block by block. Tensors that are no floats are counted, not read."""
    from .kernels import statistics

    layout = survey.layout(model)
    metas = {key: model.meta(key) for key in model.keys()}
    keys = [key for key, meta in metas.items() if meta.dtype in FLOATS]
    found = dict(
        zip(keys, survey.each(keys, [model], lambda key, blocks: statistics(blocks), what="reading"), strict=True)
    )
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
            **_numbers(whole),
            "blocks": [
                {
                    "part": block.part,
                    "block": block.name,
                    "tensors": len(members),
                    **_numbers(of_blocks[block]),
                    "roles": {role: _numbers(_of(found, keys)) for role, keys in by_role(layout, members).items()},
                }
                for block, members in blocks.items()
            ],
            "tensors": {
                key: {"dtype": meta.dtype, "shape": list(meta.shape), **(_numbers(found[key]) if key in found else {})}
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
    lines = [f"Architecture {layout.arch}: {len(metas):,} tensors, {_parameters(metas.values()):,} parameters."]
    parts: dict[str, list[TensorMeta]] = {}
    for key, meta in metas.items():
        parts.setdefault(layout.place(key).part, []).append(meta)
    lines += [
        f"  {part}: {len(found):,} tensors, {_parameters(found):,} parameters, {_dtypes(found)}"
        for part, found in parts.items()
    ]
    if whole.finite:
        lines.append(f"Weights: std {whole.std:.4g}, norm {whole.norm:.4g}, largest magnitude {whole.largest:.4g}.")
    if whole.nonfinite:
        lines.append(f"{whole.nans:,} are NaN and {whole.infinities:,} infinite: see `daremerge report health`.")
    return "\n".join(lines)


def _numbers(found: Statistics) -> dict[str, Any]:
    return {
        "elements": found.count,
        "mean": found.mean,
        "std": found.std,
        "min": found.least,
        "max": found.most,
        "norm": found.norm,
        "zeros": found.zeros,
        "nan": found.nans,
        "infinite": found.infinities,
    }


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


# --- some layers ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One tensor, as it is drawn."""

    meta: TensorMeta
    found: Statistics
    quantiles: Mapping[float, float]
    grid: Grid
    cell: tuple[int, int]
    """Rows and columns of weights that a cell stands for."""


def layers(model: Model, survey: Survey, keys: Sequence[str], scaling: Scaling, pool: Pool) -> Report:
    """A table of the tensors, and pictures of the first of them."""
    from .kernels import statistics

    metas = [model.meta(key) for key in keys]
    found = survey.each(keys, [model], lambda key, blocks: statistics(blocks), what="reading")
    drawn = _drawn(model, survey, dict(zip(keys[:DRAWN], found, strict=False)))
    rows = [_layer_row(meta, one) for meta, one in zip(metas, found, strict=True)]
    lines = [] if len(keys) == 1 else [f"{len(keys):,} tensors match."]
    if len(keys) > DRAWN:
        lines.append(f"The first {DRAWN} are drawn; a narrower --layer draws others.")
    return Report(
        title=f"Layer: {keys[0]}" if len(keys) == 1 else f"Layers: {len(keys):,} tensors",
        text="\n\n".join([*lines, *map(_words, drawn)]),
        rows=rows,
        data={
            "scaling": scaling,
            "layers": {
                meta.key: {"dtype": meta.dtype, "shape": list(meta.shape), **_numbers(one)}
                for meta, one in zip(metas, found, strict=True)
            },
            "quantiles": {layer.meta.key: {f"{q:g}": value for q, value in layer.quantiles.items()} for layer in drawn},
        },
        figures={_caption(layer, scaling, pool): partial(_matrix, layer, scaling, pool) for layer in drawn},
    )


def _drawn(model: Model, survey: Survey, found: Mapping[str, Statistics]) -> list[Layer]:
    from .kernels import pooled

    keys = list(found)
    shapes = {key: as_matrix(model.meta(key).shape) for key in keys}
    cells = {key: (-(-rows // CELLS) or 1, -(-columns // CELLS) or 1) for key, (rows, columns) in shapes.items()}
    grids = survey.each(
        keys, [model], lambda key, blocks: pooled(blocks, shapes[key], cells[key]), what="drawing the layers"
    )
    quantiles = _quantiles(model, survey, found)
    return [
        Layer(model.meta(key), found[key], quantiles[key], grid, cells[key])
        for key, grid in zip(keys, grids, strict=True)
    ]


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns that a tensor is drawn with; those of a vector are folded to about four times as wide."""
    if len(shape) >= 2:
        return shape[0], math.prod(shape[1:])
    size = math.prod(shape)
    width = min(size, 16 if size <= 64 else 1 << (4 * size - 1).bit_length() // 2)
    return -(-size // width) if width else 0, width


def _quantiles(model: Model, survey: Survey, found: Mapping[str, Statistics]) -> dict[str, dict[float, float]]:
    """Of each tensor the elements of certain ranks among the finite ones, as float32."""
    from .kernels import numbers, spots

    keys = [key for key, one in found.items() if one.finite]
    ranks = {key: [round(q * (found[key].finite - 1)) for q in QUANTILES] for key in keys}
    first = survey.each(keys, [model], lambda key, blocks: spots(blocks, ranks[key]), what="finding quantiles")
    where = dict(zip(keys, first, strict=True))
    values = survey.each(keys, [model], lambda key, blocks: numbers(blocks, where[key]), what="finding quantiles")
    known = {key: dict(zip(QUANTILES, value, strict=True)) for key, value in zip(keys, values, strict=True)}
    return {key: known.get(key, {}) for key in found}


def _layer_row(meta: TensorMeta, found: Statistics) -> dict[str, Any]:
    return {
        "tensor": meta.key,
        "shape": words_of_shape(meta.shape),
        "dtype": meta.dtype,
        "min": found.least,
        "max": found.most,
        "mean": found.mean,
        "std": found.std,
        "zeros": found.zeros,
        "not finite": found.nonfinite,
    }


def _words(layer: Layer) -> str:
    meta, found = layer.meta, layer.found
    lines = [f"{meta.key}: {words_of_shape(meta.shape)}, {meta.dtype}, {meta.numel:,} elements"]
    if found.finite:
        lines.append(
            f"  min {found.least:.4g}, max {found.most:.4g}, mean {found.mean:.4g}, std {found.std:.4g}, "
            f"norm {found.norm:.4g}"
        )
        lines.append("  quantiles: " + ", ".join(f"{q:.3g} → {value:.4g}" for q, value in layer.quantiles.items()))
    counts = [(found.zeros, "zero"), (found.nans, "NaN"), (found.infinities, "infinite")]
    lines += [f"  {count:,} of them ({100 * count / found.count:.3g} %) {what}" for count, what in counts if count]
    return "\n".join(lines)


def _caption(layer: Layer, scaling: Scaling, pool: Pool) -> str:
    """What is drawn, and all that was done to it."""
    rows, columns = layer.cell
    words = [f"{layer.meta.key}: {words_of_shape(layer.meta.shape)}, {layer.meta.dtype}"]
    if rows * columns > 1:
        shown = "the weight of greatest magnitude" if pool == "extreme" else "the mean"
        words.append(f"each cell is {shown} of {rows} × {columns}")
    if scaling == "log":
        words.append("log10 of the magnitude; zeros are blank")
    elif scaling != "none":
        by = _divisor(layer, scaling)
        words.append(f"divided by the {scaling}, {by:.4g}" if by else f"not scaled, as there is no {scaling} but 0")
    if layer.found.nonfinite:
        words.append(f"cells with NaN ({layer.found.nans:,}) or infinity ({layer.found.infinities:,}) in yellow")
    return "; ".join(words)


def _divisor(layer: Layer, scaling: Scaling) -> float:
    """0 where there is none."""
    found = layer.found
    by = {"mean": found.mean, "max": found.most, "min": found.least, "std": found.std}
    return by.get(scaling, 1.0) or 0.0


def _matrix(layer: Layer, scaling: Scaling, pool: Pool) -> Figure:
    """The cells of a layer as a picture with a colour bar; the axes count weights."""
    import torch
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure

    from .charts import BROKEN, diverging, sequential

    rows, columns = as_matrix(layer.meta.shape)
    values = layer.grid.extreme if pool == "extreme" else layer.grid.mean
    values = values.abs().log10() if scaling == "log" else values / (_divisor(layer, scaling) or 1.0)
    width, height = _size(rows, columns)
    figure = Figure(figsize=(width + 1.6, height + 0.9))
    axes = figure.subplots()
    axes.set_title(layer.meta.key, fontsize=9, loc="left")
    known = values[values.isfinite()]
    if not known.numel() and not bool(layer.grid.broken.any()):
        axes.text(0.5, 0.5, "no elements" if not layer.meta.numel else "all zeros", ha="center", va="center")
        axes.set_axis_off()
        return figure
    low, high, extend = _limits(known)
    both = low < 0 < high
    extent = (0, columns, rows, 0)
    picture = axes.imshow(
        values.masked_fill(~values.isfinite(), math.nan).numpy(),
        cmap=diverging() if both else sequential(),
        norm=Normalize(low, high),
        extent=extent,
        aspect="auto",
        interpolation="nearest",
    )
    if bool(layer.grid.broken.any()):
        broken = layer.grid.broken.to(torch.float32)
        marked = broken.masked_fill(broken == 0, math.nan).numpy()
        axes.imshow(marked, cmap=ListedColormap([BROKEN]), extent=extent, aspect="auto", interpolation="nearest")
    if len(layer.meta.shape) < 2:
        axes.set_xlabel(f"element, {columns} in a row")
        axes.set_yticks([])
    else:
        axes.set_xlabel("column: all other dimensions" if len(layer.meta.shape) > 2 else "column")
        axes.set_ylabel("row: first dimension")
    if known.numel():
        figure.colorbar(picture, ax=axes, extend=extend, label=_unit(scaling), fraction=0.05, pad=0.02, aspect=30)
    return figure


def _size(rows: int, columns: int) -> tuple[float, float]:
    """Inches of a picture with square cells where that is possible, and never a thin strip."""
    ratio = min(max(rows / max(columns, 1), 0.18), 1.0)
    return 8.2, 8.2 * ratio


def _limits(values: Tensor) -> tuple[float, float, str]:
    """Of the colours: all values, but for the outermost where they would leave the others without contrast."""
    import torch

    if not values.numel():
        return 0.0, 1.0, "neither"
    low, high = float(values.min()), float(values.max())
    inner = torch.quantile(values.reshape(-1), torch.tensor([0.002, 0.998], dtype=values.dtype)).tolist()
    if low < 0 < high:
        bound = max(map(abs, inner))
        most = max(-low, high)
        bound = bound if 0 < bound < 0.75 * most else most
        extend = {(True, True): "both", (True, False): "min", (False, True): "max"}
        return -bound, bound, extend.get((low < -bound, high > bound), "neither")
    if high > low and inner[1] > inner[0] and inner[1] - inner[0] < 0.6 * (high - low):
        return inner[0], inner[1], "both"
    return (low, high, "neither") if high > low else (low - 0.5, high + 0.5, "neither")


def _unit(scaling: Scaling) -> str:
    return {"none": "weight", "log": "log10 |weight|"}.get(scaling, f"weight / {scaling}")
