"""A look at a few weights before a merge: enough to say when a method's assumptions do not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .values import Model, Span
from .views import Computed, ModelView

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LARGE", "largest_change", "sample_changes"]

TENSORS = 24
ELEMENTS = 1 << 15
"""Of each tensor, from its middle."""


LARGE = 0.01
"""Root mean square of changes above which dropping most of them at random loses what was learned: DARE's paper finds
that deltas up to 0.002 may be dropped, and failure near 0.03."""


def largest_change(merge: ModelView) -> float:
    """Root mean square of what a model changed, of the model that changed most; 0 where it cannot be told."""
    sizes = [float(one.double().square().mean().sqrt()) for one in sample_changes(merge)]
    return max(sizes, default=0.0)


def sample_changes(merge: ModelView) -> list[Tensor]:
    """What each merged model changed of the base, in float32, for a few thousand elements of some matrices.

    The models are those of the port ``models``, or ``b``; the base that of ``base``, else ``a``. Nothing where one of
    them is computed rather than read, which could take long, or where no tensor is a matrix.
    """
    import torch

    component = merge.component
    models: list[Any] = list(getattr(component, "models", None) or [getattr(component, "b", None)])
    base: Any = getattr(component, "base", None) or getattr(component, "a", None)
    if any(one is None or isinstance(one, Computed) for one in (*models, base)):
        return []
    keys = [key for key in merge.active_keys() if len(merge.anchor.meta(key).shape) > 1]
    chosen = keys[:: max(len(keys) // TENSORS, 1)][:TENSORS]
    if not chosen:
        return []

    def read(model: Model, key: str) -> Tensor:
        numel = min(one.meta(key).numel for one in (*models, base))
        start = max(numel - ELEMENTS, 0) // 2
        return model.read(key, Span(start, min(start + ELEMENTS, numel))).to(torch.float32)

    found: list[list[Tensor]] = [[] for _ in models]
    for key in chosen:
        origin = read(base, key)
        for index, model in enumerate(models):
            found[index].append(read(model, key) - origin)
    return [torch.cat(pieces) for pieces in found]
