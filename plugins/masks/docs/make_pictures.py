"""Draw the pictures of the README: ``python make_pictures.py`` (needs matplotlib).

``masks.png``: every panel is the mask itself, read from a view over one made-up weight matrix. ``unet.png``: the share
that masks select of each block of Stable Diffusion 1.5's U-Net, of made-up fine-tunes that moved its middle most.
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
from daremerge_core.testing.layouts import load
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


# --- over a U-Net ------------------------------------------------------------------------------------

SIDE = 40
"""The made-up U-Net has SD1.5's names and its shapes, their sides cut to this."""
CONTEXT = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
"""Its width is what SD1.5 is recognised by."""


def unets() -> tuple[MemoryModel, list[MemoryModel]]:
    """A base of zeros and three fine-tunes of it, which moved the middle most, and there cross-attention."""
    generator = torch.Generator().manual_seed(5)
    shapes = {
        key: (1, 768) if key.endswith(CONTEXT) else tuple(min(size, SIDE) for size in meta.shape)
        for key, meta in load("sd15").items()
        if key.startswith("model.diffusion_model.")
    }
    base = MemoryModel({key: torch.zeros(shape) for key, shape in shapes.items()})
    layout = view(Random(model=base)).layout
    tuned: list[dict[str, Tensor]] = [{}, {}, {}]
    for key, shape in shapes.items():
        depth = layout.place(key).depth
        strength = 0.3 if depth is None else 2.0 - 3.0 * abs(depth - 0.5)
        shared = torch.randn(shape, generator=generator)
        for model in tuned:
            own = torch.randn(shape, generator=generator)
            model[key] = (own + 0.7 * shared) * strength * (2.0 if ".attn2." in key else 1.0)
    return base, [MemoryModel(model) for model in tuned]


def shares() -> tuple[list[str], list[tuple[str, list[float]]]]:
    """Names of the blocks, and for each mask the share of each block that it selects."""
    base, (model, *others) = unets()
    protect = mask_of(Magnitude(model=model, base=base))
    masks: list[tuple[str, Masker | MaskEditor]] = [
        ("magnitude below 0.8, over tensor", Magnitude(model=model, base=base)),
        ("magnitude below 0.8, over block", Magnitude(model=model, base=base, over="block")),
        ("magnitude below 0.8, over model", Magnitude(model=model, base=base, over="model")),
        ("magnitude above 0.8, over model", Magnitude(model=model, base=base, over="model", select="above")),
        ("sign-agreement of three models", SignAgreement(model=model, others=others, base=base)),
        ("overlap with two models, λ = 1", Overlap(model=model, others=others, base=base, strength=1.0)),
        ("random, probability 0.3", Random(model=model, probability=0.3)),
        ("partition, index 1 of 4", Partition(model=model)),
        ("pattern checkerboard", Pattern(model=model)),
        ("edit of the first: *.attn2.* to false", Edit(mask=protect, include="*.attn2.*", to="false")),
        ("edit of the first: output_blocks to false", Edit(mask=protect, include="output_blocks", to="false")),
    ]
    layout = view(Random(model=base)).layout
    blocks: dict[str, list[str]] = {}
    for key in base.keys():
        blocks.setdefault(str(layout.place(key).block), []).append(key)
    order = layout.blocks("unet")
    rows = []
    for title, component in masks:
        mask = mask_of(component)
        found = [torch.cat([mask.read(key).reshape(-1) for key in blocks[block]]) for block in order]
        rows.append((title, [float(selected.float().mean()) for selected in found]))
    return [short(block) for block in order], rows


def short(block: str) -> str:
    """``input_blocks.1`` → ``IN01``."""
    word, _, number = block.partition(".")
    names = {"input_blocks": "IN", "output_blocks": "OUT"}
    return f"{names[word]}{int(number):02}" if word in names else block.replace("middle_block", "M")


def draw_unet(names: Sequence[str], rows: Sequence[tuple[str, list[float]]]) -> Figure:
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    axes = figure.subplots()
    values = torch.tensor([shares for _, shares in rows])
    axes.pcolormesh(values.numpy(), cmap="Blues", vmin=0.0, vmax=1.0, edgecolors="white", linewidth=1.5)
    for row, (_, found) in enumerate(rows):
        for column, share in enumerate(found):
            colour = "white" if share > 0.6 else "black"
            place = (column + 0.5, row + 0.5)
            axes.annotate(f"{100 * share:.0f}", place, color=colour, size=9, ha="center", va="center")
    axes.set_yticks([row + 0.5 for row in range(len(rows))], [title for title, _ in rows])
    axes.set_xticks([column + 0.5 for column in range(len(names))], names, rotation=90)
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


if __name__ == "__main__":
    with rc_context({"font.size": 13, "axes.titlesize": "medium"}):  # to be read at half size
        draw(panels()).savefig(HERE / "masks.png", dpi=100, metadata={"Software": None})
    with rc_context({"font.size": 12}):
        draw_unet(*shares()).savefig(HERE / "unet.png", dpi=100, metadata={"Software": None})
