"""A model in a folder: shards and an index that says which tensor lies in which, or one file alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from .. import strict_json
from ..errors import ModelFileError
from ..printable import shortened
from ..values import Span, TensorMeta
from .companions import companions_of
from .files import read_text
from .safetensors_file import Extent, SafetensorsFile

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["INDEX_NAME", "INDEX_SUFFIX", "ShardedFolder", "read_weight_map"]

INDEX_SUFFIX = ".safetensors.index.json"
INDEX_NAME = f"model{INDEX_SUFFIX}"

_MAX_INDEX = 100_000_000


class ShardedFolder:
    """A model of several safetensors files. ``path`` is the folder, or the index file in it.

    A folder without an index is a model too when it holds exactly one ``.safetensors`` file. Where it holds several
    indexes, ``model.safetensors.index.json`` counts, else the one wanted must be named. Files that the index does not
    mention are not looked at.

    Raises :class:`~daremerge_core.errors.ModelFileError` when a shard is missing, damaged or outside the folder, when
    the index and the shards disagree on which tensor is where, and when the folder holds no model or more than one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        index, names = _find(self.path)
        folder = index.parent if index else self.path
        weight_map = read_weight_map(index) if index else {}
        names = names or sorted(set(weight_map.values()))
        with ExitStack() as opened:
            shards = [opened.enter_context(SafetensorsFile(folder / name)) for name in names]
            if index:
                _check_agreement(index, weight_map, dict(zip(names, shards, strict=True)))
            opened.pop_all()
        self._index = index
        self._shard_of: dict[str, SafetensorsFile] = {}
        for shard in shards:
            self._shard_of.update(dict.fromkeys(shard.keys(), shard))
        self._shards = tuple(shards)
        metadata: dict[str, str] = {}
        for shard in reversed(shards):  # the first shard has the last word
            metadata.update(shard.metadata)
        self._metadata = MappingProxyType(metadata)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files this model is read from: the shards, and the index where there is one."""
        shards = tuple(shard.path for shard in self._shards)
        return (*shards, self._index) if self._index else shards

    @property
    def companions(self) -> Mapping[str, Path]:
        """Configuration and tokenizer files beside the shards, by name."""
        return companions_of(self._shards[0].path.parent)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata of all shards together; where two differ, that of the first shard by name."""
        return self._metadata

    def keys(self) -> Sequence[str]:
        """Tensor names: shard by shard, each in the order of its bytes."""
        return tuple(self._shard_of)

    def meta(self, key: str) -> TensorMeta:
        return self._shard_of[key].meta(key)

    def extent(self, key: str) -> Extent:
        """Where the tensor's raw bytes lie."""
        return self._shard_of[key].extent(key)

    def read(self, key: str, span: Span | None = None) -> Tensor:
        """As :meth:`SafetensorsFile.read`."""
        return self._shard_of[key].read(key, span)

    def close(self) -> None:
        for shard in self._shards:
            shard.close()

    def __enter__(self) -> ShardedFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ShardedFolder({str(self.path)!r})"


def read_weight_map(index: Path) -> dict[str, str]:
    """Which shard holds each tensor. Every shard is named as a file beside the index.

    Raises :class:`ModelFileError` when the index is not one.
    """
    text = read_text(index, _MAX_INDEX, what="an index of shards")
    try:
        table = strict_json.loads(text)
    except strict_json.JsonError as error:
        raise ModelFileError(f"{index}: the index is not valid JSON: {error}.") from None
    weight_map = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{index}: the index has no weight_map that says which shard holds which tensor.")
    for key, name in weight_map.items():
        if not isinstance(name, str) or not name:
            raise ModelFileError(f"{index}: weight_map gives tensor {shortened(key)} no file name.")
        if not _is_plain(name):
            raise ModelFileError(
                f"{index}: weight_map places tensor {shortened(key)} in {shortened(name)}, "
                "which is not a file of its folder.",
                hint="An index may only name files beside it. Do not trust this download.",
            )
    return weight_map


def _is_plain(name: str) -> bool:
    """A plain file name and no more: no folder, drive or ``..`` by the rules of any system. The file may be a link."""
    return PurePosixPath(name).name == name == PureWindowsPath(name).name and name != ".." and name.isprintable()


def _check_agreement(index: Path, weight_map: Mapping[str, str], shards: Mapping[str, SafetensorsFile]) -> None:
    hint = "The index and the shards are not of one download: fetch the folder again."
    seen: dict[str, str] = {}
    for name, shard in shards.items():
        held = dict.fromkeys(shard.keys(), name)
        if twice := seen.keys() & held.keys():
            key = min(twice)
            raise ModelFileError(f"{index}: tensor {key!r} is both in {seen[key]} and in {name}.", hint=hint)
        seen |= held
    for key, name in weight_map.items():
        if seen.get(key) != name:
            raise ModelFileError(f"{index}: tensor {shortened(key)} should be in {name}, but is not.", hint=hint)
    if extra := seen.keys() - weight_map.keys():
        key = min(extra)
        raise ModelFileError(f"{index}: tensor {key!r} of {seen[key]} is not in the index.", hint=hint)


def _find(path: Path) -> tuple[Path | None, list[str]]:
    """The index to go by, or None and the one file to open."""
    if not os.path.isdir(path):
        return path, []
    try:
        names = sorted(entry.name for entry in os.scandir(path))
    except OSError as error:
        raise ModelFileError(f"{path}: the folder cannot be listed: {error.strerror}.") from error
    if "model_index.json" in names:
        raise _is_pipeline(path, names)
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    files = [name for name in names if name.endswith(".safetensors")]
    if INDEX_NAME in indexes or len(indexes) == 1:
        return path / (INDEX_NAME if INDEX_NAME in indexes else indexes[0]), []
    if indexes:
        raise ModelFileError(
            f"{path}: the folder holds {len(indexes)} models: {', '.join(indexes)}.",
            hint=f"Name the index of the one you want, e.g. {path / indexes[0]}",
        )
    if len(files) == 1:
        return None, files
    if files:
        raise ModelFileError(
            f"{path}: the folder holds {len(files)} .safetensors files and no index: {_some(files)}.",
            hint=f"Name the file you want, e.g. {path / files[0]}",
        )
    pickles = [name for name in names if name.endswith((".bin", ".ckpt", ".pt", ".pth"))]
    raise ModelFileError(
        f"{path}: the folder holds no .safetensors file and no {INDEX_NAME}.",
        hint=f"Name the file, e.g. {path / pickles[0]}" if pickles else "Name a model file, or a folder with one.",
    )


def _is_pipeline(path: Path, names: Sequence[str]) -> ModelFileError:
    models = [
        str(path / name) for name in names if os.path.isdir(path / name) and any((path / name).glob("*.safetensors"))
    ]
    models += [str(path / name) for name in names if name.endswith(".safetensors")]
    return ModelFileError(
        f"{path}: this is a diffusers pipeline, a folder of several models.",
        hint=f"Open one of them: {_some(models)}" if models else "None of its sub-folders holds a .safetensors file.",
    )


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
