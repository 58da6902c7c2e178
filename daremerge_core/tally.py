"""A measuring pass that counts the magnitudes of task vectors, said as data: those of modelᵢ − origin.

A :meth:`~.TensorComponent.tally` answers a :class:`Tally` where :meth:`~.TensorComponent.measure` counts what
:mod:`.ranks` finds exact quantiles from; one compiled loop does it, which reads every element once, as it is stored.
Importing this module imports neither NumPy nor numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .elements import Addressed, Sources, integers, read
from .machine_code import MachineCode
from .tiles import Scratch
from .values import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Magnitudes", "Tally"]


_ALL = -1
"""In the place of a bin: all magnitudes."""


TILES = 3
"""Tiles that the loop works in."""

ADD_MAGNITUDES = MachineCode(
    "tally_numba", "add_magnitudes", "float32* uint32* int64* int64 int64* int64* int64 int64 int64*"
)
""":func:`.tally_numba.add_magnitudes`"""


class Magnitudes(NamedTuple):
    """What a pass counts: all magnitudes, by their upper 16 bits, or those of one bin of these, by their lower ones."""

    coarse: int | None = None
    """The bin."""

    @classmethod
    def after(cls, measured: tuple[Any, ...]) -> Magnitudes:
        """The first pass, or the second, given :func:`.ranks.bin_of_rank` of the first."""
        return cls(int(measured[0][0]) if measured else None)


@dataclass(frozen=True)
class Tally:
    """One pass over one tensor.

    Args:
        models: the port of the models, or of one.
        origin: the port of what their task vectors start from.
        counted: of each model; all by their upper bits, or all by their lower ones.
    """

    models: str
    origin: str
    counted: tuple[Magnitudes, ...]

    def load(self) -> None:
        """Have the loop ready; compiled, where it never was."""
        ADD_MAGNITUDES.load()

    def count(self, sources: Sources, span: Span) -> NDArray[np.int64]:
        """``[bins]``, or ``[models, bins]`` of a port that takes several: what a span adds to the pass."""
        import numpy as np

        from .ranks import COARSE, FINE

        found = Addressed([*read(sources, self.origin, span), *read(sources, self.models, span)], span.numel)
        bins = [_ALL if one.coarse is None else one.coarse for one in self.counted]
        counts = np.zeros((len(bins), COARSE if bins[0] == _ALL else FINE), np.int64)
        scratch, into = Scratch(TILES), counts.__array_interface__["data"][0]
        tiles, of_a_model = scratch.address, counts.shape[1]
        ADD_MAGNITUDES(
            *(tiles, tiles, into, of_a_model, found.addresses, found.stored, found.count, span.numel, integers(bins))
        )
        return counts if isinstance(sources[self.models], list) else counts[0]
