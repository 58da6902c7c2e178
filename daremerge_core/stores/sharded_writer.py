"""Writing a folder of safetensors shards and their index, as Hugging Face lays them out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import dtypes
from ..errors import ModelFileError, OutputError
from ..values import TensorMeta
from .atomic import Partial, check_space, fail, resolve_target, set_aside, sync_folder, write_text
from .companions import copy_companions
from .exchange import exchange
from .sharded_folder import INDEX_NAME, read_weight_map
from .writer import SafetensorsWriter

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ShardedWriter", "plan_shards"]


def plan_shards(tensors: Sequence[TensorMeta], shard_size: int) -> list[list[TensorMeta]]:
    """Fill shards of at most ``shard_size`` bytes of data, in the order given; a larger tensor has one to itself."""
    shards: list[list[TensorMeta]] = []
    free = 0
    for meta in tensors:
        size = dtypes.nbytes(meta.dtype, meta.numel)
        if not shards or size > free:
            shards.append([])
            free = shard_size
        shards[-1].append(meta)
        free -= size
    return shards


class ShardedWriter:
    """A :class:`~daremerge_core.stores.sink.ResumableSink` into a folder of shards.

    The folder is written under a temporary name beside ``folder`` and renamed as a whole on :meth:`commit`. With
    ``overwrite``, an older folder is replaced if it holds an index, its shards, the same companions and nothing else.
    All metadata goes into the first shard; ``format``, which some libraries look for in each, into all.

    Raises :class:`~daremerge_core.errors.OutputError` before any work when the folder exists, cannot be written, or
    does not fit on the disk.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        tensors: Sequence[TensorMeta],
        metadata: Mapping[str, str] | None = None,
        *,
        shard_size: int,
        overwrite: bool = False,
        companions: Mapping[str, Path] = {},
        stored_as: str | None = None,
        at: Path | None = None,
    ) -> None:
        """
        Args:
            companions: configuration and tokenizer files to put beside the shards, by name.
            stored_as: torch's name of the dtype that ``config.json`` is to state; what it states by default.
            at: as of :class:`SafetensorsWriter`, the folder.
        """
        if not tensors or shard_size < 1:
            raise ValueError("shards need at least one tensor, and a size of at least one byte")
        self._overwrite = overwrite
        self._companions, self._stored_as = companions, stored_as
        self.path = _resolve_folder(Path(folder), companions, overwrite=overwrite)
        shards = plan_shards(tensors, shard_size)
        self._names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
        self._shard_of = {meta.key: number for number, shard in enumerate(shards) for meta in shard}
        if len(self._shard_of) != len(tensors):
            raise ValueError("two tensors have one name")
        self._total = sum(dtypes.nbytes(meta.dtype, meta.numel) for meta in tensors)
        check_space(self.path, self._total, at=at)
        self._partial = Partial(self.path, folder=True, at=at)
        self._writers: list[SafetensorsWriter] = []
        try:
            kept = _tidied(at, self._names) if at else {}
            for number, (name, shard) in enumerate(zip(self._names, shards, strict=True)):
                own = _metadata_of_shard(number, metadata or {})
                self._writers.append(SafetensorsWriter(self._partial.path / name, shard, own, at=kept.get(name)))
        except OSError as error:  # of what an interrupted run left, which anybody may have changed
            self.abort()
            fail(error, self.path, self._total)
        except BaseException:
            self.abort()
            raise

    def write(self, key: str, start: int, elements: Tensor) -> None:
        """See :meth:`Sink.write`."""
        self._writers[self._shard_of[key]].write(key, start, elements)

    def write_raw(self, key: str, start: int, data: memoryview) -> None:
        """See :meth:`Sink.write_raw`."""
        self._writers[self._shard_of[key]].write_raw(key, start, data)

    def read_back(self, key: str, start: int, count: int) -> Iterator[memoryview]:
        """See :meth:`ResumableSink.read_back`."""
        return self._writers[self._shard_of[key]].read_back(key, start, count)

    def keep(self, key: str, start: int, count: int) -> None:
        """See :meth:`ResumableSink.keep`."""
        self._writers[self._shard_of[key]].keep(key, start, count)

    def describe(self, metadata: Mapping[str, str], *, sha256: bool = False) -> None:
        """See :meth:`Sink.describe`."""
        for number, writer in enumerate(self._writers):
            writer.describe(_metadata_of_shard(number, metadata), sha256=sha256)

    @property
    def digests(self) -> Mapping[Path, str]:
        """See :attr:`Sink.digests`."""
        return {self.path / path.name: digest for one in self._writers for path, digest in one.digests.items()}

    def commit(self) -> list[Path]:
        """See :meth:`Sink.commit`; the index comes last in the list."""
        try:
            for writer in self._writers:
                writer.commit()
            copy_companions(self._companions, self._partial.path, dtype=self._stored_as)
            write_text(self._partial.path / INDEX_NAME, self._index(), overwrite=False)
            _resolve_folder(
                self.path, self._companions, overwrite=self._overwrite
            )  # nobody put anything there meanwhile
            self._swap()
        except OSError as error:
            fail(error, self.path, self._total)
        finally:
            self.abort()
        return [self.path / name for name in (*self._names, *self._companions, INDEX_NAME)]

    def _index(self) -> str:
        weight_map = {key: self._names[self._shard_of[key]] for key in sorted(self._shard_of)}
        table = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
        return json.dumps(table, indent=2, ensure_ascii=False) + "\n"

    def _swap(self) -> None:
        """Put the new folder in the place of the old, if there is one; what is old goes when this sink does."""
        if not self.path.exists():
            os.rename(self._partial.path, self.path)
        elif not exchange(self._partial.path, self.path):
            with set_aside(self.path):
                os.rename(self._partial.path, self.path)
        sync_folder(self.path.parent)

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        for writer in self._writers:
            writer.abort()
        self._partial.remove()

    def __enter__(self) -> ShardedWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()


def _metadata_of_shard(number: int, metadata: Mapping[str, str]) -> Mapping[str, str]:
    return metadata if number == 0 else {name: text for name, text in metadata.items() if name == "format"}


def _tidied(folder: Path, names: Sequence[str]) -> Mapping[str, Path]:
    """Where each shard is written in a folder that stays: as left there, those that were finished too.

    Whatever else lies there, such as the index of a run that was killed just before its end, goes.
    """
    kept = {name: folder / f".{name}.partial" for name in names}
    for name, path in kept.items():
        if os.path.lexists(folder / name):
            os.replace(folder / name, path)
    for path in set(folder.iterdir()) - set(kept.values()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return kept


def _resolve_folder(folder: Path, companions: Collection[str], *, overwrite: bool) -> Path:
    """Where to write; raises :class:`OutputError` when that would remove anything but a sharded model."""
    target = resolve_target(folder, overwrite=overwrite, folder=True)
    try:
        found = {entry.name for entry in target.iterdir()} if target.exists() else set()
    except OSError as error:
        fail(error, folder)
    if found:
        hint = "Write to another folder, or empty this one yourself."
        try:
            known = {INDEX_NAME, *read_weight_map(target / INDEX_NAME).values()}
        except ModelFileError as error:
            raise OutputError(f"{folder}: will not be replaced: it is not a sharded model.", hint=hint) from error
        if others := sorted(found - known - set(companions)):
            raise OutputError(f"{folder}: will not be replaced: it also holds {', '.join(others[:5])}.", hint=hint)
    return target
