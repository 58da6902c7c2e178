"""Gradients along a model's depth: a curve through points, on any architecture."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from daremerge_core import GradientFamily, Layout, Place

from .options import Part

__all__ = ["DepthGradient", "Interpolation", "curve"]

Interpolation = Literal["linear", "cosine", "step"]


def curve(points: Sequence[tuple[float, float]], depth: float, interpolation: Interpolation) -> float:
    """The height at ``depth`` of the curve through ``points``, (depth, height) in rising depth.

    Before the first point and behind the last the curve is flat. Between two it is a line; half a cosine wave, flat
    at both ends; or for ``step`` the height of the nearer to the start.
    """
    after = bisect_right(points, depth, key=lambda point: point[0])
    if after in (0, len(points)):
        return points[max(after - 1, 0)][1]
    (start, low), (stop, high) = points[after - 1], points[after]
    if interpolation == "step":
        return low
    t = (depth - start) / (stop - start)
    if interpolation == "cosine":
        t = (1.0 - math.cos(math.pi * t)) / 2.0
    return low + (high - low) * t


def _numbers_as_text(points: Any) -> Any:
    """YAML and Python let a person write 0.5 for a key; JSON has text only."""
    if not isinstance(points, dict):
        return points
    return {str(key) if type(key) in (int, float) else key: ratio for key, ratio in points.items()}


class DepthGradient(GradientFamily):
    """A curve over relative depth, by points: 0 is the first block of a network, 1 its last.

    Every network has depths of its own: the denoiser, each text encoder, the autoencoder. ``along`` layers counts the
    numbered layers alone, as language models' tools do: of n layers, the i-th is at i/(n − 1), and embeddings, the last
    norm and the head have no depth.
    """

    name = "depth"
    points: Annotated[dict[str, float], BeforeValidator(_numbers_as_text)] = Field(
        min_length=1, description="Ratios by depth from 0 to 1, e.g. 0: 1, 0.5: 0.2, 1: 1. 1 keeps A, 0 takes B."
    )
    interpolation: Interpolation = Field(
        "linear", description="Between points: a line, a cosine wave, or the last point's ratio until the next."
    )
    along: Literal["blocks", "layers"] = Field(
        "blocks", description="What depth is counted in: all blocks of a network, or its numbered layers alone."
    )
    rest: float | None = Field(
        None, description="Ratio of tensors without depth, e.g. the timestep's embedding; not given: left alone."
    )
    parts: list[Part] | None = Field(
        None, min_length=1, description="Only in these parts: unet, clip, vae, lm, other; others are left alone."
    )

    @field_validator("points")
    @classmethod
    def _are_depths(cls, points: dict[str, float]) -> dict[str, float]:
        depths = [_depth(text) for text in points]
        twice = [text for text, depth in zip(points, depths, strict=True) if depths.count(depth) > 1]
        if twice:
            raise ValueError(f"{' and '.join(twice)} are one depth: give each depth one ratio")
        return points

    def for_layout(self, layout: Layout) -> Callable[[Place], float | None]:
        depth_of = _layer_depths(layout) if self.along == "layers" else _own_depth
        if not any(depth_of(place) is not None and self._covers(place) for place in layout.places()):
            raise ValueError(
                f"nothing here has a depth: in this {layout.arch} model the order of the blocks is not known. "
                "Name the blocks with gradient.mbw, or layers with gradient.pattern"
                + (", or widen parts" if self.parts else "")
            )
        points = sorted((_depth(text), ratio) for text, ratio in self.points.items())

        def ratio(place: Place) -> float | None:
            if not self._covers(place):
                return None
            depth = depth_of(place)
            return self.rest if depth is None else curve(points, depth, self.interpolation)

        return ratio

    def _covers(self, place: Place) -> bool:
        return self.parts is None or place.part in self.parts


def _own_depth(place: Place) -> float | None:
    return place.depth


def _layer_depths(layout: Layout) -> Callable[[Place], float | None]:
    """The depth of a place among the numbered layers of its stack; 1 for the layer of a stack of one."""
    stacks: dict[tuple[str, str], set[int]] = {}
    for place in layout.places():
        if (found := _layer_of(place)) is not None:
            stacks.setdefault(found[0], set()).add(found[1])
    depths = {
        (stack, number): index / (len(numbers) - 1) if len(numbers) > 1 else 1.0
        for stack, numbers in stacks.items()
        for index, number in enumerate(sorted(numbers))
    }

    def depth(place: Place) -> float | None:
        found = _layer_of(place)
        return None if found is None else depths[found]

    return depth


def _layer_of(place: Place) -> tuple[tuple[str, str], int] | None:
    """Part and stack, and the number in it, of a place in a numbered block."""
    stack, _, number = (place.block or "").rpartition(".")
    return ((place.part, stack), int(number)) if number.isdecimal() else None


def _depth(text: str) -> float:
    try:
        depth = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a depth: write a number from 0 to 1") from None
    if not 0.0 <= depth <= 1.0:
        raise ValueError(f"{text} is not a depth: it runs from 0, the first block, to 1, the last")
    return depth
