"""Tiles: so few elements that those of several models stay in the first cache; read as stored, and rounded back.

What loops in other modules are made of, and compiled into each of them. A tile is a row of a two-dimensional array, of
which the first ``n`` elements are meant. Arrays come from Python, and what is stored is reached by its address: every
array that a loop makes for itself is compiled into it, which takes longer than the loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .elements import F16, F32
from .rng.philox_numba import _BLOCK
from .storage_numba import _bfloat_to_float, _float_to_bfloat, _float_to_half, _half_to_float

__all__ = ["TILE", "Bits", "Tiles", "load", "new_tiles", "store"]

TILE = _BLOCK
"""Elements: those of one block of random numbers, 2 KiB of float32."""

Tiles = NDArray[np.float32]
"""``[rows, TILE]``"""
Bits = NDArray[np.uint32]
"""The same, seen as integers."""


_LINE = 16
"""Elements of a line of the cache. Where rows begin elsewhere, a loop takes a third longer."""


def new_tiles(rows: int) -> Tiles:
    """Rows of undefined content, for one thread."""
    memory = np.empty(rows * TILE + _LINE, np.float32)
    skipped = -(memory.__array_interface__["data"][0] // memory.itemsize) % _LINE
    return memory[skipped : skipped + rows * TILE].reshape(rows, TILE)


def _reader(element: Any, stored: Any) -> Any:
    """A function that compiled code calls to read element ``i`` of what is stored at an address."""

    def read(context: Any, address: Any, i: Any) -> Any:
        def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            first, index = arguments
            return builder.load(builder.gep(builder.inttoptr(first, stored.as_pointer()), [index]))

        return element(types.int64, types.int64), generate

    return intrinsic(read)


def _writer(element: Any, stored: Any) -> Any:
    """Its counterpart, which writes ``value`` there."""

    def write(context: Any, address: Any, i: Any, value: Any) -> Any:
        def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            first, index, new = arguments
            builder.store(new, builder.gep(builder.inttoptr(first, stored.as_pointer()), [index]))

        return types.void(types.int64, types.int64, element), generate

    return intrinsic(write)


_read_float, _write_float = (make(types.float32, ir.FloatType()) for make in (_reader, _writer))
_read_16_bits, _write_16_bits = (make(types.uint16, ir.IntType(16)) for make in (_reader, _writer))


@njit(inline="always")
def load(tiles: Tiles, row: int, n: int, address: int, stored: int, at: int) -> None:
    """The elements from index ``at`` of what is stored at an address, in float32."""
    if stored == F32:
        for i in range(n):
            tiles[row, i] = _read_float(address, at + i)
    elif stored == F16:
        for i in range(n):
            tiles[row, i] = _half_to_float(_read_16_bits(address, at + i))
    else:
        for i in range(n):
            tiles[row, i] = _bfloat_to_float(_read_16_bits(address, at + i))


@njit(inline="always")
def store(tiles: Tiles, row: int, n: int, address: int, stored: int, at: int) -> None:
    """A tile rounded to nearest even, as elements from index ``at`` of what is stored at an address."""
    if stored == F32:
        for i in range(n):
            _write_float(address, at + i, tiles[row, i])
    elif stored == F16:
        for i in range(n):
            _write_16_bits(address, at + i, _float_to_half(tiles[row, i]))
    else:
        for i in range(n):
            _write_16_bits(address, at + i, _float_to_bfloat(tiles[row, i]))
