"""The header of a safetensors file, read strictly and written the same way every time.

Eight bytes hold the header's length N (little-endian), N bytes of JSON follow, then the tensors' bytes, packed.
The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from .. import dtypes, strict_json
from ..errors import ModelFileError
from ..printable import shortened
from ..sizes import format_size
from ..values import TensorMeta
from .files import EXPLAINED, guess_format

__all__ = [
    "MAX_HEADER",
    "Entry",
    "Header",
    "encode_header",
    "in_file_order",
    "is_unicode",
    "name_problem",
    "read_header",
    "shape_problem",
]

MAX_HEADER = 100_000_000
"""Bytes of JSON that a header may take: the limit of the safetensors library."""

_MAX_NAME = 1000  # characters; the longest in the wild have some 150
_MAX_RANK = 64
_MAX_COUNT = 2**63 - 1  # sizes and strides are signed 64-bit numbers in torch
_FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: its dtype and shape, and where its bytes lie, counted from the start of the file."""

    meta: TensorMeta
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself. ``entries`` are in the order of their bytes."""

    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]


def read_header(file: BinaryIO, path: Path) -> Header:
    """Read and check the header of ``file``; ``path`` names it in errors.

    Raises :class:`ModelFileError` for anything the format forbids, and for a file whose length is not the one that
    its header promises.
    """
    file_size = file.seek(0, 2)
    file.seek(0)
    prefix = file.read(24)
    length = int.from_bytes(prefix[:8], "little")
    if len(prefix) < 8 or length > MAX_HEADER or prefix[8:9] not in (b"{", b""):
        raise _not_safetensors(path, prefix, length)
    if 8 + length > file_size:
        raise _truncated(path, f"its header alone takes {8 + length:,} bytes", file_size)
    file.seek(8)
    return _parse(file.read(length), path, file_size)


def _not_safetensors(path: Path, prefix: bytes, length: int) -> ModelFileError:
    what, hint = EXPLAINED.get(guess_format(prefix), (None, None))
    if what is None:
        what = "is not a safetensors file"
        if prefix[8:9] == b"{":
            what += f": it promises a header of {length:,} bytes, and {MAX_HEADER:,} is the most"
        hint = "Download it again; if it comes from a training tool, check its format."
    return ModelFileError(f"{path}: this file {what}.", hint=hint)


def _truncated(path: Path, promise: str, file_size: int) -> ModelFileError:
    return ModelFileError(
        f"{path}: file is truncated: {promise}, file has {file_size:,}.",
        hint="The download or copy stopped early: download it again.",
    )


def _parse(raw: bytes, path: Path, file_size: int) -> Header:
    if not raw.startswith(b"{"):
        raise ModelFileError(f"{path}: the header is not JSON: it must begin with a brace.")
    try:
        table = strict_json.loads(raw)
    except strict_json.JsonError as error:
        raise ModelFileError(f"{path}: the header is not valid JSON: {error}.") from None
    metadata = _metadata(table.pop("__metadata__", {}), path)
    data_start = 8 + len(raw)
    entries = [_entry(key, value, data_start, path) for key, value in table.items()]
    entries.sort(key=lambda entry: (entry.start, entry.stop))
    _check_packed(entries, data_start, path, file_size)
    return Header(MappingProxyType(metadata), MappingProxyType({entry.meta.key: entry for entry in entries}))


def _metadata(value: Any, path: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: __metadata__ must map names to text, not be {_json_kind(value)}.")
    for name, text in value.items():
        if not isinstance(text, str):
            raise ModelFileError(f"{path}: metadata {shortened(name)} must be text, not {_json_kind(text)}.")
        if not (is_unicode(name) and is_unicode(text)):
            raise ModelFileError(f"{path}: metadata {shortened(name)} is not valid Unicode text.")
    return value


def _entry(key: str, value: Any, data_start: int, path: Path) -> Entry:
    def refuse(problem: str, hint: str | None = None) -> ModelFileError:
        return ModelFileError(f"{path}: tensor {shortened(key)}: {problem}.", hint=hint)

    if problem := name_problem(key):
        raise refuse(problem)
    if not isinstance(value, dict):
        raise refuse(f"its entry must be an object, not {_json_kind(value)}")
    if missing := _FIELDS - value.keys():
        raise refuse(f"{min(missing)!r} is missing")
    if extra := value.keys() - _FIELDS:
        raise refuse(f"unknown field {shortened(min(extra))}")

    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in dtypes.BYTES:
        raise refuse(f"unknown dtype {shortened(dtype)}", f"Known: {', '.join(dtypes.BYTES)}.")
    if problem := shape_problem(shape, dtypes.BYTES[dtype]):
        raise refuse(problem)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise refuse(f"data_offsets must be two whole numbers from 0, not {shortened(offsets)}")

    begin, end = offsets
    meta = TensorMeta(key, dtype, tuple(shape))
    needed = dtypes.nbytes(dtype, meta.numel)
    if begin > end:
        raise refuse(f"data_offsets {shortened(offsets)} end before they begin")
    if end - begin != needed:
        raise refuse(f"{dtype} of shape {shortened(shape)} takes {needed} bytes, but data_offsets give {end - begin}")
    return Entry(meta, data_start + begin, data_start + end)


def _check_packed(entries: list[Entry], data_start: int, path: Path, file_size: int) -> None:
    """The format's own rule: the tensors' bytes fill the rest of the file, with no hole and no overlap."""
    position, before = data_start, "the header"
    for entry in entries:
        if entry.start != position:
            key = entry.meta.key
            problem = "overlaps" if entry.start < position else "leaves a hole after"
            raise ModelFileError(f"{path}: tensor {key!r} {problem} {before}.", hint="The file is damaged or forged.")
        position, before = entry.stop, f"tensor {entry.meta.key!r}"
    if position > file_size:
        raise _truncated(path, f"header promises {position:,} bytes", file_size)
    if position < file_size:
        raise ModelFileError(
            f"{path}: {file_size - position:,} bytes follow the last tensor; the header promises {position:,} in all.",
            hint="The file is damaged: download it again.",
        )


def name_problem(name: str) -> str | None:
    """What is wrong with the name of a tensor, or None. With names of bounded length, so is all work on a name."""
    if not is_unicode(name):
        return "its name is not valid Unicode text"
    if len(name) > _MAX_NAME:
        return f"its name has {len(name):,} characters; {_MAX_NAME:,} are the most"
    return None


def shape_problem(shape: Any, width: int) -> str | None:
    """What is wrong with a shape as JSON has it, of elements of ``width`` bytes, or None."""
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        return f"its shape must be a list of whole numbers from 0, not {shortened(shape)}"
    if len(shape) > _MAX_RANK:
        return f"{len(shape)} dimensions; {_MAX_RANK} are the most"
    if math.prod(size for size in shape if size) * width > _MAX_COUNT:
        return f"its shape {shortened(shape)} is too large for any memory"
    return None


def _is_count(value: Any) -> bool:
    """Whether a JSON value is a whole number from 0 that fits 63 bits. A bool, an int to Python, does not pass."""
    return type(value) is int and 0 <= value <= _MAX_COUNT


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: JSON can spell half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_kind(value: Any) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def in_file_order(tensors: Iterable[TensorMeta]) -> list[TensorMeta]:
    """Widest dtype first, then by name: so every tensor is aligned, and the order has one answer."""
    return sorted(tensors, key=lambda meta: (-dtypes.BYTES[meta.dtype], meta.key))


def encode_header(tensors: Iterable[TensorMeta], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the data, for tensors packed in the order given. The same input gives the same bytes.

    Metadata is sorted by name; spaces pad the JSON so that the data starts at a multiple of 8. Raises ``ValueError``
    for two tensors of one name, for text that UTF-8 cannot hold, and for a header over :data:`MAX_HEADER`.
    """
    table: dict[str, Any] = {}
    if metadata:
        table["__metadata__"] = dict(sorted(metadata.items()))
    position = 0
    for meta in tensors:
        if meta.key in table or meta.key == "__metadata__":
            raise ValueError(f"the tensor name {meta.key!r} is taken")
        stop = position + dtypes.nbytes(meta.dtype, meta.numel)
        table[meta.key] = {"dtype": meta.dtype, "shape": list(meta.shape), "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(f"the header would take {format_size(len(text))}; {format_size(MAX_HEADER)} is the most")
    return len(text).to_bytes(8, "little") + text
