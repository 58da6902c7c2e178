"""Tiles: so few elements that those of several models stay in the first cache; read as stored, and rounded back.

What loops in other modules are made of, and compiled into each of them. A tile is a row of a two-dimensional array, of
which the first ``n`` elements are meant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from numpy.typing import NDArray

from .elements import F16, F32
from .rng.philox_numba import _BLOCK
from .storage_numba import _bfloat_to_float, _float_to_bfloat, _float_to_half, _half_to_float

__all__ = ["TILE", "Tile", "Tiles", "load", "store"]

TILE = _BLOCK
"""Elements: those of one block of random numbers, 2 KiB of float32."""

Tile = NDArray[np.float32]
"""``[TILE]``"""
Tiles = NDArray[np.float32]
"""``[rows, TILE]``"""


def _to_pointer(context: Any, address: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


_pointer: Any = intrinsic(_to_pointer)


@njit(inline="always")
def load(tiles: Tiles, row: int, n: int, address: int, stored: int, at: int) -> None:
    """The elements from index ``at`` of what is stored at an address, in float32."""
    if stored == F32:
        values = carray(_pointer(address + 4 * at), (n,), np.float32)
        for i in range(n):
            tiles[row, i] = values[i]
        return
    halves = carray(_pointer(address + 2 * at), (n,), np.uint16)
    if stored == F16:
        for i in range(n):
            tiles[row, i] = _half_to_float(halves[i])
    else:
        for i in range(n):
            tiles[row, i] = _bfloat_to_float(halves[i])


@njit(inline="always")
def store(tile: Tile, n: int, address: int, stored: int, at: int) -> None:
    """A tile rounded to nearest even, as elements from index ``at`` of what is stored at an address."""
    if stored == F32:
        values = carray(_pointer(address + 4 * at), (n,), np.float32)
        for i in range(n):
            values[i] = tile[i]
        return
    halves = carray(_pointer(address + 2 * at), (n,), np.uint16)
    if stored == F16:
        for i in range(n):
            halves[i] = _float_to_half(tile[i])
    else:
        for i in range(n):
            halves[i] = _float_to_bfloat(tile[i])
