"""Stored elements as plain arrays, and by their addresses, for loops. Importing this module imports no NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .values import Span

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BF16",
    "DTYPES",
    "F16",
    "F32",
    "Addressed",
    "Source",
    "Sources",
    "as_elements",
    "floats",
    "integers",
    "read",
]

F16, BF16, F32 = 0, 1, 2
"""How elements are stored, to a loop."""
_STORED: Mapping[str, int] = {"F16": F16, "BF16": BF16, "F32": F32}
DTYPES = frozenset(_STORED)
"""What loops read and write."""

Source = Callable[[Span], "tuple[memoryview, str]"]
"""The stored bytes of some elements of a model, and their dtype."""
Sources = Mapping[str, "Source | list[Source] | None"]
"""By port."""


def as_elements(data: memoryview, dtype: str) -> NDArray[Any]:
    """Stored bytes as an array: float32, or the bits of 16-bit floats. An old file's misaligned data are copied."""
    import numpy as np

    elements = np.frombuffer(data, np.float32 if dtype == "F32" else np.uint16)
    return elements if elements.flags.aligned and elements.flags.writeable else elements.copy()


def read(sources: Sources, port: str, span: Span) -> list[tuple[memoryview, str]]:
    """What is stored of a span in the model, or each model, on a port."""
    found = sources[port]
    return [one(span) for one in (found if isinstance(found, list) else [found]) if one is not None]


class Addressed:
    """Stored elements by their addresses, so that one loop serves any number of models and dtypes.

    Hold it until the loop is done: the arrays are what keeps the addresses good.
    """

    def __init__(self, found: Sequence[tuple[memoryview, str]], numel: int) -> None:
        """
        Raises:
            ValueError: a model gave another number of elements; a loop would read past them.
        """
        self._arrays = [as_elements(*one) for one in found]
        for array in self._arrays:
            if array.size != numel:
                raise ValueError(f"a model gave {array.size} elements where {numel} were asked for")
        self.count = len(found)
        self.addresses = integers([array.__array_interface__["data"][0] for array in self._arrays])
        self.stored = integers([_STORED[dtype] for _, dtype in found])
        """:data:`F16`, :data:`BF16` or :data:`F32`."""


def integers(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    """As loops take them."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def floats(numbers: Sequence[float]) -> ctypes.Array[ctypes.c_float]:
    """As loops take them: each rounded to float32."""
    return (ctypes.c_float * len(numbers))(*numbers)
