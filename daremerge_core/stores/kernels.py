"""Masks as bits: element i is bit i mod 8, from the least significant, of byte i div 8."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["count_bits", "pack_bits", "unpack_bits"]

_ONES = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)


def pack_bits(mask: Tensor) -> Tensor:
    """A bool tensor of n elements (any shape) → uint8 of ⌈n/8⌉ bytes; the spare bits of the last byte are 0."""
    return torch.from_numpy(np.packbits(mask.cpu().reshape(-1).numpy(), bitorder="little"))


def unpack_bits(packed: Tensor, start: int, stop: int) -> Tensor:
    """Elements ``start`` to ``stop`` of packed bits (1-D uint8) → bool of ``stop - start`` elements."""
    first = start // 8
    whole = packed[first : -(-stop // 8)].numpy()
    bits = np.unpackbits(whole, count=stop - 8 * first, bitorder="little")
    return torch.from_numpy(bits[start - 8 * first :].view(np.bool_))


def count_bits(packed: Tensor, numel: int) -> int:
    """How many of the first ``numel`` packed bits (1-D uint8) are 1; the spare ones of the last byte do not count."""
    whole, rest = packed.numpy()[: numel // 8], numel % 8
    last = int(packed[numel // 8]) & ((1 << rest) - 1) if rest else 0
    return int(_ONES[whole].sum(dtype=np.int64)) + last.bit_count()
