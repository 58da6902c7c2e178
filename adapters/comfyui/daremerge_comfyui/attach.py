"""Putting merged tensors into a clone of a MODEL or CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["attached"]


def attached(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A clone of what came through a MODEL or CLIP socket, with these weights in place of its own.

    One ``set`` patch for each changed key, added in one call (a call for each takes a thousand times as long). The
    patches that were there for these keys are in the new weights already, so they go.
    """
    clone = value.clone()
    patcher = clone.patcher if hasattr(clone, "cond_stage_model") else clone
    for key in tensors:
        patcher.patches.pop(key, None)
    patcher.add_patches({key: ("set", (tensor,)) for key, tensor in tensors.items()}, 1.0)
    return clone
