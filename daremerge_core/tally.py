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
        """Have the loops ready; compiled, where they never were."""
        import numpy as np

        from .ranks import COARSE
        from .tally_numba import add_coarse, add_fine

        counts, nowhere = np.zeros((1, COARSE), np.int64), np.zeros(2, np.int64)
        add_coarse(counts, nowhere, nowhere, 0)
        add_fine(counts, nowhere, nowhere, 0, nowhere[:1])

    def count(self, sources: Sources, span: Span) -> NDArray[np.int64]:
        """``[bins]``, or ``[models, bins]`` of a port that takes several: what a span adds to the pass."""
        import numpy as np

        from .ranks import COARSE, FINE
        from .tally_numba import add_coarse, add_fine

        found = Addressed.of([*read(sources, self.origin, span), *read(sources, self.models, span)])
        bins = [one.coarse for one in self.counted]
        counts = np.zeros((len(bins), COARSE if bins[0] is None else FINE), np.int64)
        if bins[0] is None:
            add_coarse(counts, found.addresses, found.stored, span.numel)
        else:
            add_fine(counts, found.addresses, found.stored, span.numel, np.array(bins, np.int64))
        return counts if isinstance(sources[self.models], list) else counts[0]
