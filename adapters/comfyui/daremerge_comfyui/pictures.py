"""A report as what a node gives: text, and a picture."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from daremerge_core import Report
from daremerge_core.rendering.text import to_text

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["as_image", "as_text"]


def as_text(report: Report) -> str:
    return to_text(report)


def as_image(report: Report) -> Tensor:
    """float32 ``[1, height, width, 3]`` in 0–1: all figures of the report, one below the other; else its text."""
    import numpy
    import torch
    from PIL import Image

    from daremerge_core.rendering.pictures import text_to_png, to_png

    png = to_png(report, "dark") if report.figures else text_to_png(to_text(report), "dark")
    with Image.open(io.BytesIO(png)) as picture:
        pixels = numpy.asarray(picture.convert("RGB"), dtype=numpy.float32) / 255.0
    return torch.from_numpy(pixels)[None]
