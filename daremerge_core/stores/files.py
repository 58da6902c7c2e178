"""Opening the files that a person names: regular ones only, with an error that says what stands there instead."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from ..errors import ModelFileError, nearest

__all__ = ["EXPLAINED", "guess_format", "open_regular", "read_text", "sha256_file"]

_BLOCK = 4 << 20  # bytes

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, following links.

    Raises :class:`ModelFileError` when it is missing, unreadable, a folder, a pipe (which would block) or a device.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = next((name for matches, name in _KINDS if matches(mode)), "not a regular file")
            raise ModelFileError(f"{path}: this is {kind}, not a file.", hint="Name a file.")
        return path.open("rb")
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file.", hint=_missing_hint(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelFileError(f"{path}: cannot be opened: {reason}.") from error


def read_text(path: Path, most: int, *, what: str) -> str:
    """The text of a UTF-8 file, with or without a mark of the byte order, of at most so many bytes.

    Args:
        what: it should be, as errors say: ``an index of shards``.

    Raises :class:`ModelFileError` as :func:`open_regular` does, for a larger file, and for what is no such text.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ModelFileError(f"{path}: {size:,} bytes are too many for {what}.", hint="Is this a model?")
        raw = file.read(size)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelFileError(
            f"{path}: this is not {what}: not UTF-8 text at byte {error.start}.", hint="Is this a model or a mask?"
        ) from None


def _missing_hint(path: Path) -> str:
    try:
        siblings = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return f"The folder {path.parent} does not exist either."
    return f"Check the spelling.{nearest(path.name, siblings)}"


def guess_format(start: bytes) -> str:
    """Name the format that a file's first bytes (24 are enough) show, or ``"unknown"``.

    ``safetensors``, ``zip`` (today's torch pickles among them), ``pickle``, and what people are given in their stead:
    ``gguf``, ``lfs-pointer``, ``html``, ``json``, ``empty``.
    """
    text = start.lstrip().lower()
    if not start:
        return "empty"
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return "safetensors"
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "pickle"
    if start.startswith(b"GGUF"):
        return "gguf"
    if start.startswith(b"version https://git-lfs"):
        return "lfs-pointer"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "html"
    if text.startswith((b"{", b"[")):
        return "json"
    return "unknown"


EXPLAINED: dict[str, tuple[str, str]] = {
    "empty": ("is empty", "The download or copy failed: fetch the file again."),
    "zip": ("is a zip archive, as torch pickles are", "If it is a checkpoint, rename it to .ckpt or .pt."),
    "pickle": ("is a pickle", "If it is a checkpoint, rename it to .ckpt or .pt."),
    "gguf": ("is a GGUF file", "GGUF holds quantised weights, which cannot be merged: get the safetensors version."),
    "lfs-pointer": ("is a Git LFS pointer, not the model", "Run `git lfs pull` in that repository."),
    "html": ("is a web page, not a model", "The download failed (a login page?): fetch the file again."),
    "json": ("is JSON text, not a model", "A recipe, gradient or index file was named where a model belongs."),
}
"""What to tell somebody whose file is none of ours: what it is, and what to do next."""


def sha256_file(path: str | os.PathLike[str], progress: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file in hex, as model sites list it. ``progress`` is told the bytes read, block by block.

    Separate from writing, since a file's header comes first and is known last; reading back costs little as the
    system still has the file in memory.
    """
    digest = sha256()
    block = memoryview(bytearray(_BLOCK))
    with open_regular(Path(path)) as file:
        while count := file.readinto(block):  # type: ignore[attr-defined]  # BinaryIO leaves it out
            digest.update(block[:count])
            if progress:
                progress(count)
    return digest.hexdigest()
