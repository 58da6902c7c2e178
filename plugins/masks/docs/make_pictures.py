"""Draw masks.png, the picture of the README: ``python make_pictures.py`` (needs matplotlib).

Every panel is the mask itself, read from a view over one made-up weight matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from daremerge_core import Mask, MaskEditor, Masker, MemoryModel, view
from daremerge_masks.components import (
    Difference,
    Edit,
    Gaussian,
    Intersect,
    Invert,
    Magnitude,
    Nothing,
    Overlap,
    Partition,
    Pattern,
    Random,
    SignAgreement,
    Union,
    Xor,
)

HERE = Path(__file__).parent
ROWS, COLUMNS = 12, 18
LAYERS = ("first", "second", "third")
"""Of the model that an edit is shown on, from top to bottom."""
MASK = ListedColormap(["0.93", "tab:blue"])
SETS = ListedColormap(["tab:blue", "tab:orange", "tab:green", "tab:red"])

Panel = tuple[str, Tensor, str | Colormap]
"""Title, what to show, colours."""


def fine_tunes() -> list[MemoryModel]:
    """Three models over a base of zeros, whose changes are partly shared and stronger in some rows and columns."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(4, ROWS, COLUMNS, generator=generator)
    where = torch.rand(3, ROWS, 1, generator=generator) + torch.rand(3, 1, COLUMNS, generator=generator)
    return [MemoryModel({"w": where[i] ** 2 * (0.7 * noise[i] + noise[3])}) for i in range(3)]


def mask_of(component: Masker | MaskEditor) -> Mask:
    value = view(component)
    assert isinstance(value, Mask)
    return value


def selected(component: Masker | MaskEditor) -> Tensor:
    return mask_of(component).read("w")


def panels() -> list[Panel]:
    model, *others = fine_tunes()
    base = MemoryModel({"w": torch.zeros(ROWS, COLUMNS)})
    parts = [selected(Partition(model=model, index=index)) for index in (1, 2, 3, 4)]
    left, top = (mask_of(Pattern(model=model, shape=shape)) for shape in ("left", "top"))
    masks: list[tuple[str, Masker | MaskEditor]] = [
        ("magnitude\nbelow 0.8", Magnitude(model=model, base=base)),
        ("magnitude\nabove 0.8", Magnitude(model=model, base=base, select="above")),
        ("sign-agreement\nof three models", SignAgreement(model=model, others=others, base=base)),
        ("overlap with\ntwo models, λ = 1", Overlap(model=model, others=others, base=base, strength=1.0)),
        ("random\nprobability 0.5", Random(model=model)),
        ("gaussian\nthreshold 1", Gaussian(model=model, threshold=1.0)),
        ("pattern\nrows, size 2", Pattern(model=model, shape="rows", size=2)),
        ("pattern\ncheckerboard", Pattern(model=model)),
        ("pattern\nupper-triangle", Pattern(model=model, shape="upper-triangle")),
        ("pattern\nleft", Pattern(model=model, shape="left")),
        ("union\nof left and top", Union(masks=[left, top])),
        ("intersect\nleft and top", Intersect(masks=[left, top])),
        ("difference\nleft without top", Difference(masks=[left, top])),
        ("xor\nof left and top", Xor(masks=[left, top])),
        ("invert\nleft", Invert(mask=left)),
    ]
    shown: list[Panel] = [(title, selected(component), MASK) for title, component in masks]
    shown.insert(0, ("|model − base|\ndarker is more", model.read("w").abs(), "Greys"))
    numbers = torch.stack(parts).to(torch.uint8).argmax(0)
    shown.insert(7, ("partition\nindex 1, 2, 3, 4", numbers, SETS))
    shown.append(("edit: the second of\nthree layers, to false", edited(), MASK))
    return shown


def edited() -> Tensor:
    """Three layers of a mask one above the other, with a blank row between two; one of them was edited."""
    model = MemoryModel({name: torch.zeros(3, COLUMNS) for name in LAYERS})
    mask = mask_of(Edit(mask=mask_of(Pattern(model=model)), include="second", to=Nothing(model=model)))
    blank = torch.full((1, COLUMNS), torch.nan)
    rows = [part for name in LAYERS for part in (blank, mask.read(name).float())]
    return torch.cat(rows[1:])


def draw(shown: Sequence[Panel]) -> Figure:
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    for axes, (title, values, colours) in zip(figure.subplots(3, 6).flat, shown, strict=True):
        draw_panel(axes, title, values, colours)
    return figure


def draw_panel(axes: Axes, title: str, values: Tensor, colours: str | Colormap) -> None:
    axes.pcolormesh(values.float().flip(0).numpy(), cmap=colours, edgecolors="white", linewidth=0.6)
    axes.set_title(title)
    axes.set_aspect("equal")
    axes.axis("off")


if __name__ == "__main__":
    with rc_context({"font.size": 13, "axes.titlesize": "medium"}):  # to be read at half size
        draw(panels()).savefig(HERE / "masks.png", dpi=100, metadata={"Software": None})
