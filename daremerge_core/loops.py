"""Loops: a component's verb over plain arrays, a block of elements at a time, for where speed pays.

A verb in torch makes an array for every input and every operation. A loop is the same formula over float32 arrays that
stay in a core's cache, written with NumPy and functions made by :func:`~daremerge_core.compiled.compiled`. It gives the
same bits as the verb, which stays the reference and runs wherever a loop cannot: on other devices, without numba, in
float64. Nothing here imports torch, so a merge whose tensors all have loops never waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .elements import DTYPES, Source, Sources, as_elements
from .machine_code import MachineCode, processor_suits
from .reach import Reach
from .rng import accelerated
from .task_sum import TASK_SUM, TaskSum
from .values import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

__all__ = [
    "BLOCK",
    "DTYPES",
    "Block",
    "Loop",
    "Source",
    "Sources",
    "add_scaled",
    "as_elements",
    "available",
    "compute",
    "converted",
    "count_nonfinite",
    "delta",
    "deltas",
    "keep_where",
    "lerp",
    "run",
]

EXPONENTS = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000}
"""The bits of the exponent; a number has all of them only where it is NaN or infinite."""
BLOCK = 1 << 17
"""Elements at a time: few enough that the arrays of a few models stay in a core's caches, and enough that the
interpreter's share, some 15 µs, is small."""

Loop = Callable[["Block"], "Values"] | TaskSum | Reach
"""The result for one block, 1-D: an array of the block's. Or what it is, said as data, where it is of that form."""


def available() -> bool:
    """Whether loops can run here: numba is there and not switched off, and the processor knows 16-bit floats.

    Where the machine code of one is kept, numba has worked before and is not imported to find out.
    """
    return os.environ.get("DAREMERGE_FAST") != "0" and processor_suits() and (TASK_SUM.kept or accelerated())


class Block:
    """Consecutive elements of one tensor, as a loop sees them.

    ``block["a"]`` is the port's elements, float32 and 1-D; of a port that takes several models ``[models, n]``; None
    where an optional port is left out. Arrays are the loop's own to overwrite: asked for again, a port is read again.
    """

    def __init__(self, sources: Sources, span: Span, pool: list[Values]) -> None:
        """
        Args:
            pool: arrays to use again, one thread's own.
        """
        self.start = span.start
        """Index in the tensor of the block's first element."""
        self.numel = 0
        self._sources = sources
        self._span = span
        self._stored: dict[str, list[_Stored]] = {}
        self._pool = pool
        self._used = 0

    def __getitem__(self, port: str) -> Any:
        source = self._sources[port]
        if source is None:
            return None
        stored = self._open(port)
        if not isinstance(source, list):
            return stored[0].load(self.new(), self._first)
        rows = self.new(len(stored))
        for row, one in zip(rows, stored, strict=True):
            one.load(row, self._first)
        return rows

    def difference(self, port: str, origin: str) -> Any:
        """``block[port] - block[origin]``, of every model where a port takes several, in one go."""
        several = isinstance(self._sources[port], list)
        minuends, (subtrahend,) = self._open(port), self._open(origin)
        rows = self.new(len(minuends))
        for row, minuend in zip(rows, minuends, strict=True):
            minuend.subtract(row, subtrahend, self._first, self)
        return rows if several else rows[0]

    def has(self, port: str) -> bool:
        """Whether there is a model on a port."""
        return self._sources.get(port) is not None

    def _open(self, port: str) -> list[_Stored]:
        if port not in self._stored:
            source = self._sources[port]
            several = source if isinstance(source, list) else [source]
            self._stored[port] = [_Stored(*one(self._span)) for one in several if one is not None]
        return self._stored[port]

    @property
    def _first(self) -> int:
        """Index in the span of the block's first element."""
        return self.start - self._span.start

    def new(self, rows: int | None = None) -> Values:
        """An array that nobody uses yet, its content undefined: ``[n]``, or ``[rows, n]``."""
        import numpy as np

        size = BLOCK * (rows or 1)
        if self._used == len(self._pool) or self._pool[self._used].size < size:
            self._pool.insert(self._used, np.empty(size, np.float32))
        array = self._pool[self._used][: self.numel * (rows or 1)]
        self._used += 1
        return array if rows is None else array.reshape(rows, self.numel)

    def move(self, start: int, numel: int) -> None:
        """Go on to other elements of the span; all arrays given out are free again."""
        self.start, self.numel, self._used = start, numel, 0


