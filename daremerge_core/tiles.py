"""Tiles: so few elements that those of several models stay in the first cache. What loops work in, as Python makes it.

Importing this module imports neither NumPy nor numba.
"""

from __future__ import annotations

import ctypes

__all__ = ["TILE", "Scratch"]

TILE = 512
"""Elements: those of one block of random numbers, 2 KiB of float32."""

_LINE = 64
"""Bytes of a line of the cache. Where tiles begin elsewhere, a loop takes a third longer."""


class Scratch:
    """Tiles of undefined content, for one call."""

    def __init__(self, tiles: int) -> None:
        self._memory = ctypes.create_string_buffer(tiles * TILE * 4 + _LINE)
        first = ctypes.addressof(self._memory)
        self.address = first + -first % _LINE
        """Of the first. Hold the scratch for as long as the address is used."""
