"""Writing one ``.safetensors`` file, whose layout is known before its first byte."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Condition, Lock
from typing import TYPE_CHECKING

from .. import dtypes
from ..values import TensorMeta
from .atomic import Partial, check_space, fail, replace, resolve_target
from .following_digest import FollowingDigest
from .header import encode_header, in_file_order
from .memory import MemoryModel
from .tensors import raw_bytes
from .write_behind import WriteBehind

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SafetensorsWriter", "write_model"]

_BLOCK = 4 << 20  # bytes read back at a time
_CANNOT_ALLOCATE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


class SafetensorsWriter:
    """A :class:`~daremerge_core.stores.sink.ResumableSink` into one safetensors file.

    The same tensors and metadata give the same bytes, whatever the order of writes and the number of threads. All space
    is taken at once, under a temporary name beside ``path``; the file appears at ``path`` on :meth:`commit`.

    Raises :class:`~daremerge_core.errors.OutputError` before any work when ``path`` exists (unless ``overwrite``),
    cannot be written, or does not fit on the disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tensors: Sequence[TensorMeta],
        metadata: Mapping[str, str] | None = None,
        *,
        overwrite: bool = False,
        at: Path | None = None,
    ) -> None:
        """
        Args:
            at: where to write until :meth:`commit`. What an interrupted run of the same layout wrote there is kept, and
                stays when this one is given up too.
        """
        self._overwrite = overwrite
        self._tensors = {meta.key: meta for meta in in_file_order(tensors)}
        self._header = encode_header(in_file_order(tensors), metadata or {})
        self._offsets: dict[str, int] = {}
        self.nbytes = len(self._header)
        for meta in self._tensors.values():
            self._offsets[meta.key] = self.nbytes
            self.nbytes += dtypes.nbytes(meta.dtype, meta.numel)

        self.path = resolve_target(Path(path), overwrite=overwrite)
        check_space(self.path, self.nbytes, at=at)
        self._missing = {meta.key: meta.numel for meta in self._tensors.values()}
        self._idle = Condition()  # guards _missing and the two below; notified when a write ends
        self._under_way: set[object] = set()
        self._writing = Lock()
        self._open = True
        self._described = False
        self._digest: FollowingDigest | None = None
        self._behind: WriteBehind | None = None
        self.digests: dict[Path, str] = {}
        """See :attr:`Sink.digests`."""
        self._partial = Partial(self.path, at=at)
        try:
            _allocate(self._partial.fd, self.nbytes)
        except OSError as error:
            self.abort()
            fail(error, self.path, self.nbytes)
        except BaseException:
            self.abort()
            raise
        if WriteBehind.possible():
            self._behind = WriteBehind(self._partial.fd)

    def describe(self, metadata: Mapping[str, str], *, sha256: bool = False) -> None:
        """See :meth:`Sink.describe`. Raises ``RuntimeError`` when the header would have another length."""
        header = encode_header(self._tensors.values(), metadata)
        if len(header) != len(self._header):
            raise RuntimeError(f"the header was to have {len(self._header)} bytes and has {len(header)} at last")
        self._header = header
        try:
            self._write_at(memoryview(header), 0)
        except OSError as error:
            fail(error, self.path, self.nbytes)
        self._described = True
        if sha256:
            self._digest = FollowingDigest(self._partial.path, self.nbytes)
            self._digest.written(0, len(header))

    def write(self, key: str, start: int, elements: Tensor) -> None:
        """See :meth:`Sink.write`. Raises ``KeyError``, ``TypeError`` or ``IndexError`` for what was not announced."""
        meta = self._tensors[key]
        if elements.dtype != dtypes.torch_dtype(meta.dtype) or elements.device.type != "cpu":
            raise TypeError(f"{key!r} is to hold {meta.dtype} from the CPU, not {elements.dtype} ({elements.device})")
        if not elements.is_contiguous():
            raise TypeError(f"the elements for {key!r} are not contiguous")
        self.write_raw(key, start, raw_bytes(elements))

    def write_raw(self, key: str, start: int, data: memoryview) -> None:
        """See :meth:`Sink.write_raw`. Raises ``KeyError`` or ``IndexError`` for what was not announced."""
        meta = self._tensors[key]
        count = data.nbytes // dtypes.BYTES[meta.dtype]
        if start < 0 or start + count > meta.numel:
            raise IndexError(f"[{start}, {start + count}) is outside {key!r}, which has {meta.numel} elements")
        this_write = object()
        try:
            with self._idle:
                if not self._open:
                    raise RuntimeError(f"{self.path} is closed")
                self._under_way.add(this_write)
            offset = self._offsets[key] + dtypes.nbytes(meta.dtype, start)
            self._write_at(data, offset)
            if self._digest:
                self._digest.written(offset, offset + data.nbytes)
            if self._behind:
                self._behind.written(data.nbytes)
        except OSError as error:
            fail(error, self.path, self.nbytes)
        else:
            with self._idle:
                self._missing[key] -= count
        finally:
            with self._idle:
                self._under_way.discard(this_write)
                self._idle.notify_all()

    def read_back(self, key: str, start: int, count: int) -> Iterator[memoryview]:
        """See :meth:`ResumableSink.read_back`."""
        offset, stop = self._range(key, start, count)
        try:
            with open(self._partial.path, "rb", buffering=0) as file:
                file.seek(offset)
                while offset < stop and (block := file.read(min(_BLOCK, stop - offset))):
                    offset += len(block)
                    yield memoryview(block)
        except OSError as error:
            fail(error, self.path, self.nbytes)

    def keep(self, key: str, start: int, count: int) -> None:
        """See :meth:`ResumableSink.keep`."""
        if self._digest:
            self._digest.written(*self._range(key, start, count))
        with self._idle:
            self._missing[key] -= count

    def _range(self, key: str, start: int, count: int) -> tuple[int, int]:
        """Where in the file these elements lie."""
        dtype, offset = self._tensors[key].dtype, self._offsets[key]
        return offset + dtypes.nbytes(dtype, start), offset + dtypes.nbytes(dtype, start + count)

    def _write_at(self, data: memoryview, offset: int) -> None:
        fd = self._partial.fd
        # One at a time: the system lets only one thread write to a file, and keeps a core busy waiting for it.
        with self._writing:
            while data:  # the system may take less than it is given
                if hasattr(os, "pwrite"):
                    count = os.pwrite(fd, data, offset)
                else:  # Windows has no positioned write
                    os.lseek(fd, offset, os.SEEK_SET)
                    count = os.write(fd, data)
                data, offset = data[count:], offset + count

    def commit(self) -> list[Path]:
        """See :meth:`Sink.commit`. Raises ``RuntimeError`` when a tensor is incomplete. Aborts whenever it raises."""
        try:
            self._close()
            resolve_target(self.path, overwrite=self._overwrite)  # nobody put a file there meanwhile
            replace(self._partial, self.path)
        except OSError as error:
            fail(error, self.path, self.nbytes)
        finally:
            self.abort()  # after the rename there is nothing left to remove
        return [self.path]

    def _close(self) -> None:
        """Write the header, unless it is there, and force everything to disk."""
        with self._idle:
            if not self._open:
                raise RuntimeError(f"{self.path} is closed")
            self._idle.wait_for(lambda: not self._under_way)
            for key, missing in self._missing.items():
                if missing:
                    problem = f"{missing} elements not" if missing > 0 else f"{-missing} elements twice"
                    raise RuntimeError(f"{key!r} was not written as planned: {problem}")
            self._open = False
        if not self._described:
            self._write_at(memoryview(self._header), 0)
        self._stop_behind()
        os.fsync(self._partial.fd)
        if self._digest:
            self.digests[self.path] = self._digest.hexdigest()
        self._partial.close()

    def _stop_behind(self) -> None:
        behind, self._behind = self._behind, None
        if behind:
            behind.stop()

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        with self._idle:
            self._open = False
            # A file number that is closed may be given to another file: no write may still be using it.
            self._idle.wait_for(lambda: not self._under_way)
        if self._digest:
            self._digest.stop()
        with suppress(OSError):  # of a file that is given up
            self._stop_behind()
        self._partial.remove()

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()


def write_model(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a state dict as one safetensors file. ``tensors`` may be strided, shared or on any device.

    Raises ``TypeError`` for a tensor that no checkpoint can hold, ``OutputError`` as :class:`SafetensorsWriter` does.
    """
    model = MemoryModel(tensors)
    metas = [model.meta(key) for key in model.keys()]
    with SafetensorsWriter(path, metas, metadata, overwrite=overwrite) as sink:
        for key in model.keys():
            sink.write(key, 0, model.read(key))
        sink.commit()


def _allocate(fd: int, size: int) -> None:
    """Take the space now, so that a full disk shows before the work and not after it."""
    os.ftruncate(fd, size)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in _CANNOT_ALLOCATE:
                raise
