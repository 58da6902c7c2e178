"""Reading a safetensors file: against the safetensors library, and against everything that can be wrong with one."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core.dtypes import BYTES, torch_dtype
from daremerge_core.errors import ModelFileError
from daremerge_core.stores import SafetensorsFile, SafetensorsWriter
from daremerge_core.stores.header import MAX_HEADER
from daremerge_core.values import Model, Span, TensorMeta


def same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


def every_dtype() -> dict[str, Tensor]:
    """Tensors of every dtype and of awkward shapes, with all bit patterns in them (bools excepted)."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, width in BYTES.items():
        for label, shape in {"matrix": (3, 5), "scalar": (), "empty": (0, 4), 'ünïcode/名前 "x"': (7,)}.items():
            numel = torch.Size(shape).numel()
            raw = torch.randint(0, 2 if name == "BOOL" else 256, (numel * width,), generator=generator)
            tensors[f"{name}.{label}"] = raw.to(torch.uint8).view(torch_dtype(name)).view(shape)
    return tensors


def container(header: Any, data: bytes = b"") -> bytes:
    """A file with this header (an object or raw bytes), however wrong."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(dtype: Any = "U8", shape: Any = (2,), offsets: Any = (0, 2), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


@pytest.fixture
def every_file(tmp_path: Path) -> Path:
    path = tmp_path / "every.safetensors"
    safetensors.torch.save_file(every_dtype(), path, {"format": "pt", "título": 'á\n"b"'})
    return path


class TestRoundTrip:
    def test_reads_what_the_library_writes(self, every_file: Path) -> None:
        with SafetensorsFile(every_file) as model:
            assert isinstance(model, Model)
            assert dict(model.metadata) == {"format": "pt", "título": 'á\n"b"'}
            expected = every_dtype()
            assert set(model.keys()) == set(expected)
            for key, tensor in expected.items():
                assert model.meta(key).shape == tuple(tensor.shape)
                assert same_bits(model.read(key), tensor), key

    def test_the_library_reads_what_we_write(self, tmp_path: Path) -> None:
        path = tmp_path / "ours.safetensors"
        expected = every_dtype()
        metas = [TensorMeta(key, key.split(".")[0], tuple(tensor.shape)) for key, tensor in expected.items()]
        with SafetensorsWriter(path, metas, {"format": "pt", "ö": "\u2028"}) as writer:
            for key, tensor in expected.items():
                writer.write(key, 0, tensor)
            assert writer.commit() == [path]
        with safetensors.safe_open(path, "pt") as opened:
            assert opened.metadata() == {"format": "pt", "ö": "\u2028"}
            for key, tensor in expected.items():
                assert same_bits(opened.get_tensor(key), tensor), key

    def test_keys_are_in_the_order_of_their_bytes(self, every_file: Path) -> None:
        with SafetensorsFile(every_file) as model:
            extents = [model.extent(key) for key in model.keys()]
            assert extents == sorted(extents, key=lambda extent: (extent.offset, extent.nbytes))
            raw = every_file.read_bytes()
            for key, extent in zip(model.keys(), extents, strict=True):
                assert extent.path == every_file
                data = raw[extent.offset : extent.offset + extent.nbytes]
                assert data == bytes(every_dtype()[key].contiguous().view(-1).view(torch.uint8).tolist())

    def test_a_header_in_another_order_than_the_data(self, tmp_path: Path) -> None:
        path = tmp_path / "order.safetensors"
        listed = {"a": entry(offsets=[2, 4]), "empty": entry(shape=[0], offsets=[2, 2]), "b": entry(offsets=[0, 2])}
        path.write_bytes(container(listed, b"\x01\x02\x03\x04"))
        with SafetensorsFile(path) as model:
            assert list(model.keys()) == ["b", "empty", "a"]
            assert model.read("a").tolist() == [3, 4]
            assert model.read("b").tolist() == [1, 2]

    def test_metadata_and_no_tensors(self, tmp_path: Path) -> None:
        path = tmp_path / "none.safetensors"
        path.write_bytes(container({"__metadata__": {"a": "b"}}))
        with SafetensorsFile(path) as model:
            assert list(model.keys()) == []
            assert model.metadata == {"a": "b"}


class TestSpans:
    @given(st.data())
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    def test_a_span_is_a_slice(self, every_file: Path, data: st.DataObject) -> None:
        expected = every_dtype()
        with SafetensorsFile(every_file) as model:
            key = data.draw(st.sampled_from(sorted(expected)))
            numel = expected[key].numel()
            start = data.draw(st.integers(0, numel))
            stop = data.draw(st.integers(start, numel))
            assert same_bits(model.read(key, Span(start, stop)), expected[key].contiguous().view(-1)[start:stop])

    @pytest.mark.parametrize("span", [Span(-1, 2), Span(2, 1), Span(0, 16), Span(16, 16)])
    def test_outside_is_refused(self, every_file: Path, span: Span) -> None:
        with SafetensorsFile(every_file) as model, pytest.raises(IndexError, match=r"F16\.matrix"):
            model.read("F16.matrix", span)

    def test_unknown_key(self, every_file: Path) -> None:
        with SafetensorsFile(every_file) as model:
            for verb in (model.read, model.meta, model.extent):
                with pytest.raises(KeyError):
                    verb("nothing")


class TestMemory:
    def test_no_copy_when_aligned(self, every_file: Path) -> None:
        with SafetensorsFile(every_file) as model:
            assert model.read("F32.matrix").data_ptr() == model.read("F32.matrix").data_ptr()

    def test_misaligned_data_is_copied(self, tmp_path: Path) -> None:
        """Files of before the header was padded: data may start anywhere."""
        path = tmp_path / "odd.safetensors"
        values = torch.arange(6, dtype=torch.float64)
        raw = json.dumps({"a": entry("F64", [2, 3], [0, 48])}).encode()
        raw += b" " * ((5 - len(raw)) % 8)  # now data starts at 5 mod 8
        path.write_bytes(container(raw, values.numpy().tobytes()))
        with SafetensorsFile(path) as model:
            assert model.extent("a").offset % 8 == 5
            assert torch.equal(model.read("a"), values.view(2, 3))
            assert model.read("a").data_ptr() % 8 == 0
            assert torch.equal(model.read("a", Span(1, 4)), values[1:4])

    def test_writing_into_a_tensor_leaves_the_file_alone(self, every_file: Path) -> None:
        before = every_file.read_bytes()
        with SafetensorsFile(every_file) as model:
            model.read("F32.matrix").fill_(7)
        gc.collect()
        assert every_file.read_bytes() == before

    def test_tensors_outlive_the_file(self, every_file: Path) -> None:
        model = SafetensorsFile(every_file)
        tensor = model.read("F32.matrix")
        model.close()
        model.close()
        with pytest.raises(ValueError, match="closed"):
            model.read("F32.matrix")
        del model
        gc.collect()
        assert same_bits(tensor, every_dtype()["F32.matrix"])

    def test_a_system_that_refuses_private_maps(self, every_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import mmap

        real = mmap.mmap

        def strict(fileno: int, length: int, **options: Any) -> mmap.mmap:
            if options.get("access") != mmap.ACCESS_READ:
                raise OSError(12, "Cannot allocate memory")
            return real(fileno, length, **options)

        monkeypatch.setattr(mmap, "mmap", strict)
        with SafetensorsFile(every_file) as model:
            for key, tensor in every_dtype().items():
                assert same_bits(model.read(key), tensor), key

    @pytest.mark.skipif(sys.platform != "linux", reason="sparse files and overcommit as Linux has them")
    def test_a_model_larger_than_memory_opens(self, tmp_path: Path) -> None:
        path = tmp_path / "huge.safetensors"
        nbytes = 1 << 42
        header = container({"a": entry("U8", [nbytes], [0, nbytes])})
        try:
            with path.open("wb") as file:
                file.write(header)
                file.truncate(len(header) + nbytes)
        except OSError:
            pytest.skip("this file system cannot hold a sparse file of 4 TiB")
        if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
            pytest.skip("this system commits memory strictly")
        with SafetensorsFile(path) as model:
            assert model.read("a", Span(nbytes - 3, nbytes)).tolist() == [0, 0, 0]
            assert model._zero_copy

    def test_many_threads(self, every_file: Path) -> None:
        expected = every_dtype()
        gate = threading.Barrier(4)

        def check(_: int) -> bool:
            gate.wait()
            return all(same_bits(model.read(key), tensor) for key, tensor in expected.items())

        with SafetensorsFile(every_file) as model, ThreadPoolExecutor(4) as pool:
            assert all(pool.map(check, range(4)))


TWO = b"xy"
HUGE = 2**62
MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "is empty"),
    "shorter than a length": (b"abc", "not a safetensors file"),
    "no header": (bytes(8), "not JSON"),
    "header longer than the file": (container({"a": entry()}, TWO)[:40], r"truncated.*header alone takes"),
    "header over the limit": ((MAX_HEADER + 1).to_bytes(8, "little") + b"{}", "promises a header of 100,000,001 bytes"),
    "absurd length": (b"\xff" * 8 + b"{}", "promises a header"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "web page": (b"<!DOCTYPE html><html><head><title>Sign in</title>", "web page"),
    "zip": (b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00archive/data.pkl", "zip archive"),
    "pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "pickle"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(40), "GGUF"),
    "recipe": (b'{"models": {"a": "b"}, "steps": {}}', "JSON text"),
    "not JSON": (container(b"{nonsense}"), "not valid JSON"),
    "not JSON, cut": (container(b'{"a": '), "not valid JSON"),
    "not UTF-8": (container(b'{"\xff": 1}'), "not UTF-8"),
    "leading space": (container(b" {}"), "not a safetensors file"),
    "NaN": (container(b'{"a": NaN}'), "NaN"),
    "number of 5000 digits": (container(b'{"a": ' + b"9" * 5000 + b"}"), "header"),
    "deep nesting": (container(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "nested too deeply"),
    "duplicate tensor": (container(b'{"a": 1, "b": 2, "a": 3}'), "'a' appears twice"),
    "duplicate field": (container(b'{"t": {"dtype": "U8", "dtype": "I8"}}'), "'dtype' appears twice"),
    "half a surrogate pair": (container({"\ud800": entry()}, TWO), "Unicode"),
    "metadata null": (container({"__metadata__": None}), "__metadata__ must map names to text, not be null"),
    "metadata list": (container({"__metadata__": []}), "not be a list"),
    "metadata number": (container({"__metadata__": {"epoch": 3}}), "metadata 'epoch' must be text, not a number"),
    "metadata bool": (container({"__metadata__": {"on": True}}), "metadata 'on' must be text, not true or false"),
    "metadata surrogate": (container({"__metadata__": {"a": "\udfff"}}), "metadata 'a'"),
    "entry is text": (container({"t": "U8"}), "tensor 't'.*not text"),
    "entry without dtype": (container({"t": {"shape": [], "data_offsets": [0, 0]}}), "tensor 't': 'dtype' is missing"),
    "entry without shape": (container({"t": {"dtype": "U8", "data_offsets": [0, 0]}}), "'shape' is missing"),
    "entry without offsets": (container({"t": {"dtype": "U8", "shape": []}}), "'data_offsets' is missing"),
    "entry with more": (container({"t": entry(scale=2)}, TWO), "unknown field 'scale'"),
    "unknown dtype": (container({"t": entry("F4")}, TWO), "tensor 't': unknown dtype 'F4'"),
    "dtype in lower case": (container({"t": entry("u8")}, TWO), "unknown dtype 'u8'"),
    "dtype a number": (container({"t": entry(8)}, TWO), "unknown dtype 8"),
    "dtype nested": (container({"t": entry([[[[[[[[["F4"]]]]]]]]])}, TWO), "unknown dtype"),
    "shape text": (container({"t": entry(shape="2")}, TWO), "tensor 't': its shape"),
    "shape negative": (container({"t": entry(shape=[-1, -2])}, TWO), "its shape"),
    "shape bool": (container({"t": entry(shape=[True, 2])}, TWO), "its shape"),
    "shape float": (container({"t": entry(shape=[2.0])}, TWO), "its shape"),
    "shape null": (container({"t": entry(shape=None)}, TWO), "its shape"),
    "shape overflow": (container({"t": entry(shape=[HUGE, HUGE], offsets=[0, 0])}), "too large"),
    "shape overflow to 0": (container({"t": entry(shape=[HUGE, HUGE, 0], offsets=[0, 0])}), "too large"),
    "shape over 63 bits": (container({"t": entry(shape=[2**64], offsets=[0, 2**64])}), "its shape"),
    "shape of 65 dimensions": (container({"t": entry(shape=[1] * 65, offsets=[0, 1])}, b"x"), "65 dimensions"),
    "offsets null": (container({"t": entry(offsets=None)}, TWO), "tensor 't': data_offsets"),
    "offsets of one": (container({"t": entry(offsets=[0])}, TWO), "data_offsets"),
    "offsets of three": (container({"t": entry(offsets=[0, 1, 2])}, TWO), "data_offsets"),
    "offsets bool": (container({"t": entry(shape=[1], offsets=[False, True])}, b"x"), "data_offsets"),
    "offsets float": (container({"t": entry(offsets=[0.0, 2.0])}, TWO), "data_offsets"),
    "offsets negative": (container({"t": entry(offsets=[-2, 0])}, TWO), "data_offsets"),
    "offsets reversed": (container({"t": entry(offsets=[2, 0])}, TWO), "end before they begin"),
    "offsets too narrow": (container({"t": entry("F32")}, TWO), "takes 8 bytes, but data_offsets give 2"),
    "offsets too wide": (container({"t": entry(shape=[])}, TWO), "takes 1 bytes, but data_offsets give 2"),
    "overlap": (container({"a": entry(), "b": entry(offsets=[1, 3])}, b"xyz"), "tensor 'b' overlaps tensor 'a'"),
    "same place": (container({"a": entry(), "b": entry()}, TWO), "tensor 'b' overlaps tensor 'a'"),
    "hole": (container({"a": entry(), "b": entry(offsets=[3, 5])}, b"xyzab"), "'b' leaves a hole after tensor 'a'"),
    "hole first": (container({"a": entry(offsets=[1, 3])}, b"xyz"), "hole after the header"),
    "empty tensor inside another": (
        container({"a": entry(), "b": entry(shape=[0], offsets=[1, 1])}, TWO),
        "'b' overlaps tensor 'a'",
    ),
    "truncated": (container({"a": entry()}, b"x"), r"file is truncated: header promises 70 bytes, file has 69\."),
    "no data at all": (container({"a": entry()}), "file is truncated"),
    "trailing bytes": (container({"a": entry()}, b"xyz"), "1 bytes follow the last tensor"),
    "trailing bytes, no tensors": (container({}, b"x"), "1 bytes follow"),
}


class TestMalformed:
    @pytest.mark.parametrize("name", MALFORMED)
    def test_is_refused_by_name(self, name: str, tmp_path: Path) -> None:
        content, message = MALFORMED[name]
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=message) as caught:
            SafetensorsFile(path)
        assert str(path) in caught.value.message
        assert len(str(caught.value)) < 1000

    def test_the_hint_says_what_to_do(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(MALFORMED["truncated"][0])
        with pytest.raises(ModelFileError) as caught:
            SafetensorsFile(path)
        assert caught.value.hint is not None
        assert "download it again" in caught.value.hint

    def test_missing(self, tmp_path: Path) -> None:
        (tmp_path / "realistic.safetensors").touch()
        with pytest.raises(ModelFileError, match=r"realistc\.safetensors: no such file") as caught:
            SafetensorsFile(tmp_path / "realistc.safetensors")
        assert "realistic.safetensors" in (caught.value.hint or "")
        with pytest.raises(ModelFileError, match="no such file"):
            SafetensorsFile(tmp_path / "nowhere" / "a.safetensors")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match="this is a folder"):
            SafetensorsFile(tmp_path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
    def test_pipe_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.safetensors")
        with pytest.raises(ModelFileError, match="named pipe"):
            SafetensorsFile(tmp_path / "pipe.safetensors")

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices")
    def test_device(self) -> None:
        with pytest.raises(ModelFileError, match="device"):
            SafetensorsFile("/dev/zero")

    @pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
    def test_impossible_name(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match="cannot be opened"):
            SafetensorsFile(f"{tmp_path}/{name}")

    def test_links(self, every_file: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(every_file)
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        with SafetensorsFile(tmp_path / "link") as model:
            assert len(model.keys()) == len(every_dtype())
        with pytest.raises(ModelFileError, match="cannot be opened"):
            SafetensorsFile(tmp_path / "loop")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["F16", "U8", HUGE]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


def valid() -> tuple[dict[str, Any], bytes]:
    table = {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", [2, 2], [0, 16]),
        "b": entry("F16", [3], [16, 22]),
        "c": entry("U8", [], [22, 23]),
        "d": entry("F16", [0, 2], [22, 22]),
    }
    return table, bytes(range(23))


def opens_or_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        model = SafetensorsFile(path)
    except ModelFileError as error:
        assert str(path) in error.message  # noqa: PT017
        return
    with model:
        assert sum(model.extent(key).nbytes for key in model.keys()) <= len(content)
        for key in model.keys():
            assert tuple(model.read(key).shape) == model.meta(key).shape
            assert model.read(key, model.meta(key).whole).numel() == model.meta(key).numel


fuzzed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)


class TestFuzz:
    @given(st.data())
    @fuzzed
    def test_any_value_anywhere_in_the_header(self, tmp_path: Path, data: st.DataObject) -> None:
        table, tensors = valid()
        places: list[tuple[Any, Any]] = []

        def walk(node: Any) -> None:
            for index in node if isinstance(node, dict) else range(len(node)):
                places.append((node, index))
                if isinstance(node[index], (dict, list)):
                    walk(node[index])

        table = json.loads(json.dumps(table))
        walk(table)
        node, index = data.draw(st.sampled_from(places))
        node[index] = data.draw(JSON)
        opens_or_is_refused(tmp_path / "fuzz.safetensors", container(table, tensors))

    @given(st.data())
    @fuzzed
    def test_any_byte(self, tmp_path: Path, data: st.DataObject) -> None:
        content = bytearray(container(*valid()))
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        opens_or_is_refused(tmp_path / "fuzz.safetensors", bytes(content))

    @given(st.integers(0, 400), st.binary(max_size=30))
    @fuzzed
    def test_any_length(self, tmp_path: Path, keep: int, tail: bytes) -> None:
        opens_or_is_refused(tmp_path / "fuzz.safetensors", container(*valid())[:keep] + tail)


def test_importing_the_stores_imports_no_torch() -> None:
    modules = "sizes stores stores.gradient_file stores.identity stores.mask_file stores.torch_pickle stores.writer"
    code = "import sys\n" + "".join(f"import daremerge_core.{name}\n" for name in modules.split())
    code += "assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
