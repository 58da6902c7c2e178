"""Curves over depth: what is drawn can be told apart."""

from __future__ import annotations

import pytest

from daremerge_core.layout import detect
from daremerge_core.testing.layouts import load
from daremerge_reports.blocks import Atlas
from daremerge_reports.curves import curves

matplotlib = pytest.importorskip("matplotlib")


@pytest.mark.parametrize("part", ["unet", None])
def test_two_series_have_two_colours(part: str | None) -> None:
    """In one panel, where the model has one network, as on a canvas; in several, where it has more."""
    layout = detect(load("sd15"))
    places = [place for place in layout.places() if part is None or place.part == part]
    atlas = Atlas(layout, [place.key for place in places])
    blocks = [block for line in atlas.lines() for block in line.blocks]
    series = {"before": dict.fromkeys(blocks, 2.0), "after": dict.fromkeys(blocks, 1.0)}
    figure = curves(atlas, series, label="norm")
    for axes in figure.axes:
        colours = [line.get_color() for line in axes.get_lines()]
        assert len(set(colours)) == len(colours) == (2 if axes.get_visible() else 0)
