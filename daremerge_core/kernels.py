"""The core's few numerics, with no framework inside."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .compiled import compilable
from .loops import count_full
from .rng import accelerated

__all__ = ["add_scaled", "cast", "count_nonfinite", "lerp", "select", "tree_sum"]

EXPONENTS = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80, torch.float32: 0x7F800000}
"""The bits of the exponent; a number has all of them only where it is NaN or infinite."""


def lerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """a + t(b − a), what a ratio of 1 − t means; exactly a at t = 0, exactly b at t = 1, and a where a equals b.

    Written from the nearer end. ``torch.lerp`` is avoided: where a machine can, it fuses the multiplication with
    the addition, in vectors but not in what is left over, so that bits would depend on the span.
    """
    if t in (0.0, 1.0):  # whatever the other side holds, NaN and infinity too
        return b if t else a
    if compilable(a, b) and a.shape == b.shape:
        from . import kernels_numba as fast

        out = torch.empty_like(a)
        if t < 0.5:
            fast.lerp_from_a(_flat(out), _flat(a), _flat(b), t)
        else:
            fast.lerp_from_b(_flat(out), _flat(a), _flat(b), 1.0 - t)
        return out
    return a + (b - a) * t if t < 0.5 else b - (b - a) * (1.0 - t)


def add_scaled(a: Tensor, change: Tensor, scale: float) -> Tensor:
    """a + s · change, each operation rounded (``torch.add`` with an alpha rounds once in places)."""
    if scale == 1.0:
        return a + change
    if compilable(a, change) and a.shape == change.shape:
        from . import kernels_numba as fast

        out = torch.empty_like(a)
        fast.add_scaled(_flat(out), _flat(a), _flat(change), scale)
        return out
    return a + change * scale


def _flat(values: Tensor) -> NDArray[np.float32]:
    """The elements in row-major order, without a copy."""
    return values.reshape(-1).numpy()


def select(keep: Tensor, values: Tensor) -> Tensor:
    """``values`` where ``keep`` (bool), zero elsewhere, also where a value is NaN or infinite.

    The same as ``torch.where(keep, values, 0)`` by bit masks, which is several times faster on a CPU.
    """
    integer = torch.int64 if values.dtype == torch.float64 else torch.int32
    return (values.view(integer) & keep.to(integer).neg_()).view(values.dtype)


def tree_sum(values: Tensor) -> Tensor:
    """Sum of all elements as a 0-d float64 tensor, by a fixed binary tree.

    ``torch.sum`` picks its order of additions by vector width and thread count; halving the array with plain
    element-wise additions gives the same bits on every machine.
    """
    flat = values.reshape(-1).to(torch.float64)
    size = 1 << max(flat.numel() - 1, 0).bit_length()
    if flat.numel() < size:
        flat = torch.cat([flat, flat.new_zeros(size - flat.numel())])
    while flat.numel() > 1:
        half = flat.numel() // 2
        flat = flat[:half] + flat[half:]
    return flat.reshape(())


def cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` in a storage dtype, rounding to nearest even."""
    return values if values.dtype == dtype else values.to(dtype)


def count_nonfinite(values: Tensor) -> int:
    """How many elements are NaN or infinite. Cheap when there are none."""
    if not values.numel():
        return 0
    if accelerated() and values.dtype in EXPONENTS and values.device.type == "cpu" and values.is_contiguous():
        integer = torch.int16 if values.element_size() == 2 else torch.int32
        return count_full(values.reshape(-1).view(integer).numpy(), EXPONENTS[values.dtype])
    wide = values if values.element_size() > 1 else values.to(torch.float32)
    if bool(torch.isfinite(wide.sum(dtype=torch.float64 if wide.dtype == torch.float64 else torch.float32))):
        return 0
    return int((~torch.isfinite(wide)).sum())
