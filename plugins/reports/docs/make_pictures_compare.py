"""Draw the pictures of the README on comparing: ``python make_pictures_compare.py``.

Needs matplotlib and daremerge-merge-dare, and some seconds. The tensors have the names and shapes of an SDXL
checkpoint; the numbers in them are made up, and of each tensor only the first thousand are looked at.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from daremerge_core import Mask, Model, Report, Span, Survey, TensorMeta, view
from daremerge_core.api import report_on
from daremerge_core.catalog import discover
from daremerge_core.engine import Pool, Quiet
from daremerge_core.layout import Layout, Place, detect
from daremerge_core.plan import Plan
from daremerge_core.recipe import parse_recipe, resolve
from daremerge_core.rendering.pictures import draw
from daremerge_core.survey import Block
from daremerge_core.testing.layouts import load
from daremerge_reports.conflict import Conflict
from daremerge_reports.diff import Diff

HERE = Path(__file__).parent
SAMPLE = 1000
"""Elements of a tensor that are looked at."""
R = TypeVar("R")


class MadeUp:
    """An SDXL checkpoint with made-up weights: a base, and what a fine-tune has added to it."""

    def __init__(self, path: str, amount: Callable[[Place], float] = lambda place: 0.0, seed: int = 0) -> None:
        """``amount``: the size of the fine-tune's change there, by that of the base."""
        self.path = path
        self._metas = load("sdxl")
        self._layout = detect(self._metas)
        self._amount, self._seed = amount, seed

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    def keys(self) -> Sequence[str]:
        return list(self._metas)

    def meta(self, key: str) -> TensorMeta:
        return self._metas[key]

    def read(self, key: str, span: Span | None = None) -> Tensor:
        assert span is not None
        weights = _noise(key, 0, span)
        place = self._layout.place(key)
        amount = self._amount(place)
        alike = 0.95 - 0.8 * (place.depth or 0.0)  # cosine of any two fine-tunes' changes: they agree early, if at all
        change = _noise(key, 1, span) * alike**0.5 + _noise(key, self._seed, span) * (1 - alike) ** 0.5
        return (weights + change * amount if amount else weights).half()

    def close(self) -> None: ...


def _noise(key: str, seed: int, span: Span) -> Tensor:
    return torch.randn(span.stop, generator=torch.Generator().manual_seed(zlib.crc32(f"{seed} {key}".encode())))[
        span.start :
    ]


def styled(place: Place) -> float:
    """A fine-tune for a style: most of all in the later half of the U-Net, and not in the VAE."""
    if place.part == "vae":
        return 0.0
    depth = place.depth or 0.0
    size = 0.05 * math.exp(3 * (depth - 1)) if place.part == "unet" else 0.004 * (1 + depth)
    return size * (3.0 if place.role in ("attn.q", "attn.k", "attn.v", "attn.qkv") else 1.0)


def concept(place: Place) -> float:
    """A fine-tune for a concept: in the middle of the U-Net and in the text encoders."""
    if place.part == "vae":
        return 0.0
    depth = place.depth or 0.0
    size = 0.03 * math.exp(-((depth - 0.5) ** 2) * 12) if place.part == "unet" else 0.02 * (1.2 - depth)
    return size * (2.0 if place.role.startswith("attn") else 1.0)


class Sampled(Survey):
    """A survey that looks at the first elements of each tensor alone."""

    def __init__(self) -> None:
        super().__init__(Pool(1, 1 << 30, threading.Event()), Quiet())

    def each(
        self,
        keys: Sequence[str],
        values: Sequence[Model | Mask],
        function: Callable[[str, Iterator[Block]], R],
        *,
        what: str = "",
    ) -> list[R]:
        def block(key: str) -> Block:
            first = values[0]
            assert isinstance(first, Model)
            span = Span(0, min(first.meta(key).numel, SAMPLE))
            read = (value.read(key, span) for value in values)
            return tuple(one if one.dtype == torch.bool else one.float() for one in read)

        return [function(key, iter([block(key)])) for key in keys]


BASE = MadeUp("sdxl.safetensors")
STYLE = MadeUp("style.safetensors", styled, 2)
CONCEPT = MadeUp("concept.safetensors", concept, 3)
PHOTO = MadeUp("photo.safetensors", lambda place: 1.5 * styled(place), 4)


def diff() -> Report:
    return Diff(model=STYLE, reference=BASE).report(Sampled())


def conflict() -> Report:
    return Conflict(origin=BASE, models=[STYLE, CONCEPT, PHOTO]).report(Sampled())


def merge() -> Report:
    """DARE of two fine-tunes, the ratio falling with depth."""
    catalog = discover()
    options = {"base": "sdxl", "drop_rate": 0.9, "gradient": "ratios.json"}
    step = {"op": "merge.dare", "a": "style", "b": "concept", **options}
    models = {name: f"{name}.safetensors" for name in ("sdxl", "style", "concept")}
    graph = resolve(parse_recipe({"models": models, "steps": {"merged": step}, "output": "merged"}), catalog)
    bound = graph.steps["merged"].model_copy(
        update={"a": STYLE, "b": CONCEPT, "base": BASE, "gradient": Falling(detect(load("sdxl")))}
    )
    merged = view(bound, label="merged")
    reporter = report_on(Plan(graph, [], {"merged": merged}, merged), "merge").value
    report: Report = reporter.report(Sampled())
    return report


class Falling:
    """Ratios from 0.9 at the first block to 0.1 at the last."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def keys(self) -> Sequence[str]:
        return [place.key for place in self._layout.places()]

    def ratio(self, key: str) -> float | None:
        place = self._layout.place(key)
        if place.depth is None or place.part == "vae":
            return None
        return 0.9 - 0.8 * place.depth - (0.05 if place.role.startswith("attn") else 0.0)


def main() -> None:
    for report, shown in ((diff, (1,)), (conflict, (1, 2)), (merge, (2, 3))):
        for at, figure in enumerate(report().figures.values(), start=1):
            if at in shown:
                write(HERE / f"{report.__name__}-{at}.png", draw(figure, "light"))


def write(path: Path, picture: bytes) -> None:
    """With as many colours as it takes to look the same, at a third of the size."""
    Image.open(BytesIO(picture)).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
