"""A single ``.safetensors`` file."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from .. import dtypes
from ..values import Span, TensorMeta
from .files import open_regular
from .header import Entry, read_header
from .tensors import check_span

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Extent", "SafetensorsFile"]


class Extent(NamedTuple):
    """Where a tensor's bytes lie: ``nbytes`` of the file ``path`` from ``offset``."""

    path: Path
    offset: int
    nbytes: int


class SafetensorsFile:
    """A model in one safetensors file: opening it reads and checks the header, and maps the rest into memory.

    Raises :class:`~daremerge_core.errors.ModelFileError` when the file is missing, damaged or truncated.
    Reading is safe from several threads. A tensor stays valid after :meth:`close`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with open_regular(self.path) as file:
            header = read_header(file, self.path)
            # No madvise: MADV_SEQUENTIAL doubled a single cold reader's speed but slowed two of them by a third.
            self._map, self._zero_copy = _map_file(file)
        self._metadata = header.metadata
        self._entries = header.entries
        self._closed = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files this model is read from."""
        return (self.path,)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def keys(self) -> Sequence[str]:
        """Tensor names, in the order of their bytes in the file."""
        return tuple(self._entries)

    def meta(self, key: str) -> TensorMeta:
        return self._entries[key].meta

    def extent(self, key: str) -> Extent:
        """Where the tensor's raw bytes lie, for a writer that can copy them within the file system."""
        entry = self._entries[key]
        return Extent(self.path, entry.start, entry.stop - entry.start)

    def raw(self, key: str, span: Span) -> memoryview:
        """The stored bytes of one span of elements, little-endian; needs no torch. Raises as :meth:`read` does."""
        entry = self._entries[key]
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        check_span(entry.meta, span)
        width = dtypes.BYTES[entry.meta.dtype]
        return memoryview(self._map)[entry.start + span.start * width : entry.start + span.stop * width]

    def read(self, key: str, span: Span | None = None) -> Tensor:
        """A tensor over the file's own pages: no copy is made, unless an old file has misaligned data.

        Raises ``KeyError`` for an unknown key, ``IndexError`` for a span outside it, ``ValueError`` when closed.
        """
        entry = self._entries[key]
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        if span is None:
            return self._flat(entry, entry.meta.whole).view(entry.meta.shape)
        check_span(entry.meta, span)
        return self._flat(entry, span)

    def _flat(self, entry: Entry, span: Span) -> Tensor:
        import torch

        dtype = dtypes.torch_dtype(entry.meta.dtype)
        width = dtypes.BYTES[entry.meta.dtype]
        if span.numel == 0:  # frombuffer refuses to see nothing
            return torch.empty(0, dtype=dtype)
        offset = entry.start + span.start * width
        if self._zero_copy and offset % width == 0:  # the map itself starts on a page
            return torch.frombuffer(self._map, dtype=dtype, count=span.numel, offset=offset)
        copy = bytearray(memoryview(self._map)[offset : offset + span.numel * width])  # allocated anew, so aligned
        return torch.frombuffer(copy, dtype=dtype)

    def close(self) -> None:
        """Refuse further reads. The pages are unmapped when the last tensor over them is gone."""
        # Never mmap.close(): torch keeps the map alive but holds no buffer export, so closing would succeed and
        # leave the tensors it made pointing at nothing.
        self._closed = True

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SafetensorsFile({str(self.path)!r})"


def _map_file(file: BinaryIO) -> tuple[mmap.mmap, bool]:
    """Map a whole file; and whether torch can look straight at the pages.

    torch warns about a buffer it may not write to, and that warning cannot be silenced for one thread alone. So the
    map is private and writable: nobody here writes, and if somebody did, the file would not change.
    """
    with suppress(OSError):
        if hasattr(mmap, "MAP_PRIVATE"):
            # Without NORESERVE the kernel counts a private writable map as memory to be had, and refuses to map a
            # model larger than the machine's RAM. (Older Pythons do not name the flag.)
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", _NORESERVE.get(os.uname().sysname, 0))
            return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE), True
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), True
    # A system that commits memory strictly may refuse even so; it cannot refuse a read-only map.
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), False


_NORESERVE = {"Linux": 0x4000, "Darwin": 0x40}
