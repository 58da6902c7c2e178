"""The numbers of the edits. Shapes: all tensors of one call have the same shape, of any rank, unless said otherwise.

Every line is one operation, rounded once, so that the bits do not depend on span or device. For the same reason
nothing is divided by a number on the host: some devices multiply by its reciprocal instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def squares(values: Tensor) -> Tensor:
    """x² in float64, where squares of float32 are exact, and neither overflow nor vanish."""
    wide = values.to(torch.float64)
    return wide * wide


def scale(values: Tensor, cuts: Sequence[tuple[slice, float]]) -> Tensor:
    """``values`` (1-D), cut into consecutive slices, each times its factor."""
    return torch.cat([values[part] * factor for part, factor in cuts])


def gaussian(normal: Tensor, mean: float, std: float) -> Tensor:
    """N(mean, std) from standard normal numbers."""
    return normal * std + mean


def centred(uniform: Tensor) -> Tensor:
    """U(−½, ½) from uniform numbers in [0, 1)."""
    return uniform - 0.5


def clamp(values: Tensor, a: Tensor, b: Tensor, margin: float) -> Tensor:
    """The nearest to x in [min(a, b) − w, max(a, b) + w], w = margin · |a − b|. NaN where any of the three is NaN."""
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    if margin:  # an infinite width times zero would be NaN
        widening = (high - low) * margin
        low, high = low - widening, high + widening
    return torch.minimum(torch.maximum(values, low), high)


def stretch(model: Tensor, base: Tensor, factor: float) -> Tensor:
    """base + factor · (model − base); exactly the model at 1, exactly the base at 0."""
    if factor in (0.0, 1.0):
        return model if factor else base
    return base + (model - base) * factor
