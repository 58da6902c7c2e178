"""Which elements of a task vector reach a magnitude, said as data: those of model − origin, for a mask.

A :meth:`~.TensorComponent.loop` of a masker may answer a :class:`Reach` in the place of a function; one compiled loop
does it, which reads every element once, as it is stored. Importing this module imports neither NumPy nor numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .elements import Addressed, Sources, read
from .machine_code import MachineCode
from .tiles import Scratch
from .values import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Reach"]

TILES = 3
"""Tiles that the loop works in."""

MARK = MachineCode("reach_numba", "mark", "float32* uint32* uint8* int64* int64* int64 uint32 uint8")
""":func:`.reach_numba.mark`"""

_HIGHEST = 0x7FFFFFFF


@dataclass(frozen=True)
class Reach:
    """The mask of one tensor.

    Args:
        model: the port of the model.
        origin: the port of what its task vector starts from.
        threshold: the least bits of a magnitude that is reached, as :func:`.quantile.reaching` takes them.
        select: whether elements that reach it are selected, or those that do not.
    """

    model: str
    origin: str
    threshold: int
    select: bool = True

    def load(self) -> None:
        """Have the loop ready; compiled, where it never was."""
        MARK.load()

    def chosen(self, sources: Sources, span: Span) -> NDArray[np.bool_]:
        """The mask of a span."""
        import numpy as np

        found = Addressed([*read(sources, self.origin, span), *read(sources, self.model, span)], span.numel)
        out, scratch = np.empty(span.numel, np.bool_), Scratch(TILES)
        tiles, into = scratch.address, out.__array_interface__["data"][0]
        least = min(max(self.threshold, 0), _HIGHEST)
        MARK(tiles, tiles, into, found.addresses, found.stored, span.numel, least, self.select)
        return out
