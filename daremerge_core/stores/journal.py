"""What of an interrupted run is finished, so that another run can go on with it.

Beside the target ``out.safetensors`` lies a folder ``.out.safetensors.daremerge-resume`` with what has been written so
far, ``partial``, and ``journal.jsonl``: a line that says what is being made of what, and a line for each piece that is
written, with its BLAKE3. Lines may be lost and pieces damaged when a machine dies: what is not in the journal, and what
is not as the journal says, is made again. So the journal is never forced to the disk.

The folder has a name that anybody can guess, so nothing in it is taken on trust: links are not followed, and a folder
that somebody else put there is refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3

from .. import strict_json
from ..errors import OutputError
from ..printable import shortened
from ..values import TensorMeta
from .atomic import fail, lock, open_own

__all__ = ["Finished", "Journal", "Piece", "forget", "kept_beside", "layout_digest"]

VERSION = 1
_SUFFIX = "daremerge-resume"
_NAME_BYTES = 150  # of the target's name: 255 is the limit, on most file systems
_JOURNAL = "journal.jsonl"
_LONGEST = 1 << 30  # bytes of a journal that are read: no model has as many pieces
_LONGEST_LINE = 1 << 26  # bytes: a recipe may be long
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements ``[start, stop)`` of a tensor."""

    key: str
    start: int
    stop: int

    @property
    def numel(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Finished:
    """What is known of a piece that is written: the BLAKE3 of its bytes, and what was found in it."""

    blake3: str
    nonfinite: int
    overflowed: int


class Journal:
    """The journal of one target, and the place of what is written until it is whole; one run has it at a time.

    Raises :class:`.OutputError` when another run has it, or the folder cannot be made, or what stands there is none of
    ours.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = _folder(target)
        self.partial = self.folder / "partial"
        """Where the sink writes: a file, or a folder of shards."""
        self._writing = threading.Lock()
        self._begun: dict[str, Any] | None = None
        self.finished: dict[Piece, Finished] = {}
        """What the journal says; whether it is so is to be checked."""
        self._fd = -1
        try:
            self._fd = self._open()
            self._read()
        except OSError as error:
            fail(error, target)
        except BaseException:
            self._release()
            raise

    def check(self, made: Mapping[str, Any]) -> None:
        """Refuse to go on with what was begun from something else.

        Args:
            made: what determines every byte of the output (recipe, versions, identities of inputs, layout), as JSON
                has it; or as much of it as is known already.
        """
        if self._begun is None:
            return
        begun = {name: value for name, value in self._begun.items() if name in made}
        for where, was, now in _differences(begun, json.loads(json.dumps(made))):
            raise OutputError(
                f"{self.target}: the interrupted run cannot be resumed: "
                f"{where} was {shortened(was)}, and is {shortened(now)}.",
                hint=f"Run it as it was begun, or delete what it left, {self.folder}, to begin anew.",
            )

    def begin(self, made: Mapping[str, Any]) -> None:
        """As :meth:`check`, everything known; a journal that is empty begins here."""
        self.check(made)
        if self._begun is None:
            self._write({"journal": VERSION, **made})
            self._begun = dict(made)

    def add(self, piece: Piece, found: Finished) -> None:
        """A piece is written. From any thread."""
        self.finished[piece] = found
        self._write(
            {
                "tensor": piece.key,
                "span": [piece.start, piece.stop],
                "blake3": found.blake3,
                "nonfinite": found.nonfinite,
                "overflowed": found.overflowed,
            }
        )

    def close(self) -> None:
        """Let another run have it; where nothing is finished, or all has been committed, nothing is left."""
        if self._fd < 0:
            return
        if not self.finished or not os.path.lexists(self.partial):
            _remove_folder(self.folder)
        self._release()

    def remove(self) -> None:
        """The target is whole: what was kept for it goes."""
        _remove_folder(self.folder)
        self.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _open(self) -> int:
        """The journal, opened and locked."""
        path = self.folder / _JOURNAL
        while True:
            with suppress(FileExistsError):
                self.folder.mkdir()
            try:
                _check_ours(self.folder, self.target)
                fd = open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, self.target)
            except FileNotFoundError:  # a run that has ended removed the folder
                continue
            if lock(fd) is False:
                os.close(fd)
                raise OutputError(
                    f"{self.target}: another run with --resume is writing it.", hint="Wait for it, or stop it."
                )
            try:
                if os.path.samestat(os.fstat(fd), os.lstat(path)):
                    return fd
            except FileNotFoundError:
                pass
            os.close(fd)  # removed between being opened and being locked

    def _read(self) -> None:
        """Take in the lines that are whole. Without the first, what lies there is of no use."""
        with open(self._fd, "rb", closefd=False) as file:
            tables = _tables(_lines(file))
            first = next(tables, {})
            if first.pop("journal", None) == VERSION:
                self._begun = first
                self._take_in(tables)
        if self._begun is None:
            os.ftruncate(self._fd, 0)
            _remove(self.partial)
        else:  # a line that was cut off must not run on in the next
            os.write(self._fd, b"\n")

    def _take_in(self, tables: Iterable[dict[str, Any]]) -> None:
        for table in tables:
            match table:
                case {
                    "tensor": str(key),
                    "span": [int(start), int(stop)],
                    "blake3": str(digest),
                    "nonfinite": int(nonfinite),
                    "overflowed": int(overflowed),
                } if 0 <= start <= stop and min(nonfinite, overflowed) >= 0 and _DIGEST.fullmatch(digest):
                    self.finished[Piece(key, start, stop)] = Finished(digest, nonfinite, overflowed)

    def _write(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            with self._writing:
                os.write(self._fd, data)
        except OSError as error:
            fail(error, self.target)


def layout_digest(tensors: Iterable[TensorMeta]) -> str:
    """Names one layout: the tensors' names, dtypes and shapes in order."""
    text = json.dumps([[meta.key, meta.dtype, list(meta.shape)] for meta in tensors])
    return f"blake3:{blake3(text.encode()).hexdigest()}"


def kept_beside(target: Path) -> Path | None:
    """The folder in which something is kept of an interrupted run for ``target``, if there is one."""
    folder = _folder(target)
    return folder if os.path.lexists(folder / "partial") else None


def forget(target: Path) -> None:
    """Remove what an interrupted run left, now that ``target`` is there; unless a run is at work on it."""
    folder = _folder(target)
    try:
        _check_ours(folder, target)
        fd = open_own(folder / _JOURNAL, os.O_RDWR, target)
    except (OSError, OutputError):  # there is none, or it is none of ours
        return
    try:
        if lock(fd) is not False:
            _remove_folder(folder)
    finally:
        os.close(fd)


def _folder(target: Path) -> Path:
    target = Path(os.path.realpath(target))
    name = target.name.encode()
    # A name that is cut off has its hash instead, so that no two targets share a folder.
    stem = target.name if len(name) <= _NAME_BYTES else blake3(name).hexdigest()
    return target.parent / f".{stem}.{_SUFFIX}"


def _check_ours(folder: Path, target: Path) -> None:
    """Refuse what is no folder of ours: a link, or a folder of somebody else's, who may change it at any moment."""
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise OutputError(f"{target}: cannot be resumed: {folder} is no folder.", hint="Delete it to begin anew.")
    # Whoever owns the folder above may do here what they like anyway; on disks that know no owners both are theirs.
    if hasattr(os, "geteuid") and found.st_uid not in (os.geteuid(), os.stat(folder.parent).st_uid):
        raise OutputError(
            f"{target}: cannot be resumed: {folder} belongs to somebody else.", hint="Write to a folder of your own."
        )


def _remove(path: Path) -> None:
    """Of a link the link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_folder(folder: Path) -> None:
    """The folder and what is in it; where it is a link by now, nothing."""
    shutil.rmtree(folder, ignore_errors=True)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Those that end, as far as a journal goes; a file that is longer is not held in memory."""
    left = _LONGEST
    while left > 0 and (line := file.readline(_LONGEST_LINE)).endswith(b"\n"):
        left -= len(line)
        yield line


def _tables(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            table = strict_json.loads(line)
        except strict_json.JsonError:
            continue
        if isinstance(table, dict):
            yield table


def _differences(was: Any, now: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two trees of JSON differ, as dotted paths with what is there in each; None for what is in one alone."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in was | now:
            yield from _differences(was.get(name), now.get(name), f"{where}.{name}" if where else name)
    elif was != now:
        yield where, was, now
