"""A measuring pass that counts the magnitudes of task vectors, said as data: those of modelᵢ − origin.

A :meth:`~.TensorComponent.tally` answers a :class:`Tally` where :meth:`~.TensorComponent.measure` counts what
:mod:`.ranks` finds exact quantiles from; one compiled loop does it, which reads every element once, as it is stored.
Importing this module imports neither NumPy nor numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .elements import Addressed, Sources, read
from .values import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Magnitudes", "Tally"]


_ALL = -1
"""In the place of a bin: all magnitudes."""


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
        import numpy as np

        nowhere = np.zeros(1 + len(self.counted), np.int64)
        self._add(nowhere, nowhere, 0)

    def count(self, sources: Sources, span: Span) -> NDArray[np.int64]:
        """``[bins]``, or ``[models, bins]`` of a port that takes several: what a span adds to the pass."""
        found = Addressed.of([*read(sources, self.origin, span), *read(sources, self.models, span)])
        counts = self._add(found.addresses, found.stored, span.numel)
        return counts if isinstance(sources[self.models], list) else counts[0]

    def _add(self, addresses: NDArray[np.int64], stored: NDArray[np.int64], numel: int) -> NDArray[np.int64]:
        import numpy as np

        from .ranks import COARSE, FINE
        from .tally_numba import add_magnitudes, scratch

        bins = [_ALL if one.coarse is None else one.coarse for one in self.counted]
        counts = np.zeros((len(bins), COARSE if bins[0] == _ALL else FINE), np.int64)
        add_magnitudes(*scratch(), counts, addresses, stored, numel, np.array(bins, np.int64))
        return counts
