"""Writing so that a file or folder is there whole or not at all.

Everything is written under a temporary name beside its target, forced to disk, and renamed. Whatever stops the
process, nothing ever stands at the final path but the old content or the new.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from ..errors import OutputError
from ..sizes import format_size

__all__ = [
    "Partial",
    "check_space",
    "fail",
    "lock",
    "open_own",
    "replace",
    "resolve_target",
    "set_aside",
    "sync_folder",
    "write_bytes",
    "write_text",
]

_SUFFIX = "daremerge-partial"
_ASIDE = "-old"
_NAME_BYTES = 150  # of the target's name kept in the temporary one: 255 is the limit, on most file systems
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # for the other end of a pipe, before it is seen to be one
_ABANDONED_AFTER = 60.0  # seconds: until then a partial file may belong to a process that is about to lock it


def resolve_target(path: Path, *, overwrite: bool, folder: bool = False) -> Path:
    """Where to write, links followed. An empty folder is in nobody's way when a folder is to be written.

    Raises :class:`OutputError` when something stands there or the folder above is missing. What is write-protected is
    not replaced either: a rename would not heed it.
    """
    try:
        target = Path(os.path.realpath(path))
        if not target.name:
            raise OutputError(f"{path}: this is the root of a disk.", hint="Name a file in a folder.")
        if not target.parent.is_dir():
            raise OutputError(f"{path}: the folder {target.parent} does not exist.", hint="Create it first.")
        if target.is_dir():
            if not folder:
                raise OutputError(
                    f"{path}: this is a folder.", hint=f"Name a file in it, e.g. {path / 'merged.safetensors'}"
                )
            if not overwrite and any(target.iterdir()):
                raise OutputError(f"{path}: this folder already exists.", hint="Add --overwrite to replace it.")
        elif os.path.lexists(target):
            if folder or not target.is_file():
                raise OutputError(f"{path}: something else stands there, which will not be replaced.")
            if not overwrite:
                raise OutputError(f"{path}: this file already exists.", hint="Add --overwrite to replace it.")
        _check_not_protected(target)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        fail(error, path)
    return target


def _check_not_protected(target: Path) -> None:
    for path in (target, *(sorted(target.iterdir()) if target.is_dir() else ())):
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise OutputError(
                f"{path}: this is write-protected, and will not be replaced.",
                hint="Make it writable if it may go, or write to another path.",
            )


def check_space(target: Path, needed: int, *, at: Path | None = None) -> None:
    """Raise :class:`OutputError` when ``needed`` bytes are more than the disk has free, and what ``at`` takes of it."""
    free = shutil.disk_usage(target.parent).free + (_taken(at) if at else 0)
    if needed > free:
        raise _no_space(target, needed, free)


def _taken(path: Path) -> int:
    """Bytes of disk that a file takes, or the files in a folder; of a link nothing, wherever it leads."""
    try:
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            return sum(_taken(one) for one in path.iterdir())
    except OSError:
        return 0
    return found.st_blocks * 512 if hasattr(found, "st_blocks") else found.st_size


def _no_space(target: Path, needed: int, free: int) -> OutputError:
    return OutputError(
        f"{target}: not enough space: {format_size(needed)} ({needed:,} bytes) needed, {format_size(free)} free.",
        hint="Free some space, or write to another disk.",
    )


def _over_quota(target: Path, needed: int) -> OutputError:
    # What the disk has free says nothing here, and what the quota has left the system does not tell.
    wanted = f": {format_size(needed)} ({needed:,} bytes) needed" if needed else ""
    return OutputError(
        f"{target}: not enough space: your quota on this disk is used up{wanted}.",
        hint="Remove files of yours there, or write to another disk.",
    )


def fail(error: OSError | ValueError, target: Path, needed: int = 0) -> NoReturn:
    """Raise the :class:`OutputError` that tells a person what the system's error means."""
    code = error.errno if isinstance(error, OSError) else None
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if code == getattr(errno, "EDQUOT", None):
        raise _over_quota(target, needed) from error
    if code == errno.ENOSPC:
        raise _no_space(target, needed, shutil.disk_usage(target.parent).free) from error
    if code == errno.EFBIG:
        hint = "A FAT32 disk holds files up to 4 GiB: write to another disk, or in shards."
        raise OutputError(f"{target}: {format_size(needed)} is too large for this file system.", hint=hint) from error
    if code in (errno.EMFILE, errno.ENFILE):
        hint = "Write fewer, larger shards (--shard-size), or raise the limit: ulimit -n 4096"
        raise OutputError(f"{target}: too many files are open at once.", hint=hint) from error
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        raise OutputError(
            f"{target}: cannot be written: {reason}.", hint=f"Check the permissions of {target.parent}."
        ) from error
    raise OutputError(f"{target}: cannot be written: {reason}.") from error


