"""Weights that are NaN or infinite: counted in what is written, told from overflow, and what is done about them.

Counting costs one fast loop over what is written; everything else happens only where something was found.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import loops
from .dtypes import FLOATS, torch_dtype
from .errors import PlanError
from .recipe import OnNonfinite
from .values import Model, Span, TensorMeta
from .views import CastView, ModelView

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Counted", "Nonfinite", "count_suspicious", "uncast"]


@dataclass
class Counted:
    """What was found in a piece of a tensor."""

    nonfinite: int = 0
    """Elements that are NaN or infinite; also where fp8 holds its largest number for an infinity."""
    overflowed: int = 0
    """Elements that were finite, and too large for the dtype they are stored in."""


class Nonfinite:
    """Looks at what is written, span by span, from any thread.

    Args:
        result: what computes it, for finding out what a number was before it was rounded to its storage dtype.
    """

    def __init__(self, result: Model, policy: OnNonfinite) -> None:
        self._result, self._policy = result, policy
        self._lock = threading.Lock()
        self._counted: dict[str, Counted] = {}

    def add(self, key: str, piece: Counted) -> None:
        """Something was found in a piece of this tensor, or nothing."""
        if piece.nonfinite or piece.overflowed:
            with self._lock:
                tensor = self._counted.setdefault(key, Counted())
                tensor.nonfinite += piece.nonfinite
                tensor.overflowed += piece.overflowed

    def found(self) -> dict[str, int]:
        """By tensor, see :attr:`Counted.nonfinite`."""
        return {key: one.nonfinite for key, one in sorted(self._counted.items()) if one.nonfinite}

    def overflowed(self) -> dict[str, int]:
        """By tensor, see :attr:`Counted.overflowed`."""
        return {key: one.overflowed for key, one in sorted(self._counted.items()) if one.overflowed}

    def check(self, meta: TensorMeta, span: Span, data: memoryview, piece: Counted) -> memoryview:
        """The bytes to write for a span of ``piece``. Raises :class:`.PlanError` where the policy is to stop."""
        if meta.dtype not in FLOATS or not count_suspicious(data, meta.dtype):
            return data
        import torch

        stored = _elements(data, meta.dtype)
        bad = ~_isfinite(stored)
        wide = uncast(self._result)
        before = stored if wide is None else wide.read(meta.key, span)
        # fp8 holds its largest number in the place of an infinity.
        bad |= ~_isfinite(before)
        large = _isfinite(before) & (before.double().abs() >= _too_large(meta.dtype))
        count = int(bad.sum())
        piece.nonfinite += count
        piece.overflowed += int(large.sum())
        if count and self._policy == "error":
            raise _refused(meta, count, int((bad & large).sum()))
        if count and self._policy == "zero":
            copy = bytearray(data)
            torch.frombuffer(copy, dtype=torch.uint8).view(stored.numel(), -1)[bad] = 0
            return memoryview(copy)
        return data


def uncast(result: Model) -> Model | None:
    """The model before its tensors are rounded to their storage dtype, where that can be had."""
    if isinstance(result, ModelView):
        return result.unrounded()
    return result.model if isinstance(result, CastView) else None


def count_suspicious(data: memoryview, dtype: str) -> int:
    """How many stored elements, of a float dtype, are NaN, infinite, or a largest number that stands for more."""
    if dtype in loops.DTYPES and loops.available():
        return loops.count_nonfinite(data, dtype)
    if dtype in _LARGEST:
        import numpy as np

        return int(np.count_nonzero((np.frombuffer(data, np.uint8) & 0x7F) >= _LARGEST[dtype]))
    from .kernels import count_nonfinite

    return count_nonfinite(_elements(data, dtype)) if data.nbytes else 0


_LARGEST = {"F8_E4M3": 0x7E, "F8_E5M2": 0x7B}
"""The bits of the largest number; those of NaN and infinity are above."""


def _too_large(dtype: str) -> float:
    """The least magnitude that is rounded to more than the dtype can hold: the largest and half of what is next.

    What is computed is float32 or has the dtype itself, so wider dtypes hold all of it.
    """
    import torch

    if dtype in ("F32", "F64"):
        return math.inf
    info = torch.finfo(torch_dtype(dtype))
    return info.max + info.eps * 2.0 ** math.floor(math.log2(info.max)) / 2


def _elements(data: memoryview, dtype: str) -> Tensor:
    import torch

    return torch.frombuffer(data, dtype=torch_dtype(dtype))


def _isfinite(values: Tensor) -> Tensor:
    return (values if values.element_size() > 1 else values.float()).isfinite()


def _refused(meta: TensorMeta, bad: int, overflowed: int) -> PlanError:
    if overflowed == bad:
        what = f"at least {bad} values are too large for {meta.dtype}"
        hint = "Choose a wider --dtype, or --on-nonfinite zero, or keep to write them as they are."
    else:
        what = f"at least {bad} values are NaN or infinite"
        hint = "daremerge report health shows which inputs have them. --on-nonfinite zero writes zeros in their place."
    return PlanError(f"tensor {meta.key!r}: {what}; nothing was written.", hint=hint)
