"""The values that flow through a recipe: models, masks and gradients, and the reports on them.

The first three are *lazy*: opening one reads headers only, and tensor data is computed or read when asked,
one tensor or one span of a tensor at a time. They are protocols, so a file, a merge of merges, a
ComfyUI ``MODEL`` and a dict in memory are all the same thing to whoever uses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["Gradient", "Mask", "Model", "Report", "Span", "TensorMeta", "Unsettled"]


class Span(NamedTuple):
    """A half-open range ``[start, stop)`` of a tensor's elements in row-major (C) order."""

    start: int
    stop: int

    @property
    def numel(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """What a header says of one tensor. ``dtype`` is a safetensors name such as ``"F16"``."""

    key: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
        return math.prod(self.shape)

    @property
    def whole(self) -> Span:
        return Span(0, self.numel)


@runtime_checkable
class Model(Protocol):
    """A state dict that is read on demand."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's own text metadata (``modelspec.*``, ``format`` …)."""
        ...

    def keys(self) -> Sequence[str]:
        """Tensor names, in the order of the file."""
        ...

    def meta(self, key: str) -> TensorMeta:
        """Dtype and shape of one tensor, from the header. Raises ``KeyError`` for an unknown key."""
        ...

    def read(self, key: str, span: Span | None = None) -> Tensor:
        """One tensor in its stored dtype: shaped without ``span``, 1-D with it.

        The tensor may share memory with the file: never write into it. Safe to call from several threads.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class Mask(Protocol):
    """Which elements of each tensor may change. A key it does not know selects nothing."""

    def keys(self) -> Sequence[str]: ...

    def shape(self, key: str) -> tuple[int, ...] | None:
        """Shape of the mask for one tensor, or None when it does not know the key."""
        ...

    def read(self, key: str, span: Span | None = None) -> Tensor:
        """A bool tensor, shaped without ``span``, 1-D with it; raises ``KeyError`` for an unknown key."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Gradient(Protocol):
    """How strongly each layer mixes: 1 keeps A, 0 takes B."""

    def keys(self) -> Sequence[str]:
        """The tensors it was made for."""
        ...

    def ratio(self, key: str) -> float | None:
        """The ratio for one tensor, or None to leave A alone there."""
        ...


@runtime_checkable
class Unsettled(Protocol):
    """A lazy model whose headers follow from data: which ranks keep the wanted energy, say.

    Its headers are right whenever they are asked for, but asking may take long. So the engine settles it first: a job
    for each item, on all threads and with progress, after which every header is known.
    """

    def to_settle(self) -> Mapping[str, int]:
        """The items to settle, with the bytes of scratch that each takes; none once that is done."""
        ...

    def settle(self, item: str) -> None:
        """Find what the headers need of one item. Called from several threads, once for each item."""
        ...


@dataclass(frozen=True)
class Report:
    """What a reporter found, free of any output format.

    ``text`` is paragraphs for a person, without markup. ``rows`` is a table whose columns are the keys of each row, in
    the order they first appear; its cells are text, numbers or None. ``data`` is JSON-serialisable and holds all that
    a script may want. ``figures`` maps a caption to a function that draws it: called only where pictures are wanted,
    with the colours of the page set in matplotlib's ``rcParams``.
    """

    title: str
    text: str = ""
    rows: Sequence[Mapping[str, str | int | float | None]] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
