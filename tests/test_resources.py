"""Machines that run out: of disk, of open files; and inputs that do not stay what they were."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

if sys.platform == "win32":
    pytest.skip("limits, mounts and links as POSIX has them", allow_module_level=True)

from crash import large
from crash.caged import Cage, NoCage
from crash.scene import Scene, Victims

from daremerge_core.stores import write_model
from daremerge_core.values import TensorMeta

LITTLE = 192 << 20
"""Bytes of memory: a merge of any size takes half of it for itself."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        made = torch.Generator().manual_seed(seed)
        tensors = {f"layer.{number}.weight": torch.randn(20_000, generator=made) for number in range(40)}
        write_model(tmp_path / f"{name}.safetensors", tensors)
    return tmp_path


def merge(models: Path, out: Path, *options: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command line as a process; ``before`` is shell that runs before it."""
    words = ["merge", "lerp", str(models / "a.safetensors"), str(models / "b.safetensors"), "-o", str(out), *options]
    command = [sys.executable, "-m", "daremerge_core.cli", *words]
    return subprocess.run(
        ["sh", "-c", f'{before}\nexec "$@"', "sh", *command], capture_output=True, text=True, check=False
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems can be mounted by an administrator alone")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("options", [(), ("--shard-size", "1MB")], ids=["file", "folder"])
def test_a_disk_that_is_too_small(models: Path, small_disk: Path, options: tuple[str, ...]) -> None:
    done = merge(models, small_disk / "out.safetensors", *options)
    assert done.returncode != 0
    assert "not enough space" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("shards", ["", "--shard-size 1MB"], ids=["file", "folder"])
def test_a_disk_that_fills_up_meanwhile(models: Path, tmp_path: Path, shards: str) -> None:
    """The system writes part of what it is given, then fails, as on a disk that cannot reserve space."""
    code = (
        "import errno, os, sys\n"
        "os.posix_fallocate = lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, 'not supported'))\n"
        "real, left = os.pwrite, [300_000]\n"
        "def pwrite(fd, data, offset):\n"
        "    count = min(len(data), left[0]); left[0] -= count\n"
        "    if not count: raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    return real(fd, bytes(data)[:count], offset)\n"
        "os.pwrite = pwrite\n"
        "from daremerge_core.cli.main import main; main()\n"
    )
    place = tmp_path / "place"
    place.mkdir()
    name = "out" if shards else "out.safetensors"
    words = ["merge", "lerp", str(models / "a.safetensors"), str(models / "b.safetensors"), *shards.split()]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "-o", str(place / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "not enough space" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(place.iterdir()) == []


def test_more_shards_than_files_may_be_open(models: Path, tmp_path: Path) -> None:
    done = merge(models, tmp_path / "out", "--shard-size", "80KB", before="ulimit -n 40")
    assert done.returncode != 0
    assert "--shard-size" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_file_size_limit(models: Path, tmp_path: Path) -> None:
    done = merge(models, tmp_path / "out.safetensors", before="ulimit -f 1000")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def _write_to(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")


def _replace(path: Path) -> None:
    shutil.copy(path, path.with_name("other"))
    os.replace(path.with_name("other"), path)


@pytest.mark.parametrize("change", [_write_to, _replace, Path.unlink])
def test_an_input_that_changes_meanwhile(tmp_path: Path, change: Callable[[Path], None]) -> None:
    with Victims.hired() as victims, ThreadPoolExecutor(1) as pool:
        scene = Scene(tmp_path, victims, "file")
        scene.clear(with_old=True)
        (tmp_path / "log").unlink()
        running = pool.submit(scene.merge, slow=0.3)
        while "pwrite" not in ((tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""):
            assert not running.done(), scene.said()
        change(tmp_path / "a.safetensors")
        assert running.result() == 2
        assert "'a'" in scene.said() or "a.safetensors" in scene.said()
        assert "changed or removed" in scene.said()
        assert scene.content() == scene.old
        assert len(list(scene.place.iterdir())) == 1


def test_links_and_sparse_files_are_as_good_as_any(models: Path, tmp_path: Path) -> None:
    assert merge(models, tmp_path / "plain.safetensors").returncode == 0
    plain = (models / "a.safetensors").read_bytes()
    (models / "a.safetensors").rename(models / "real")
    (models / "a.safetensors").symlink_to(models / "real")
    with (models / "real").open("wb") as file:
        for start in range(0, len(plain), 4096):  # with holes where there are zeros
            file.seek(start)
            if any(plain[start : start + 4096]):
                file.write(plain[start : start + 4096])
        file.truncate(len(plain))
    assert merge(models, tmp_path / "again.safetensors").returncode == 0
    assert (tmp_path / "plain.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


@pytest.fixture
def cage() -> Iterator[Cage]:
    """A process gets 192 MB of memory, with the cached pages of the files it reads and writes."""
    try:
        with Cage.of(LITTLE) as made:
            yield made
    except NoCage as error:
        pytest.skip(str(error))


def test_more_weights_than_memory(cage: Cage, tmp_path: Path) -> None:
    """``make test-crash`` merges SDXL checkpoints so, by three methods."""
    if large.is_in_memory(tmp_path):
        pytest.skip("files lie in memory here")
    files = large.make(tmp_path, [TensorMeta(f"layer.{number}", "F16", (2048, 1024)) for number in range(24)])
    out = tmp_path / "out.safetensors"
    try:
        ended = large.merged(cage, "ties", files, out)
        assert ended.status == 0, ended.said
        assert 3 * out.stat().st_size > LITTLE
        assert ended.peak == 0 or ended.peak >= LITTLE // 2  # not asleep: it reads and writes so much
    finally:
        for path in (*files.values(), out):  # 400 MB that nobody wants to keep
            path.unlink(missing_ok=True)


def test_the_cage_holds(cage: Cage) -> None:
    """What the test above would say of a merge that holds its models."""
    ended = cage.run([sys.executable, "-c", f"bytearray(b'x') * {LITTLE}"])
    assert ended.status < 0
