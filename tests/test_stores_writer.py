"""Writing: the same bytes however it is done, all of a file or none of it, and nothing destroyed."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core.dtypes import dtype_name
from daremerge_core.errors import DaremergeError, OutputError
from daremerge_core.stores import (
    SafetensorsFile,
    SafetensorsWriter,
    ShardedFolder,
    ShardedWriter,
    Sink,
    content_identity,
    sha256_file,
    write_model,
)
from daremerge_core.stores import atomic as atomic_module
from daremerge_core.stores import sharded_writer as sharded_writer_module
from daremerge_core.stores.sharded_writer import plan_shards
from daremerge_core.values import TensorMeta

METADATA = {"title": "x", "format": "pt"}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b.half": torch.randn(50, 7, generator=generator).half(),
        "a.float": torch.randn(33, generator=generator),
        "byte": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.empty(0, 4),
    }


def metas(of: dict[str, Tensor]) -> list[TensorMeta]:
    return [TensorMeta(key, dtype_name(tensor.dtype), tuple(tensor.shape)) for key, tensor in of.items()]


def fill(sink: Sink, of: dict[str, Tensor] | None = None) -> None:
    for key, tensor in (of or tensors()).items():
        sink.write(key, 0, tensor)


Make = Callable[..., Sink]


def make_file(path: Path, metadata: dict[str, str] | None = None, **options: Any) -> SafetensorsWriter:
    return SafetensorsWriter(path / "out.safetensors", metas(tensors()), metadata or METADATA, **options)


def make_folder(path: Path, metadata: dict[str, str] | None = None, **options: Any) -> ShardedWriter:
    return ShardedWriter(path / "out", metas(tensors()), metadata or METADATA, shard_size=500, **options)


@pytest.fixture(params=[make_file, make_folder], ids=["file", "folder"])
def make(request: pytest.FixtureRequest) -> Make:
    chosen: Make = request.param
    return chosen


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    """However a test ends, the writer has closed its temporary file (where the system can tell)."""
    yield
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            assert "daremerge-partial" not in os.readlink(link)


def everything(path: Path) -> dict[str, bytes]:
    """Every file below ``path`` and what it holds."""
    return {str(one.relative_to(path)): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


class TestBytes:
    def test_the_layout(self, tmp_path: Path) -> None:
        """Golden: wide dtypes first, then by name; metadata sorted; data from a multiple of 8."""
        two = {"z": torch.tensor([1, 2], dtype=torch.uint8), "ä": torch.tensor([1.0]), "b": torch.tensor([2.0]).half()}
        with SafetensorsWriter(tmp_path / "a.safetensors", metas(two), {"k": "v", "format": "pt"}) as writer:
            fill(writer, two)
            writer.commit()
        raw = (tmp_path / "a.safetensors").read_bytes()
        header = (
            '{"__metadata__":{"format":"pt","k":"v"},"ä":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            '"b":{"dtype":"F16","shape":[1],"data_offsets":[4,6]},"z":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}}'
        ).encode()
        padded = header + b" " * (-len(header) % 8)
        assert raw == len(padded).to_bytes(8, "little") + padded + bytes([0, 0, 128, 63, 0, 64, 1, 2])

    def test_as_the_library_writes_it(self, tmp_path: Path) -> None:
        """With one dtype and one entry of metadata there is no freedom left: byte for byte the library's file."""
        one = {f"block.{number}.weight": torch.full((number, 3), number).half() for number in range(12)}
        safetensors.torch.save_file(one, tmp_path / "theirs.safetensors", {"format": "pt"})
        with SafetensorsWriter(tmp_path / "ours.safetensors", metas(one), {"format": "pt"}) as writer:
            fill(writer, one)
            writer.commit()
        assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()

    @given(st.data())
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
    def test_any_order_any_threads(self, tmp_path: Path, make: Make, data: st.DataObject) -> None:
        with make(tmp_path, overwrite=True) as sink:
            fill(sink)
            sink.commit()
        expected = everything(tmp_path)
        step = data.draw(st.integers(1, 60))
        pieces = [
            (key, start, tensor.reshape(-1)[start : start + step])
            for key, tensor in tensors().items()
            for start in range(0, tensor.numel(), step)
        ]
        random.Random(data.draw(st.integers())).shuffle(pieces)
        with make(tmp_path, overwrite=True) as sink, ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda piece: sink.write(*piece), pieces))
            sink.commit()
        assert everything(tmp_path) == expected

    def test_the_order_of_tensors_does_not_matter_in_one_file(self, tmp_path: Path) -> None:
        for name, order in (("a", tensors()), ("b", dict(reversed(tensors().items())))):
            with SafetensorsWriter(tmp_path / name, metas(order), METADATA) as writer:
                fill(writer)
                writer.commit()
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_without_positioned_writes(self, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on Windows."""
        with make(tmp_path) as sink:
            fill(sink)
            sink.commit()
        expected = everything(tmp_path)
        monkeypatch.delattr(os, "pwrite", raising=False)
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        with make(tmp_path, overwrite=True) as sink, ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda item: sink.write(item[0], 0, item[1]), tensors().items()))
            sink.commit()
        assert everything(tmp_path) == expected

    def test_a_system_that_writes_little_by_little(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:7], offset))
        with make_file(tmp_path) as sink:
            fill(sink)
            sink.commit()
        assert torch.equal(SafetensorsFile(tmp_path / "out.safetensors").read("b.half"), tensors()["b.half"])

    def test_metadata_of_the_same_length_at_last(self, tmp_path: Path, make: Make) -> None:
        with make(tmp_path, {"format": "pt", "hash": "0" * 8}) as sink:
            sink.describe({"format": "pt", "hash": "deadbeef"}, sha256=True)
            fill(sink)
            sink.commit()
            digests = dict(sink.digests)
        assert digests == {path: sha256_file(path) for path in tmp_path.rglob("*.safetensors")}
        late = everything(tmp_path)
        with make(tmp_path, {"format": "pt", "hash": "deadbeef"}, overwrite=True) as sink:
            fill(sink)
            sink.commit()
        assert everything(tmp_path) == late

    def test_metadata_of_another_length(self, tmp_path: Path, make: Make) -> None:
        with make(tmp_path) as sink, pytest.raises(RuntimeError, match="header"):
            sink.describe({**METADATA, "more": "x" * 100})
        assert everything(tmp_path) == {}

    def test_no_tensors(self, tmp_path: Path) -> None:
        with SafetensorsWriter(tmp_path / "a.safetensors", [], {}) as writer:
            writer.commit()
        assert (tmp_path / "a.safetensors").read_bytes() == b"\x08" + bytes(7) + b"{}      "
        assert safetensors.torch.load_file(tmp_path / "a.safetensors") == {}


class TestContract:
    """Mistakes of a caller, which must not become a damaged file."""

    def test_is_a_sink(self, tmp_path: Path, make: Make) -> None:
        with make(tmp_path) as sink:
            assert isinstance(sink, Sink)

    @pytest.mark.parametrize(
        ("key", "start", "tensor", "error"),
        [
            ("nothing", 0, torch.ones(1), KeyError),
            ("a.float", 0, torch.ones(33).half(), TypeError),
            ("byte", 0, torch.ones(5, dtype=torch.int8), TypeError),
            ("a.float", 0, torch.ones(33, device="meta"), TypeError),
            ("b.half", 0, torch.ones(7, 50).half().t(), TypeError),
            ("a.float", -1, torch.ones(2), IndexError),
            ("a.float", 32, torch.ones(2), IndexError),
            ("empty", 0, torch.ones(1), IndexError),
        ],
    )
    def test_what_was_not_announced(
        self, tmp_path: Path, make: Make, key: str, start: int, tensor: Tensor, error: type[Exception]
    ) -> None:
        with make(tmp_path) as sink, pytest.raises(error):
            sink.write(key, start, tensor)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda sink: None, "'a.float' was not written as planned: 33 elements not"),
            (lambda sink: sink.write("a.float", 1, torch.ones(32)), "1 elements not"),
            (lambda sink: [sink.write("a.float", 0, torch.ones(33)) for _ in range(2)], "33 elements twice"),
        ],
    )
    def test_every_element_once(self, tmp_path: Path, make: Make, change: Callable[[Sink], Any], message: str) -> None:
        others = {key: tensor for key, tensor in tensors().items() if key != "a.float"}
        with make(tmp_path) as sink:
            fill(sink, others)
            change(sink)
            with pytest.raises(RuntimeError, match=re.escape(message)):
                sink.commit()
        assert everything(tmp_path) == {}

    def test_only_once(self, tmp_path: Path, make: Make) -> None:
        with make(tmp_path) as sink:
            fill(sink)
            paths = sink.commit()
            before = everything(tmp_path)
            with pytest.raises(RuntimeError, match="closed"):
                sink.commit()
            with pytest.raises(RuntimeError, match="closed"):
                fill(sink)
            sink.abort()
        assert everything(tmp_path) == before
        assert {str(path.relative_to(tmp_path)) for path in paths} == set(before)

    @pytest.mark.parametrize("names", [["a", "a"], ["__metadata__"], ["\ud800"]])
    def test_names(self, tmp_path: Path, names: list[str]) -> None:
        with pytest.raises(ValueError):
            SafetensorsWriter(tmp_path / "a.safetensors", [TensorMeta(name, "U8", ()) for name in names])
        assert everything(tmp_path) == {}


class TestAtomic:
    def test_nothing_is_there_before_the_commit(self, tmp_path: Path, make: Make) -> None:
        with make(tmp_path) as sink:
            fill(sink)
            (partial,) = tmp_path.iterdir()
            assert re.fullmatch(rf"\.out\.{os.getpid()}-[0-9a-f]{{8}}\.daremerge-partial", partial.name)
            sink.commit()
            assert [one.name for one in tmp_path.iterdir()] in (["out"], ["out.safetensors"])

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_an_exception_leaves_nothing(self, tmp_path: Path, make: Make, error: type[BaseException]) -> None:
        def fails() -> None:
            with make(tmp_path) as sink:
                fill(sink)
                raise error

        with pytest.raises(error):
            fails()
        assert list(tmp_path.iterdir()) == []

    def test_leaving_without_a_commit_leaves_nothing(self, tmp_path: Path, make: Make) -> None:
        with make(tmp_path) as sink:
            fill(sink)
        assert list(tmp_path.iterdir()) == []

    def test_abort_waits_for_writes_under_way(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file number closed too early might be another file's by the time the write comes."""
        real = os.pwrite
        started, resume = threading.Event(), threading.Event()
        written: list[int] = []

        def slow(fd: int, data: Any, offset: int) -> int:
            started.set()
            resume.wait(10)
            written.append(real(fd, data, offset))
            return written[-1]

        monkeypatch.setattr(os, "pwrite", slow)
        sink = make_file(tmp_path)
        with ThreadPoolExecutor(2) as pool:
            writing = pool.submit(sink.write, "byte", 0, tensors()["byte"])
            assert started.wait(10)
            aborting = pool.submit(sink.abort)
            time.sleep(0.05)
            assert not aborting.done()
            resume.set()
            writing.result(10)
            aborting.result(10)
        assert written == [5]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("call", ["fsync", "replace", "rename"])
    def test_a_failing_system_call(
        self, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        monkeypatch.setattr(sharded_writer_module, "exchange", lambda one, other: False)
        with make(tmp_path) as sink:
            fill(sink)
            sink.commit()
        before = everything(tmp_path)
        fail_at = {"rename": 2}.get(call, 1)  # of a folder, the second rename is the one that puts the new in place
        real, calls = getattr(os, call), iter(range(1, 100))

        def failing(*args: Any) -> Any:
            if next(calls) == fail_at:
                raise OSError(errno.EIO, "Input/output error")
            return real(*args)

        with make(tmp_path, overwrite=True) as sink:
            fill(sink)
            with monkeypatch.context() as patched:
                patched.setattr(os, call, failing)
                if call == "rename" and make is make_file:
                    sink.commit()  # does not use it
                else:
                    with pytest.raises(OutputError, match="Input/output error"):
                        sink.commit()
        assert everything(tmp_path) == before

    @pytest.mark.skipif(os.name != "posix", reason="locks and signals as POSIX has them")
    def test_a_killed_process_leaves_the_old_file_and_its_litter_is_swept(self, tmp_path: Path, make: Make) -> None:
        code = (
            "import sys, signal, os; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path\n"
            "from daremerge_core.stores import SafetensorsWriter, ShardedWriter\n"
            "from daremerge_core.values import TensorMeta\n"
            "metas = [TensorMeta('a', 'U8', (5,))]\n"
            "if sys.argv[3] == 'make_file': sink = SafetensorsWriter(sys.argv[2] + '/out.safetensors', metas)\n"
            "else: sink = ShardedWriter(sys.argv[2] + '/out', metas, shard_size=9)\n"
            "print('ready', flush=True); signal.pause()\n"
        )
        root = str(Path(atomic_module.__file__).parents[2])
        arguments = [sys.executable, "-c", code, root, str(tmp_path), make.__name__]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            (partial,) = tmp_path.iterdir()
            long_ago = time.time() - 3600
            os.utime(partial, (long_ago, long_ago))
            make(tmp_path).abort()
            assert partial.exists(), "a living process's partial file was removed"
            os.utime(partial, (long_ago, long_ago))
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert list(tmp_path.iterdir()) == [partial]
        other = tmp_path / ".other.1-00000000.daremerge-partial"
        other.write_text("another target's")
        os.utime(other, (long_ago, long_ago))
        with make(tmp_path) as sink:
            assert not partial.exists()
            assert other.exists()
            fill(sink)
            sink.commit()

    def test_an_exchange_that_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with make_folder(tmp_path) as sink:
            fill(sink)
            sink.commit()
        before = everything(tmp_path)

        def failing(one: Path, other: Path) -> bool:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(sharded_writer_module, "exchange", failing)
        with make_folder(tmp_path, overwrite=True) as sink:
            fill(sink)
            with pytest.raises(OutputError, match="Input/output error"):
                sink.commit()
        assert everything(tmp_path) == before

    def test_a_young_partial_file_is_not_swept(self, tmp_path: Path) -> None:
        young = tmp_path / ".out.1-00000000.daremerge-partial"
        young.touch()
        make_file(tmp_path).abort()
        assert young.exists()

    def test_a_long_name(self, tmp_path: Path) -> None:
        name = "é" * 120 + ".safetensors"  # 252 bytes
        with SafetensorsWriter(tmp_path / name, metas(tensors())) as writer:
            fill(writer)
            assert writer.commit() == [tmp_path / name]


class TestTargets:
    def test_a_missing_folder(self, tmp_path: Path, make: Make) -> None:
        with pytest.raises(OutputError, match="does not exist"):
            make(tmp_path / "missing")

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "out.safetensors").write_text("precious")
        with pytest.raises(OutputError, match="already exists") as caught:
            make_file(tmp_path)
        assert "--overwrite" in (caught.value.hint or "")
        with make_file(tmp_path, overwrite=True) as sink:
            fill(sink)
            assert (tmp_path / "out.safetensors").read_text() == "precious"
            sink.commit()
        assert set(SafetensorsFile(tmp_path / "out.safetensors").keys()) == set(tensors())

    def test_a_file_that_appears_meanwhile(self, tmp_path: Path) -> None:
        with make_file(tmp_path) as sink:
            fill(sink)
            (tmp_path / "out.safetensors").write_text("precious")
            with pytest.raises(OutputError, match="already exists"):
                sink.commit()
        assert everything(tmp_path) == {"out.safetensors": b"precious"}

    def test_a_folder_in_the_way_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "out.safetensors").mkdir()
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="this is a folder"):
                make_file(tmp_path, overwrite=overwrite)

    def test_a_file_in_the_way_of_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("precious")
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="something else stands there"):
                make_folder(tmp_path, overwrite=overwrite)

    def test_a_link_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "out.safetensors").symlink_to(tmp_path / "disk" / "real.safetensors")
        with make_file(tmp_path) as sink:
            fill(sink)
            assert sink.commit() == [tmp_path / "disk" / "real.safetensors"]
        assert (tmp_path / "out.safetensors").is_symlink()

    @pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
    def test_permission_is_explained(
        self, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        def refuse(*args: Any, **options: Any) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "mkdir", refuse)
        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(OutputError, match="cannot be written") as caught:
            make(tmp_path)
        assert "permissions" in (caught.value.hint or "")

    @pytest.mark.parametrize("name", ["a\0b", "x" * 300, ""])
    def test_impossible_names(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(OutputError):
            SafetensorsWriter(f"{tmp_path}/{name}", [])
        assert list(tmp_path.iterdir()) == []


class TestSpace:
    def test_too_little_is_seen_before_any_work(
        self, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = type(shutil.disk_usage(tmp_path))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 300, 300))
        with pytest.raises(OutputError, match=r"not enough space: .* needed, 300 B free"):
            make(tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (errno.ENOSPC, "not enough space"),
            (errno.EDQUOT, "your quota on this disk is used up"),
            (errno.EFBIG, "too large for this file system"),
            (errno.EIO, "cannot be written"),
        ],
    )
    @pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
    def test_a_disk_that_fills(
        self, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, call: str, code: int, message: str
    ) -> None:
        def full(*args: Any) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, call, full, raising=False)

        def run() -> None:
            with make(tmp_path) as sink:
                fill(sink)
                sink.commit()

        with pytest.raises(OutputError, match=message):
            run()
        assert list(tmp_path.iterdir()) == []

    def test_a_file_system_that_cannot_allocate(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unsupported(*args: Any) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
        with make_file(tmp_path) as sink:
            fill(sink)
            sink.commit()
        assert set(SafetensorsFile(tmp_path / "out.safetensors").keys()) == set(tensors())


class TestShards:
    def test_the_layout(self, tmp_path: Path) -> None:
        """Golden: filled in the order given; what is larger than a shard has one to itself."""
        of = {
            name: torch.zeros(size, dtype=torch.uint8) for name, size in zip("abcdef", (3, 3, 9, 1, 5, 2), strict=True)
        }
        with ShardedWriter(tmp_path / "out", metas(of), METADATA, shard_size=6) as writer:
            fill(writer, of)
            paths = writer.commit()
        names = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
        assert [path.name for path in paths] == [*names, "model.safetensors.index.json"]
        assert (tmp_path / "out" / "model.safetensors.index.json").read_text() == (
            "{\n"
            '  "metadata": {\n'
            '    "total_size": 23\n'
            "  },\n"
            '  "weight_map": {\n'
            '    "a": "model-00001-of-00004.safetensors",\n'
            '    "b": "model-00001-of-00004.safetensors",\n'
            '    "c": "model-00002-of-00004.safetensors",\n'
            '    "d": "model-00003-of-00004.safetensors",\n'
            '    "e": "model-00003-of-00004.safetensors",\n'
            '    "f": "model-00004-of-00004.safetensors"\n'
            "  }\n"
            "}\n"
        )
        shards = [SafetensorsFile(path) for path in paths[:-1]]
        assert [dict(shard.metadata) for shard in shards] == [METADATA, *[{"format": "pt"}] * 3]
        assert [list(shard.keys()) for shard in shards] == [["a", "b"], ["c"], ["d", "e"], ["f"]]

    @given(st.lists(st.integers(0, 20), min_size=1), st.integers(1, 30))
    def test_planning(self, sizes: list[int], shard_size: int) -> None:
        given_metas = [TensorMeta(str(number), "U8", (size,)) for number, size in enumerate(sizes)]
        shards = plan_shards(given_metas, shard_size)
        assert [meta for shard in shards for meta in shard] == given_metas
        for shard, following in zip(shards, [*shards[1:], [TensorMeta("", "U8", (shard_size + 1,))]], strict=True):
            total = sum(meta.numel for meta in shard)
            assert total <= shard_size or len([meta for meta in shard if meta.numel]) == 1
            assert total + following[0].numel > shard_size

    def test_round_trip(self, tmp_path: Path) -> None:
        with make_folder(tmp_path) as sink:
            fill(sink)
            sink.commit()
        with make_file(tmp_path) as sink:
            fill(sink)
            sink.commit()
        with ShardedFolder(tmp_path / "out") as folder, SafetensorsFile(tmp_path / "out.safetensors") as single:
            for key, tensor in tensors().items():
                assert torch.equal(folder.read(key), tensor)
            assert folder.metadata == METADATA
            assert content_identity(folder, threads=2) == content_identity(single, threads=1)

    def test_an_empty_folder_may_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with make_folder(tmp_path) as sink:
            fill(sink)
            sink.commit()
        assert set(ShardedFolder(tmp_path / "out").keys()) == set(tensors())
        assert [one.name for one in tmp_path.iterdir()] == ["out"]

    def test_a_model_is_replaced_when_told(self, tmp_path: Path) -> None:
        with make_folder(tmp_path) as sink:
            fill(sink)
            sink.commit()
        with pytest.raises(OutputError, match="already exists") as caught:
            make_folder(tmp_path)
        assert "--overwrite" in (caught.value.hint or "")
        fewer = {"byte": tensors()["byte"]}
        with ShardedWriter(tmp_path / "out", metas(fewer), shard_size=9, overwrite=True) as writer:
            fill(writer, fewer)
            assert set(ShardedFolder(tmp_path / "out").keys()) == set(tensors())
            writer.commit()
        assert set(everything(tmp_path)) == {"out/model-00001-of-00001.safetensors", "out/model.safetensors.index.json"}

    @pytest.mark.parametrize("stranger", ["config.json", "notes/todo.txt", "model-00009-of-00009.safetensors"])
    def test_a_folder_with_anything_else_is_never_replaced(self, tmp_path: Path, stranger: str) -> None:
        with make_folder(tmp_path) as sink:
            fill(sink)
            sink.commit()
        (tmp_path / "out" / stranger).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / stranger).write_text("precious")
        before = everything(tmp_path)
        with pytest.raises(OutputError, match=f"it also holds {stranger.split('/')[0]}"):
            make_folder(tmp_path, overwrite=True)
        assert everything(tmp_path) == before

    def test_a_folder_that_is_no_model_is_never_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "photo.jpg").write_text("precious")
        with pytest.raises(OutputError, match="not a sharded model"):
            make_folder(tmp_path, overwrite=True)

    def test_a_folder_that_fills_meanwhile(self, tmp_path: Path) -> None:
        with make_folder(tmp_path) as sink:
            fill(sink)
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "photo.jpg").write_text("precious")
            with pytest.raises(OutputError):
                sink.commit()
        assert everything(tmp_path) == {"out/photo.jpg": b"precious"}

    def test_nothing_to_write(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="at least one tensor"):
            ShardedWriter(tmp_path / "out", [], shard_size=1)
        with pytest.raises(ValueError, match="at least one byte"):
            ShardedWriter(tmp_path / "out", metas(tensors()), shard_size=0)
        with pytest.raises(ValueError, match="one name"):
            ShardedWriter(tmp_path / "out", [*metas(tensors())] * 2, shard_size=10)
        assert list(tmp_path.iterdir()) == []


