"""Where a merge may not write: quotas, and folders and files that are closed to it, as an ordinary user meets them."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

if sys.platform == "win32":
    pytest.skip("permissions and mounts as POSIX has them", allow_module_level=True)

from daremerge_core.stores import open_model, write_model

Cli = Callable[..., Any]

ORDINARY = (
    "import ctypes, os, sys\n"
    "PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2\n"
    "if os.geteuid() == 0:\n"
    "    for one in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):\n"
    "        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, one, 0, 0, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)
"""Runs a command to which permissions apply. Root keeps its name, so that it can still read what Python is made of,
but not its right to pass over permissions."""

MERGED = ("file", "folder")
EACH = (("file", ()), ("folder", ("--overwrite",)), ("file", ("--resume",)))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        made = torch.Generator().manual_seed(seed)
        tensors = {f"layer.{number}.weight": torch.randn(1000, generator=made) for number in range(8)}
        write_model(tmp_path / f"{name}.safetensors", tensors)
    return tmp_path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "place"
    folder.mkdir()
    try:
        yield folder
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def ordinarily(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ORDINARY, sys.executable, *command], capture_output=True, text=True, check=False
    )


def merge(models: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    shards = () if out.suffix else ("--shard-size", "8KB")
    words = ["merge", "lerp", str(models / "a.safetensors"), str(models / "b.safetensors"), "-o", str(out)]
    return ordinarily("-m", "daremerge_core.cli", *words, "--quiet", *shards, *options)


def at(place: Path, kind: str) -> Path:
    return place / ("out.safetensors" if kind == "file" else "out")


def assert_refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) <= 2, "more than a message and a hint"
    for words in said:
        assert words in done.stderr


@pytest.fixture(scope="module", autouse=True)
def _permissions_apply(tmp_path_factory: pytest.TempPathFactory) -> None:
    closed = tmp_path_factory.mktemp("closed") / "closed"
    closed.mkdir(mode=0o555)
    if ordinarily("-c", f"open({str(closed / 'x')!r}, 'w')").returncode == 0:
        pytest.skip("this process passes over permissions, and cannot be made not to")


@pytest.mark.parametrize(("kind", "options"), EACH)
def test_a_folder_that_may_not_be_written(models: Path, place: Path, kind: str, options: tuple[str, ...]) -> None:
    place.chmod(0o555)
    assert_refused(merge(models, at(place, kind), *options), "Permission denied", f"permissions of {place}")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("kind", MERGED)
def test_a_folder_that_may_not_be_entered(models: Path, place: Path, kind: str) -> None:
    place.chmod(0o666)
    assert_refused(merge(models, at(place, kind)), "Permission denied")
    place.chmod(0o755)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(("kind", "options"), EACH)
def test_a_folder_that_may_be_written_but_not_listed(
    models: Path, place: Path, kind: str, options: tuple[str, ...]
) -> None:
    """As one has for handing things in: a merge works there as anywhere."""
    out = at(place, kind)
    place.chmod(0o333)
    for _ in range(2 if "--overwrite" in options else 1):
        done = merge(models, out, *options)
        assert done.returncode == 0, done.stderr
    place.chmod(0o755)
    assert [path.name for path in place.iterdir()] == [out.name]
    with open_model(out) as model:
        assert len(list(model.keys())) == 8


@pytest.mark.parametrize("kind", MERGED)
def test_what_is_write_protected_is_not_replaced(models: Path, place: Path, kind: str) -> None:
    """A rename would not heed it, and a folder that was replaced could not be removed."""
    out = at(place, kind)
    assert merge(models, out).returncode == 0
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    protected = [out] if kind == "file" else [out, sorted(out.iterdir())[0]]
    for path in protected:
        mode = path.stat().st_mode & 0o777
        path.chmod(mode & 0o555)
        assert_refused(merge(models, out, "--overwrite"), f"{path}: this is write-protected")
        path.chmod(mode)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert [path.name for path in place.iterdir()] == [out.name]
    assert merge(models, out, "--overwrite").returncode == 0


def test_a_folder_to_replace_that_may_not_be_listed(models: Path, place: Path) -> None:
    out = at(place, "folder")
    assert merge(models, out).returncode == 0
    out.chmod(0o333)
    assert_refused(merge(models, out, "--overwrite"), "Permission denied")
    assert [path.name for path in place.iterdir()] == ["out"]


@pytest.mark.parametrize("what", ["file", "folder", "index"])
def test_an_input_that_may_not_be_read(models: Path, place: Path, what: str) -> None:
    shards = place / "shards"
    assert merge(models, shards).returncode == 0
    refused = {"file": models / "a.safetensors", "folder": shards, "index": shards / "model.safetensors.index.json"}
    (models / "a.safetensors").chmod(0o000)
    shards.chmod(0o311)
    done = ordinarily(
        "-m", "daremerge_core.cli", "merge", "lerp", str(refused[what]), str(models / "b.safetensors"),
        "-o", str(models / "new" if what != "file" else models / "new.safetensors"), "--quiet",
    )  # fmt: skip
    assert_refused(done, "Permission denied")
    shards.chmod(0o755)
    assert not list(models.glob("*new*"))


@pytest.mark.parametrize(("kind", "options"), EACH)
def test_a_disk_that_is_mounted_for_reading(models: Path, place: Path, kind: str, options: tuple[str, ...]) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems can be mounted by an administrator alone")
    try:
        assert_refused(merge(models, at(place, kind), *options), "Read-only file system")
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("options", [(), ("--resume",)], ids=" ".join)
@pytest.mark.parametrize(
    ("call", "left"), [("mkdir", 0), ("posix_fallocate", 0), ("pwrite", 0), ("pwrite", 7), ("fsync", 0)]
)
@pytest.mark.parametrize("kind", MERGED)
def test_a_quota_that_is_used_up(
    models: Path,
    place: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    call: str,
    left: int,
    options: tuple[str, ...],
) -> None:
    """The system's answer is feigned, by a call that fails after so many: few systems have quotas to test with.

    Network disks find out as late as when they are told to keep what was written.
    """
    if call == "mkdir" and kind == "file" and not options:
        pytest.skip("makes no folder")
    real, calls = getattr(os, call), itertools.count()

    def limited(*args: Any) -> Any:
        if next(calls) >= left:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return real(*args)

    monkeypatch.setattr(os, call, limited)
    words = ["merge", "lerp", models / "a.safetensors", models / "b.safetensors", "-o", at(place, kind), "--quiet"]
    shards = () if kind == "file" else ("--shard-size", "8KB")
    done = cli(*words, *shards, *options)
    assert done.exit_code == 2
    assert "your quota on this disk is used up" in done.output
    assert "free" not in done.output, "what the disk has free is of no use to somebody with a quota"
    finished = bool(options) and (call, left) in (("pwrite", 7), ("fsync", 0))
    assert [path.name for path in place.iterdir()] == (
        [f".{at(place, kind).name}.daremerge-resume"] if finished else []
    )
