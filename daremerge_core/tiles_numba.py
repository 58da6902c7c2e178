"""Tiles: so few elements that those of several models stay in the first cache; read as stored, and rounded back.

What loops in other modules are made of, and compiled into each of them. ``tiles`` is the address of the first, and a
tile the index of its first element, of which the first ``n`` are meant. Nothing here is an array: every one that a loop
makes for itself is compiled into it, which takes longer than the loop.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .elements import F16, F32
from .rng.philox_numba import _BLOCK
from .storage_numba import _bfloat_to_float, _float_to_bfloat, _float_to_half, _half_to_float
from .tiles import TILE

__all__ = ["Bits", "Tiles", "load", "store"]

assert TILE == _BLOCK, "a tile is a block of random numbers"

Tiles = Any
"""A pointer to float32."""
Bits = Any
"""The same, seen as uint32."""


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
def load(tiles: Tiles, tile: int, n: int, address: int, stored: int, at: int) -> None:
    """The elements from index ``at`` of what is stored at an address, in float32."""
    if stored == F32:
        for i in range(n):
            tiles[tile + i] = _read_float(address, at + i)
    elif stored == F16:
        for i in range(n):
            tiles[tile + i] = _half_to_float(_read_16_bits(address, at + i))
    else:
        for i in range(n):
            tiles[tile + i] = _bfloat_to_float(_read_16_bits(address, at + i))


@njit(inline="always")
def store(tiles: Tiles, tile: int, n: int, address: int, stored: int, at: int) -> None:
    """A tile rounded to nearest even, as elements from index ``at`` of what is stored at an address."""
    if stored == F32:
        for i in range(n):
            _write_float(address, at + i, tiles[tile + i])
    elif stored == F16:
        for i in range(n):
            _write_16_bits(address, at + i, _float_to_half(tiles[tile + i]))
    else:
        for i in range(n):
            _write_16_bits(address, at + i, _float_to_bfloat(tiles[tile + i]))
