"""The survey: how a reporter reads tensors, on all threads and within the memory budget.

A reporter says which tensors it wants and what to compute of one; the survey reads them block by block, lazily computed
models as well as files, and gives the answers in the order asked. Nothing in it depends on threads or memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from .decisions import detect_layout
from .dtypes import nbytes
from .layout import Layout, LayoutSpec, detect, detect_by_name
from .values import Gradient, Mask, Model, TensorMeta
from .views import MEASURE_BLOCK, blocks_of, needs_whole, working_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from .engine import Progress

__all__ = ["Block", "Survey"]

R = TypeVar("R")
T = TypeVar("T")

Block = tuple["Tensor", ...]
"""The same elements of each model, as 1-D tensors of float32, or float64 where one of them holds float64; of a mask as
bool."""


class Workers(Protocol):
    """What runs jobs: see :class:`daremerge_core.engine.Pool`."""

    def map(self, function: Callable[[T], R], items: Sequence[T], cost: Callable[[T], int]) -> list[R]: ...


class Survey:
    """What a reporter is given to read with."""

    def __init__(self, workers: Workers, progress: Progress, layouts: Sequence[LayoutSpec] = ()) -> None:
        self._workers = workers
        self._progress = progress
        self._layouts = layouts

    def layout(self, value: Model | Mask | Gradient) -> Layout:
        """Where each of the value's tensors lies."""
        known = getattr(value, "layout", None)  # a value that is computed has the layout of its model
        if isinstance(known, Layout):
            return known
        if isinstance(value, Model):
            return detect_layout(value, self._layouts)
        if isinstance(value, Mask):
            shapes = {key: shape for key in value.keys() if (shape := value.shape(key)) is not None}
            return detect({key: TensorMeta(key, "BOOL", tuple(shape)) for key, shape in shapes.items()}, self._layouts)
        return detect_by_name(value.keys(), self._layouts)

    def each(
        self,
        keys: Sequence[str],
        values: Sequence[Model | Mask],
        function: Callable[[str, Iterator[Block]], R],
        *,
        what: str = "reading",
    ) -> list[R]:
        """``function(key, blocks)`` for each tensor, in the order of ``keys``.

        Args:
            keys: tensors that all ``values`` have, of one shape in all of them.
            function: called on worker threads. ``blocks`` gives the tensor's elements in order, at most
                :data:`~daremerge_core.views.MEASURE_BLOCK` at a time; it may be left before its end. Keep what is
                returned small: it is held for every tensor.
            what: words for the progress.
        """
        self._progress.start(sum(_bytes(value, key) for value in values for key in keys), what)
        try:
            return self._workers.map(partial(self._one, values, function), keys, partial(_cost, values))
        finally:
            self._progress.finish()

    def map(
        self, items: Sequence[T], function: Callable[[T], R], *, scratch: Callable[[T], int], what: str = "reading"
    ) -> list[R]:
        """``function(item)`` for each item, in their order: for what is not read tensor by tensor.

        Args:
            function: called on worker threads.
            scratch: bytes that an item takes, which is also its share of the progress.
        """

        def one(item: T) -> R:
            import torch

            with torch.inference_mode():
                result = function(item)
            self._progress.advance(scratch(item))
            return result

        self._progress.start(sum(map(scratch, items)), what)
        try:
            return self._workers.map(one, items, scratch)
        finally:
            self._progress.finish()

    def _one(self, values: Sequence[Model | Mask], function: Callable[[str, Iterator[Block]], R], key: str) -> R:
        import torch

        with torch.inference_mode():
            result = function(key, _blocks(values, key))
        self._progress.advance(sum(_bytes(value, key) for value in values))
        return result


def _blocks(values: Sequence[Model | Mask], key: str) -> Iterator[Block]:
    """The elements of one tensor, block by block; what cannot be read by spans is computed once."""
    numel = _numel(values[0], key)
    held = {index: value.read(key).reshape(-1) for index, value in enumerate(values) if needs_whole(value, key)}
    for span in blocks_of(numel, MEASURE_BLOCK):
        yield _same_float(
            held[index][span.start : span.stop] if index in held else value.read(key, span)
            for index, value in enumerate(values)
        )


def _same_float(tensors: Iterator[Tensor]) -> Block:
    import torch

    found = list(tensors)
    wide = torch.float64 if any(one.dtype == torch.float64 for one in found) else torch.float32
    return tuple(one if one.dtype == torch.bool else one.to(wide) for one in found)


def _numel(value: Model | Mask, key: str) -> int:
    if isinstance(value, Model):
        return value.meta(key).numel
    shape = value.shape(key)
    assert shape is not None, f"the mask does not know {key}"
    count = 1
    for size in shape:
        count *= size
    return count


def _bytes(value: Model | Mask, key: str) -> int:
    numel = _numel(value, key)
    return nbytes(value.meta(key).dtype, numel) if isinstance(value, Model) else -(-numel // 8)


def _cost(values: Sequence[Model | Mask], key: str) -> int:
    """Bytes of scratch for one tensor: of blocks, and of whole tensors where they must be."""
    numel = _numel(values[0], key)
    block = min(numel, MEASURE_BLOCK)
    return sum(working_bytes(value, key, numel if needs_whole(value, key) else block) + 4 * block for value in values)
