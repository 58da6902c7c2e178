"""A sum of thinned task vectors, said as data: result = start + s · combine(wᵢ · thin(modelᵢ − origin)).

Lerp, DARE, task arithmetic and TIES are all of this form, so that one compiled function does them all: it reads every
element once, as it is stored, and writes the rounded result. A :meth:`~.TensorComponent.loop` may answer a
:class:`TaskSum` in the place of a function. Importing this module imports neither NumPy nor numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from .elements import Addressed, Sources, floats, integers, read
from .machine_code import MachineCode
from .tiles import Scratch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .loops import Loop
    from .rng import Stream
    from .values import Span

__all__ = ["ALL", "AT_RANDOM", "REACHING", "TaskSum", "Thinning", "line"]

ALL, AT_RANDOM, REACHING = 0, 1, 2
"""Kinds of thinning."""

_NOTHING = 0x7FFFFFFF
"""A threshold that no magnitude reaches."""

OWN_TILES, MODEL_TILES = 6, 2
"""Tiles that the loop works in, and for each model besides."""

TASK_SUM = MachineCode(
    "task_sum_numba",
    "task_sum",
    "float32* uint32* uint32* int64* int64* int64 int64 int64 int64* int64* int64* int64* float32* float32* float32* "
    "int64 int64 float32 float32",
)
""":func:`.task_sum_numba.task_sum`"""


class Thinning(NamedTuple):
    """What is kept of a task vector; zeros are in the place of the rest."""

    kind: int = ALL
    key: int = 0
    """Of the stream of random numbers."""
    threshold: int = 0
    """The largest random bits, or the least bits of a magnitude, of what is kept."""
    scale: float = 1.0
    """What is kept is multiplied with it, if at random."""

    @classmethod
    def at_random(cls, stream: Stream, density: float, scale: float) -> Thinning:
        """What :meth:`.Stream.thin` keeps, times ``scale``."""
        threshold = stream.threshold(density)
        return cls(AT_RANDOM, stream.key, threshold - 1, scale) if threshold else cls.reaching(_NOTHING)

    @classmethod
    def reaching(cls, threshold: int) -> Thinning:
        """What :func:`.quantile.keep_reaching` keeps: magnitudes of at least so many bits."""
        return cls(REACHING, threshold=min(max(threshold, 0), _NOTHING))


@dataclass(frozen=True)
class TaskSum:
    """One merge of one tensor.

    Args:
        models: the port of the models, or of one.
        origin: the port of what their task vectors start from.
        start: the port of what the sum is added to.
        scale: s.
        weights: wᵢ, one for each model on the port; a model of weight 0 takes no part.
        thinning: for each model on the port; nothing is thinned by default.
        elect: whether only changes of the sign of Σ wᵢτᵢ count.
        shares: for each model that takes part, what it adds to the divisor: of those that count, with an election. None
            where nothing is divided.
    """

    models: str
    origin: str
    start: str
    scale: float
    weights: tuple[float, ...] = (1.0,)
    thinning: tuple[Thinning, ...] | None = None
    elect: bool = False
    shares: tuple[float, ...] | None = None

    def into(self, out: NDArray[Any], dtype: str, sources: Sources, span: Span) -> None:
        """Compute a span. ``out`` is as :func:`.as_elements` has elements of ``dtype``."""
        # Each port once, though two may be one: below a step there may be another, and each would double the work.
        stored = {port: read(sources, port, span) for port in {self.origin, self.start, self.models}}
        models = [stored[self.models][index] for index in self._part]
        found = Addressed([(out.data.cast("B"), dtype), *stored[self.origin], *stored[self.start], *models], span.numel)
        scratch, words = Scratch(OWN_TILES + MODEL_TILES * len(models)), Scratch(1)
        tiles = scratch.address
        where = found.addresses, found.stored, found.count
        TASK_SUM(tiles, tiles, words.address, *where, span.start, span.numel, *self._arguments)

    def load(self) -> None:
        """Have the loop ready; compiled, where it never was."""
        TASK_SUM.load()

    @cached_property
    def _part(self) -> list[int]:
        """Indices of the models that have a weight; where none has, of the first, which then adds nothing."""
        return [index for index, weight in enumerate(self.weights) if weight] or [0]

    @cached_property
    def _arguments(self) -> tuple[Any, ...]:
        """Those of the loop that are the same for every span."""
        thinning = [self.thinning[index] if self.thinning else Thinning() for index in self._part]
        weights = [self.weights[index] for index in self._part]
        return (
            integers([one.kind for one in thinning]),
            integers([one.key & 0xFFFFFFFF for one in thinning]),
            integers([one.key >> 32 for one in thinning]),
            integers([one.threshold for one in thinning]),
            floats([one.scale for one in thinning]),
            floats(weights),
            floats(self.shares or [0.0] * len(weights)),
            self.elect and any(weights),
            self.shares is not None,
            1.0 / sum(self.shares) if self.shares and not self.elect else 1.0,
            self.scale,
        )


def line(t: float) -> Loop:
    """:func:`.kernels.lerp` of ``a`` and ``b``, from the nearer end: a + t(b − a), or b − (1 − t)(b − a)."""
    if t in (0.0, 1.0):
        return lambda block: block["b" if t else "a"]
    return TaskSum("b", "a", "a", t) if t < 0.5 else TaskSum("b", "a", "b", t - 1.0)
