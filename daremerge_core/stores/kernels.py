"""Masks as bits: element i is bit i mod 8, from the least significant, of byte i div 8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["count_bits", "pack_bits", "unpack_bits"]

_ONES = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)


def pack_bits(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """n bools of any shape → uint8 of ⌈n/8⌉ bytes; the spare bits of the last byte are 0."""
    return np.packbits(mask.reshape(-1), bitorder="little")


def unpack_bits(packed: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.bool_]:
    """Elements ``start`` to ``stop`` of packed bits (1-D uint8) → bool of ``stop - start`` elements."""
    first = start // 8
    whole = packed[first : -(-stop // 8)]
    bits = np.unpackbits(whole, count=stop - 8 * first, bitorder="little")
    return bits[start - 8 * first :].view(np.bool_)


def count_bits(packed: NDArray[np.uint8], numel: int) -> int:
    """How many of the first ``numel`` packed bits (1-D uint8) are 1; the spare ones of the last byte do not count."""
    whole, rest = packed[: numel // 8], numel % 8
    last = int(packed[numel // 8]) & ((1 << rest) - 1) if rest else 0
    return int(_ONES[whole].sum(dtype=np.int64)) + last.bit_count()
