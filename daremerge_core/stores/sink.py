"""Where an engine puts what it computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ResumableSink", "Sink"]

_Self = TypeVar("_Self")


@runtime_checkable
class Sink(Protocol):
    """An output whose tensors are known in advance, and that exists once it is committed.

    Leaving its context without :meth:`commit`, by an exception or not, aborts it.
    """

    def write(self, key: str, start: int, elements: Tensor) -> None:
        """Put a run of elements, in row-major order, at element ``start`` of a tensor.

        ``elements`` is contiguous, in CPU memory and in the tensor's declared dtype; its shape does not matter. Safe
        to call from several threads, in any order; each element must be written once.
        """
        ...

    def write_raw(self, key: str, start: int, data: memoryview) -> None:
        """As :meth:`write`, the elements as the bytes that are stored, little-endian."""
        ...

    def describe(self, metadata: Mapping[str, str], *, sha256: bool = False) -> None:
        """Give the final metadata, once, before :meth:`commit`.

        It replaces the one given when the sink was made, for values known only later; its encoded length must be
        the same.

        Args:
            sha256: have each model file hashed while it is written; only before the first write.
        """
        ...

    @property
    def digests(self) -> Mapping[Path, str]:
        """After :meth:`commit`, if it was asked for: the SHA-256 of each model file, in hex, as model sites list it."""
        ...

    def commit(self) -> list[Path]:
        """Finish: check that every element was written, force it to disk, and make it appear. Returns its files."""
        ...

    def abort(self) -> None:
        """Leave nothing behind. Does nothing once committed or aborted; waits for writes that are under way."""
        ...

    def __enter__(self: _Self) -> _Self: ...

    def __exit__(self, *error: object) -> None: ...


@runtime_checkable
class ResumableSink(Sink, Protocol):
    """A sink that may find what an interrupted run wrote, and go on with it."""

    def read_back(self, key: str, start: int, count: int) -> Iterator[memoryview]:
        """The bytes that stand there now for ``count`` elements from ``start``, in blocks, written or not."""
        ...

    def keep(self, key: str, start: int, count: int) -> None:
        """Take these elements as written: they are as they should be. After :meth:`describe`."""
        ...
