"""Stored elements as plain arrays, and by their addresses, for loops. Importing this module imports no NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .values import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BF16", "DTYPES", "F16", "F32", "Addressed", "Source", "Sources", "as_elements", "read"]

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


class Addressed(NamedTuple):
    """Stored elements by their addresses, so that one loop serves any number of models and dtypes.

    Hold it until the loop is done: the arrays are what keeps the addresses good.
    """

    addresses: NDArray[np.int64]
    stored: NDArray[np.int64]
    """:data:`F16`, :data:`BF16` or :data:`F32`."""
    arrays: list[NDArray[Any]]

    @classmethod
    def of(cls, found: Sequence[tuple[memoryview, str]]) -> Addressed:
        import numpy as np

        arrays = [as_elements(*one) for one in found]
        addresses = [array.__array_interface__["data"][0] for array in arrays]
        dtypes = [_STORED[dtype] for _, dtype in found]
        return cls(np.array(addresses, np.int64), np.array(dtypes, np.int64), arrays)