class _Stored:
    """Stored elements of one model, in an array of their bits."""

    def __init__(self, data: memoryview, dtype: str) -> None:
        self.elements = as_elements(data, dtype)
        self._dtype = dtype

    def load(self, out: Values, first: int) -> Values:
        """Fill ``out`` with the elements from ``first`` on."""
        import numpy as np

        from . import storage_numba

        elements = self.elements[first : first + out.size]
        if self._dtype == "F16":
            storage_numba.load_half(out, elements)
        elif self._dtype == "BF16":
            storage_numba.load_bfloat(out, elements)
        else:
            np.copyto(out, elements)
        return out

    def subtract(self, out: Values, other: _Stored, first: int, block: Block) -> None:
        """Fill ``out`` with these elements minus another model's."""
        import numpy as np

        place = slice(first, first + out.size)
        if self._dtype == other._dtype == "F16":
            from . import storage_numba

            storage_numba.subtract_halves(out, self.elements[place], other.elements[place])
        else:
            np.subtract(self.load(out, first), other.load(block.new(), first), out=out)


def run(
    loop: Callable[[Block], NDArray[Any]], sources: Sources, span: Span, pool: list[Values]
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """What a loop answers for each block of a span, with the block's place in the span."""
    import numpy as np

    block = Block(sources, span, pool)
    for start in range(span.start, span.stop, BLOCK):
        block.move(start, min(BLOCK, span.stop - start))
        # Infinities and NaN in a checkpoint are data here, as they are to torch: the engine counts them.
        with np.errstate(all="ignore"):
            values = loop(block)
        yield slice(start - span.start, start - span.start + block.numel), values


def compute(loop: Loop, sources: Sources, span: Span, dtype: str, pool: list[Values]) -> NDArray[Any]:
    """A loop's result for a span, rounded to ``dtype``, as :func:`as_elements` would give it.

    Args:
        pool: arrays to use again, one thread's own.
    """
    import numpy as np

    out: NDArray[Any] = np.empty(span.numel, np.float32 if dtype == "F32" else np.uint16)
    assert not isinstance(loop, Reach), "a model is not a mask"
    if isinstance(loop, TaskSum):
        loop.into(out, dtype, sources, span)
        return out
    from . import storage_numba as fast

    for place, values in run(loop, sources, span, pool):
        if dtype == "F16":
            fast.store_half(out[place], values)
        elif dtype == "BF16":
            fast.store_bfloat(out[place], values)
        else:
            np.copyto(out[place], values)
    return out


def delta(block: Block) -> Values:
    """:attr:`.Site.delta`: B's task vector, B − base where there is a base, else B − A."""
    change: Values = block.difference("b", "base" if block.has("base") else "a")
    return change


def deltas(block: Block) -> Values:
    """:attr:`.Site.deltas` over a base, ``[models, n]``."""
    changes: Values = block.difference("models", "base")
    return changes


def converted(data: memoryview, stored: str, wanted: str) -> NDArray[Any]:
    """Elements stored in one dtype as :func:`as_elements` gives those of another."""
    if stored == wanted:
        return as_elements(data, stored)
    whole = Span(0, as_elements(data, stored).size)
    return compute(lambda block: block["model"], {"model": lambda _: (data, stored)}, whole, wanted, [])


def count_nonfinite(data: memoryview, dtype: str) -> int:
    """How many of the stored elements, of a dtype in :data:`DTYPES`, are NaN or infinite."""
    return count_full(as_elements(data, dtype), EXPONENTS[dtype])


def count_full(elements: NDArray[Any], exponent: int) -> int:
    """How many contiguous elements, of 16 or 32 bits, have all bits of ``exponent``."""
    count = _COUNT_FULL[elements.itemsize]
    return int(count(elements.__array_interface__["data"][0], elements.size, exponent))


_COUNT_FULL = {
    2: MachineCode("kernels_numba", "count_full", "uint16* int64 uint16", "int64"),
    4: MachineCode("kernels_numba", "count_full", "uint32* int64 uint32", "int64"),
}
"""By bytes of an element."""


def keep_where(out: NDArray[Any], selected: NDArray[np.bool_], other: NDArray[Any]) -> None:
    """Put ``other`` into ``out`` where elements are not selected; both as :func:`as_elements` gives them."""
    import numpy as np

    np.copyto(out, other, where=~selected)


# --- the formulas of :mod:`.kernels` -----------------------------------------------------------------


def lerp(block: Block, a: Values, b: Values, t: float) -> Values:
    """:func:`.kernels.lerp`."""
    from . import kernels_numba as fast

    if t in (0.0, 1.0):
        return b if t else a
    out = block.new()
    if t < 0.5:
        fast.lerp_from_a(out, a, b, t)
    else:
        fast.lerp_from_b(out, a, b, 1.0 - t)
    return out


def add_scaled(block: Block, a: Values, change: Values, scale: float) -> Values:
    """:func:`.kernels.add_scaled`."""
    import numpy as np

    from . import kernels_numba as fast

    if scale == 1.0:
        return np.add(a, change, out=change)
    out = block.new()
    fast.add_scaled(out, a, change, scale)
    return out
