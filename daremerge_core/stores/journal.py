"""What of an interrupted run is finished, so that another run can go on with it.

Beside the target ``out.safetensors`` lies a folder ``.out.safetensors.daremerge-resume`` with what has been written so
far, ``partial``, and ``journal.jsonl``: a line that says what is being made of what, and a line for each piece that is
written, with its BLAKE3. Lines may be lost and pieces damaged when a machine dies: what is not in the journal, and what
is not as the journal says, is made again. So the journal is never forced to the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from .. import strict_json
from ..errors import OutputError
from ..printable import shortened
from ..values import TensorMeta
from .atomic import fail, lock

__all__ = ["Finished", "Journal", "Piece", "forget", "kept_beside", "layout_digest"]

VERSION = 1
_SUFFIX = "daremerge-resume"
_NAME_BYTES = 150  # of the target's name: 255 is the limit, on most file systems
_JOURNAL = "journal.jsonl"
_LONGEST = 1 << 30  # bytes of a journal that are read: no model has as many pieces


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

    Raises :class:`.OutputError` when another run has it, or the folder cannot be made.
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
        try:
            self._fd = self._open()
            self._read()
        except OSError as error:
            fail(error, target)

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
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._fd)
        self._fd = -1

    def remove(self) -> None:
        """The target is whole: what was kept for it goes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> int:
        """The journal, opened and locked."""
        path = self.folder / _JOURNAL
        while True:
            self.folder.mkdir(exist_ok=True)
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            except FileNotFoundError:  # a run that has ended removed the folder
                continue
            if lock(fd) is False:
                os.close(fd)
                raise OutputError(
                    f"{self.target}: another run with --resume is writing it.", hint="Wait for it, or stop it."
                )
            try:
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
            except FileNotFoundError:
                pass
            os.close(fd)  # removed between being opened and being locked

    def _read(self) -> None:
        """Take in the lines that are whole. Without the first, what lies there is of no use."""
        with open(self._fd, "rb", closefd=False) as file:
            lines = file.read(_LONGEST).split(b"\n")[:-1]
        tables = _tables(lines)
        first = next(tables, {})
        if first.pop("journal", None) == VERSION:
            self._begun = first
        else:
            os.ftruncate(self._fd, 0)
            _remove(self.partial)
            return
        for table in tables:
            match table:
                case {
                    "tensor": str(key),
                    "span": [int(start), int(stop)],
                    "blake3": str(digest),
                    "nonfinite": int(nonfinite),
                    "overflowed": int(overflowed),
                }:
                    self.finished[Piece(key, start, stop)] = Finished(digest, nonfinite, overflowed)
        # A line that was cut off must not run on in the next.
        os.write(self._fd, b"\n")

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
        fd = os.open(folder / _JOURNAL, os.O_RDWR)
    except OSError:
        return
    try:
        if lock(fd) is not False:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(fd)


def _folder(target: Path) -> Path:
    target = Path(os.path.realpath(target))
    name = target.name.encode()
    # A name that is cut off has its hash instead, so that no two targets share a folder.
    stem = target.name if len(name) <= _NAME_BYTES else blake3(name).hexdigest()
    return target.parent / f".{stem}.{_SUFFIX}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