class TestSha256:
    def test_known_answer(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"abc")
        assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    def test_progress(self, tmp_path: Path) -> None:
        content = bytes(range(256)) * 20_000
        (tmp_path / "a").write_bytes(content)
        seen: list[int] = []
        assert sha256_file(tmp_path / "a", seen.append) == sha256(content).hexdigest()
        assert sum(seen) == len(content)
        assert len(seen) > 1

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DaremergeError, match="no such file"):
            sha256_file(tmp_path / "a")


def test_the_index_is_json_as_transformers_reads_it(tmp_path: Path) -> None:
    with make_folder(tmp_path) as sink:
        fill(sink)
        sink.commit()
    table = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    merged: dict[str, Tensor] = {}
    for name in set(table["weight_map"].values()):
        with safetensors.safe_open(tmp_path / "out" / name, "pt") as opened:
            assert opened.metadata()["format"] == "pt"
            for key in opened.keys():
                assert table["weight_map"][key] == name
                merged[key] = opened.get_tensor(key)
    assert table["metadata"]["total_size"] == sum(one.numel() * one.element_size() for one in merged.values())
    assert merged.keys() == tensors().keys()


def test_a_state_dict_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    strided = torch.arange(6.0).reshape(2, 3).T
    write_model(path, tensors() | {"strided": strided}, {"format": "pt"})
    found = safetensors.torch.load_file(path)
    assert torch.equal(found.pop("strided"), strided)
    assert {key: (value.dtype, value.tolist()) for key, value in found.items()} == {
        key: (value.dtype, value.tolist()) for key, value in tensors().items()
    }
    with pytest.raises(OutputError, match="exists"):
        write_model(path, {"other": strided})
    write_model(path, {"other": strided}, overwrite=True)
    assert list(safetensors.torch.load_file(path)) == ["other"]
