"""Single layers of a model: their numbers, and their weights as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from daremerge_core import Report

from .statistics import Statistics
from .words import words_of_shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from daremerge_core import Model, Survey, TensorMeta

    from .kernels import Grid

__all__ = ["DRAWN", "Pool", "Scaling", "as_matrix", "layers", "numbers_of"]

Scaling = Literal["none", "mean", "log", "max", "min", "std"]
Pool = Literal["extreme", "mean"]

DRAWN = 6
"""Layers that are drawn at most."""
QUANTILES = (0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999)
CELLS = 512
"""Rows and columns that a picture has at most."""


def numbers_of(found: Statistics) -> dict[str, Any]:
    """Statistics for a report's data."""
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
                meta.key: {"dtype": meta.dtype, "shape": list(meta.shape), **numbers_of(one)}
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
    """Inches of a picture with square cells where that is possible: no thin strip, and no sheet for a few numbers."""
    width = min(8.2, max(3.0, 0.5 * columns))
    return width, width * min(max(rows / max(columns, 1), 0.18), 1.0)


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
