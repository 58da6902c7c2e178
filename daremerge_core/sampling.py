"""A look at a few weights before a merge: enough to say when a method's assumptions do not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .dtypes import torch_dtype
from .stores.tensors import stored_bytes
from .values import Model, Span
from .views import ModelView, computes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LARGE", "largest_change", "sample_changes"]

TENSORS = 24
ELEMENTS = 1 << 13
"""Of each tensor, from its middle."""


LARGE = 0.01
"""Root mean square of changes above which dropping most of them at random loses what was learned: DARE's paper finds
that deltas up to 0.002 may be dropped, and failure near 0.03."""


def largest_change(merge: ModelView) -> float:
    """Root mean square of what a model changed, of the model that changed most; 0 where it cannot be told."""
    return max((float((one * one).mean()) ** 0.5 for one in sample_changes(merge)), default=0.0)


def sample_changes(merge: ModelView) -> list[NDArray[np.float64]]:
    """What each merged model changed of the base, for a few thousand elements of some matrices.

    The models are those of the port ``models``, or ``b``; the base that of ``base``, else ``a``. Nothing where one of
    them is computed rather than read, which could take long, or where no tensor is a matrix.
    """
    import numpy as np

    component = merge.component
    models: list[Any] = list(getattr(component, "models", None) or [getattr(component, "b", None)])
    base: Any = getattr(component, "base", None) or getattr(component, "a", None)
    if any(one is None or computes(one) for one in (*models, base)):
        return []
    keys = [key for key in merge.active_keys() if len(merge.anchor.meta(key).shape) > 1]
    chosen = keys[:: max(len(keys) // TENSORS, 1)][:TENSORS]
    if not chosen:
        return []

    def read(model: Model, key: str) -> NDArray[np.float64]:
        numel = min(one.meta(key).numel for one in (*models, base))
        start = max(numel - ELEMENTS, 0) // 2
        return _numbers(model, key, Span(start, min(start + ELEMENTS, numel)))

    found: list[list[NDArray[np.float64]]] = [[] for _ in models]
    for key in chosen:
        origin = read(base, key)
        for index, model in enumerate(models):
            found[index].append(read(model, key) - origin)
    return [np.concatenate(pieces) for pieces in found]


def _numbers(model: Model, key: str, span: Span) -> NDArray[np.float64]:
    """Some elements as float64; those of usual dtypes without torch, which takes long to import."""
    import numpy as np

    dtype, data = model.meta(key).dtype, stored_bytes(model, key, span)
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype in _NUMPY:
        return np.frombuffer(data, _NUMPY[dtype]).astype(np.float64)
    import torch

    return torch.frombuffer(data, dtype=torch_dtype(dtype)).double().numpy()


_NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