class Partial:
    """A temporary file or folder beside a target, to be renamed to it or removed.

    It is locked for as long as its process lives, and removed when this object goes. What a killed process left
    behind for the same target is removed.

    Args:
        at: where it is to be instead; it may be there already, and it stays when this object goes. What is there and
            is a link, or no file or folder as wanted, is refused: writing would go elsewhere.
    """

    def __init__(self, target: Path, *, folder: bool = False, at: Path | None = None) -> None:
        self._discard: Callable[[], object] = lambda: None
        new = at is None
        if at is None:
            _sweep(target, _stem(target, folder))
            at = _beside(target, folder)
            # Before there is anything to remove, so that an interrupt at any point from here on finds it in place.
            self._discard = weakref.finalize(self, _discard, at, folder)
        self.path = at
        try:
            if folder:
                if new or not os.path.lexists(self.path):
                    self.path.mkdir()
                elif not stat.S_ISDIR(os.lstat(self.path).st_mode):
                    raise _no_own(target, self.path, "folder")
                self.fd = os.open(self.path, os.O_RDONLY | _NO_LINK) if os.name == "posix" else -1
            elif new:
                self.fd = os.open(self.path, _NEW, 0o666)
            else:
                self.fd = open_own(self.path, os.O_RDWR | os.O_CREAT, target)
        except OSError as error:
            fail(error, target)
        lock(self.fd)

    def close(self) -> None:
        """Close the file, which also unlocks it."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def remove(self) -> None:
        """Close and remove what was written; harmless once it has been renamed."""
        self.close()
        self._discard()


def _stem(target: Path, folder: bool) -> str:
    return (target.name if folder else target.stem).encode()[:_NAME_BYTES].decode(errors="ignore")


def _beside(target: Path, folder: bool) -> Path:
    """A name that nothing has, for what is to take the place of ``target``."""
    return target.parent / f".{_stem(target, folder)}.{os.getpid()}-{os.urandom(4).hex()}.{_SUFFIX}"


def _discard(path: Path, folder: bool) -> None:
    if folder:
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # on a disk that is mounted for reading, also of what is not there
            path.unlink(missing_ok=True)


def _sweep(target: Path, stem: str) -> None:
    """Remove partial files of this target whose process is gone: nobody holds their lock.

    A folder that was set aside is put back where nothing has taken its place.
    """
    ours = re.compile(rf"\.{re.escape(stem)}\.\d+-[0-9a-f]{{8}}\.{_SUFFIX}(?:{_ASIDE})?")
    try:
        found = [entry for entry in os.scandir(target.parent) if ours.fullmatch(entry.name)]
    except OSError:  # a folder that may be written but not listed
        return
    for entry in found:
        aside = entry.name.endswith(_ASIDE)
        try:
            if not aside and time.time() - entry.stat(follow_symlinks=False).st_mtime < _ABANDONED_AFTER:
                continue
            fd = os.open(entry.path, os.O_RDONLY)
            try:
                abandoned = lock(fd)
            finally:
                os.close(fd)
            if not abandoned:
                continue
            if aside and not os.path.lexists(target):
                os.rename(entry.path, target)
            elif entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
        except OSError:  # somebody else's: let it lie
            continue


@contextmanager
def set_aside(target: Path) -> Iterator[None]:
    """Have ``target``, a folder, out of the way while something takes its place; put back if that fails, else removed.

    For systems that cannot exchange two paths: a process that is killed in between leaves nothing at ``target``. The
    next that writes there finds the old folder and puts it back.
    """
    beside = _beside(target, folder=True)
    aside = beside.with_name(beside.name + _ASIDE)
    fd = os.open(target, os.O_RDONLY) if os.name == "posix" else -1
    try:
        if fd >= 0:
            lock(fd)
        os.rename(target, aside)
        try:
            yield
        except BaseException:
            os.rename(aside, target)
            raise
        sync_folder(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        if fd >= 0:
            os.close(fd)


def open_own(path: Path, flags: int, target: Path) -> int:
    """Open a file under a name that anybody can guess. With ``O_CREAT`` it may be there or not.

    Raises :class:`OutputError` for a link, for a file that has another name elsewhere, and for what is no file.
    """
    if path.is_symlink():  # where the system cannot be told to refuse it
        raise _no_own(target, path, "file")
    try:
        fd = os.open(path, flags | _NO_LINK | _NO_WAIT | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link by now, a folder, a socket
            raise _no_own(target, path, "file") from None
        raise
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(fd)
        raise _no_own(target, path, "file")
    return fd


def _no_own(target: Path, path: Path, kind: str) -> OutputError:
    return OutputError(
        f"{target}: cannot be resumed: {path} is a link, or no {kind}.",
        hint=f"Delete {path.parent} to begin anew, if it is what a run left.",
    )


def lock(fd: int) -> bool | None:
    """Take the lock that tells other processes that this file is in use; False when another has it.

    None where it cannot be had: on Windows, where a file in use cannot be removed anyway, and on some network disks.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def replace(partial: Partial, target: Path) -> None:
    """Give a finished partial file its name, for good: the rename itself is forced to disk too."""
    os.replace(partial.path, target)
    sync_folder(target.parent)


def sync_folder(path: Path) -> None:
    """Force a folder's list of names to disk, where the system has a way to."""
    if os.name != "posix":
        return
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:  # it may be written but not listed, and to be forced by itself it must be opened
        os.sync()
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems keep no such promise
            raise
    finally:
        os.close(fd)


def write_text(path: Path, text: str, *, overwrite: bool) -> Path:
    """As :func:`write_bytes`, in UTF-8."""
    return write_bytes(path, text.encode(), overwrite=overwrite)


def write_bytes(path: Path, data: bytes, *, overwrite: bool) -> Path:
    """Write a small file at once or not at all; returns its path, links followed."""
    target = resolve_target(path, overwrite=overwrite)
    partial = Partial(target)
    try:
        with open(partial.fd, "wb", closefd=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.close()
        replace(partial, target)
    except OSError as error:
        fail(error, target, len(data))
    finally:
        partial.remove()
    return target
