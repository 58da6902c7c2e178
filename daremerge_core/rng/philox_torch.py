"""Philox4x32-10 in torch integer arithmetic, on any device: the reference that always works.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
https://doi.org/10.1145/2063384.2063405. A word is an int64 tensor whose values lie in ``[0, 2**32)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bits", "philox"]

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def bits(key0: int, key1: int, start: int, stop: int, device: torch.device) -> Tensor:
    """The bits of elements ``[start, stop)``: int64 in ``[0, 2**32)``, shape ``(stop - start,)``."""
    first, last = start // 4, -(-stop // 4)
    counter = torch.arange(first, last, dtype=torch.int64, device=device)
    zero = torch.zeros_like(counter)
    words = philox((counter & _LOW, counter >> 32, zero, zero), key0, key1)
    return torch.stack(words, dim=1).flatten()[start - 4 * first : stop - 4 * first]


def philox(counter: Words, key0: int, key1: int) -> Words:
    """Philox4x32-10 of each counter (four words, elementwise) under one key (two words)."""
    c0, c1, c2, c3 = counter
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + _WEYL[0]) & _LOW, (key1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low words of ``word * multiplier``, a 64-bit product that need not fit a signed int64.

    Both multipliers lie in ``[2**31, 2**32)``, so ``q = word * (multiplier - 2**32)`` is within ``±2**63`` and the
    product is ``q + word * 2**32``: the low words agree, and the high word is ``word`` plus that of ``q``, rounded
    down (the shift of a negative int64 is arithmetic). Nothing overflows.
    """
    q = word * (multiplier - 2**32)
    return (q >> 32) + word, q & _LOW
