"""Folders of shards, torch pickles, models in memory, and telling them apart."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core.errors import ModelFileError
from daremerge_core.stores import (
    MemoryModel,
    SafetensorsFile,
    ShardedFolder,
    TorchPickle,
    open_model,
    replaced_by,
    same_file,
)
from daremerge_core.stores.pickle_scan import PickleProblem, scan
from daremerge_core.values import Model, Span

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def tensors() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7, dtype=torch.int64), "c": torch.ones(3).half()}


def write_index(folder: Path, weight_map: Any, name: str = INDEX) -> Path:
    path = folder / name
    path.write_text(json.dumps({"metadata": {"total_size": 38}, "weight_map": weight_map}))
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    every = tensors()
    safetensors.torch.save_file({"a": every["a"]}, folder / ONE, {"format": "pt", "title": "first", "only": "1"})
    safetensors.torch.save_file({"b": every["b"], "c": every["c"]}, folder / TWO, {"format": "pt", "title": "second"})
    write_index(folder, {"a": ONE, "b": TWO, "c": TWO})
    return folder


def old_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": tensors()}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


OLD_FILE = old_file()
"""Saved once: its length depends on where the tensors lie in memory."""


def holds_everything(model: Model) -> bool:
    return set(model.keys()) == set(tensors()) and all(
        torch.equal(model.read(key), tensor) and model.meta(key).shape == tuple(tensor.shape)
        for key, tensor in tensors().items()
    )


class TestShardedFolder:
    @pytest.mark.parametrize("name", ["", INDEX])
    def test_by_folder_or_index(self, sharded: Path, name: str) -> None:
        with ShardedFolder(sharded / name) as model:
            assert isinstance(model, Model)
            assert holds_everything(model)
            assert model.read("c", Span(1, 2)).tolist() == [1.0]
            assert model.extent("c").path == sharded / TWO
            assert model.metadata == {"format": "pt", "title": "first", "only": "1"}
            assert set(model.paths) == {sharded / ONE, sharded / TWO, sharded / INDEX}
        with pytest.raises(ValueError, match="closed"):
            model.read("a")

    def test_one_file_and_no_index(self, tmp_path: Path) -> None:
        safetensors.torch.save_file(tensors(), tmp_path / "any name.safetensors")
        with ShardedFolder(tmp_path) as model:
            assert holds_everything(model)
            assert model.paths == (tmp_path / "any name.safetensors",)

    def test_several_files_and_no_index(self, sharded: Path) -> None:
        (sharded / INDEX).unlink()
        with pytest.raises(ModelFileError, match=f"2 .safetensors files and no index: {ONE}, {TWO}"):
            ShardedFolder(sharded)

    def test_variants(self, sharded: Path) -> None:
        """The plain index is preferred; of several others, one must be named."""
        shutil.copy(sharded / INDEX, sharded / "diffusion_pytorch_model.fp16.safetensors.index.json")
        assert holds_everything(ShardedFolder(sharded))
        (sharded / INDEX).rename(sharded / "diffusion_pytorch_model.safetensors.index.json")
        with pytest.raises(ModelFileError, match=r"2 models: .*fp16.*, diffusion_pytorch_model\.safetensors"):
            ShardedFolder(sharded)
        assert holds_everything(ShardedFolder(sharded / "diffusion_pytorch_model.fp16.safetensors.index.json"))

    def test_pipeline(self, tmp_path: Path) -> None:
        (tmp_path / "model_index.json").write_text("{}")
        for name in ("scheduler", "unet", "vae"):
            (tmp_path / name).mkdir()
        safetensors.torch.save_file(tensors(), tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
        safetensors.torch.save_file(tensors(), tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
        with pytest.raises(ModelFileError, match="pipeline") as caught:
            open_model(tmp_path)
        assert str(tmp_path / "unet") in str(caught.value)
        assert str(tmp_path / "vae") in str(caught.value)
        assert "scheduler" not in str(caught.value)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match=r"no \.safetensors file"):
            ShardedFolder(tmp_path)
        (tmp_path / "pytorch_model.bin").touch()
        with pytest.raises(ModelFileError, match=r"pytorch_model\.bin"):
            ShardedFolder(tmp_path)

    def test_missing_shard(self, sharded: Path) -> None:
        (sharded / TWO).unlink()
        with pytest.raises(ModelFileError, match=f"{TWO}: no such file"):
            ShardedFolder(sharded)

    def test_key_in_no_shard(self, sharded: Path) -> None:
        write_index(sharded, {"a": ONE, "b": TWO, "c": TWO, "d": TWO})
        with pytest.raises(ModelFileError, match=f"tensor 'd' should be in {TWO}"):
            ShardedFolder(sharded)

    def test_key_in_another_shard(self, sharded: Path) -> None:
        write_index(sharded, {"a": ONE, "b": ONE, "c": TWO})
        with pytest.raises(ModelFileError, match=f"tensor 'b' should be in {ONE}"):
            ShardedFolder(sharded)

    def test_key_not_in_the_index(self, sharded: Path) -> None:
        write_index(sharded, {"a": ONE, "b": TWO})
        with pytest.raises(ModelFileError, match=f"tensor 'c' of {TWO} is not in the index"):
            ShardedFolder(sharded)

    def test_key_in_two_shards(self, sharded: Path) -> None:
        safetensors.torch.save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, sharded / ONE)
        with pytest.raises(ModelFileError, match=f"tensor 'b' is both in {ONE} and in {TWO}"):
            ShardedFolder(sharded)

    @pytest.mark.parametrize(
        "name",
        ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "C:x", "C:\\x", "..\\x", "\\\\host\\x", "."],
    )
    def test_a_shard_elsewhere_is_refused(self, sharded: Path, name: str) -> None:
        write_index(sharded, {"a": ONE, "b": name})
        with pytest.raises(ModelFileError, match="tensor 'b'"):
            ShardedFolder(sharded)

    def test_a_shard_may_be_a_link(self, sharded: Path, tmp_path: Path) -> None:
        """As in the cache of huggingface_hub."""
        (sharded / ONE).rename(tmp_path / "blob")
        (sharded / ONE).symlink_to(tmp_path / "blob")
        assert holds_everything(ShardedFolder(sharded))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[]", "no weight_map"),
            ("{}", "no weight_map"),
            ('{"weight_map": {}}', "no weight_map"),
            ('{"weight_map": {"a": 1}}', "'a' no file name"),
            ('{"weight_map": {"a": ""}}', "'a' no file name"),
            ('{"weight_map": {"a": "x", "a": "y"}}', "'a' appears twice"),
            ("{", "not valid JSON"),
            ("[" * 5000, "nested too deeply"),
        ],
    )
    def test_damaged_index(self, sharded: Path, text: str, message: str) -> None:
        (sharded / INDEX).write_text(text)
        with pytest.raises(ModelFileError, match=message) as caught:
            ShardedFolder(sharded)
        assert INDEX in caught.value.message

    def test_damaged_shard(self, sharded: Path) -> None:
        with (sharded / TWO).open("r+b") as file:
            file.truncate((sharded / TWO).stat().st_size - 1)
        with pytest.raises(ModelFileError, match=f"{TWO}: file is truncated"):
            ShardedFolder(sharded)


class RunsCode:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


class ModelCheckpoint:
    """Stands for a class of somebody's trainer."""


class TestTorchPickle:
    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    @pytest.mark.parametrize("level", [None, "state_dict", "model", "params_ema"])
    def test_levels(self, tmp_path: Path, legacy: bool, level: str | None) -> None:
        path = tmp_path / "model.ckpt"
        content = tensors() if level is None else {level: OrderedDict(tensors()), "epoch": 3, "lr": {"x": [0.1]}}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        with TorchPickle(path) as model:
            assert isinstance(model, Model)
            assert holds_everything(model)
            assert model.ignored == (() if level is None else ("epoch", "lr"))
            assert model.metadata == {}
            assert model.paths == (path,)
        with pytest.raises(ValueError, match="closed"):
            model.read("a")

    def test_entries_that_are_not_tensors(self, tmp_path: Path) -> None:
        content = {
            "state_dict": {**tensors(), "version": 2, "names": ["x"]},
            "optimizer": {"state": {0: torch.ones(1)}},
        }
        torch.save(content, tmp_path / "model.pt")
        model = TorchPickle(tmp_path / "model.pt")
        assert holds_everything(model)
        assert model.ignored == ("names", "optimizer", "version")

    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    def test_strided_shared_and_parameters(self, tmp_path: Path, legacy: bool) -> None:
        base = torch.arange(12.0).view(3, 4)
        content = {
            "whole": base,
            "transposed": base.t(),
            "column": base[:, 1],
            "wide": base[1].expand(2, 4),
            "parameter": torch.nn.Parameter(base),
            "empty": torch.empty(0, 3),
        }
        torch.save(content, tmp_path / "model.pth", _use_new_zipfile_serialization=not legacy)
        model = TorchPickle(tmp_path / "model.pth")
        for key, tensor in content.items():
            read = model.read(key)
            assert read.is_contiguous()
            assert not read.requires_grad
            assert torch.equal(read, tensor.detach())
        assert model.read("transposed", Span(2, 7)).tolist() == base.t().reshape(-1)[2:7].tolist()

    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    @pytest.mark.parametrize(
        ("intruder", "name"), [(RunsCode(), f"{os.name}.system"), (ModelCheckpoint(), f"{__name__}.ModelCheckpoint")]
    )
    def test_code_is_refused_by_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool, intruder: object, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        path = tmp_path / "model.ckpt"
        torch.save({"state_dict": tensors(), "callbacks": intruder}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ModelFileError, match="refused") as caught:
            open_model(path)
        assert name in caught.value.message
        assert str(path) in caught.value.message
        assert "sandbox" in (caught.value.hint or "")
        assert not (tmp_path / "pwned").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (torch.ones(2), "holds a Tensor"),
            ([torch.ones(2)], "holds a list"),
            ({}, "holds no tensors"),
            ({"epoch": 1}, "holds no tensors"),
            ({"params": tensors(), "params_ema": tensors()}, "several sets of tensors: params, params_ema"),
            ({1: torch.ones(2)}, "named 1"),
            ({"z": torch.ones(2, dtype=torch.complex64)}, "'z' is torch.complex64"),
            ({"z": torch.empty(2, device="meta")}, "'z' is torch.strided on meta"),
        ],
    )
    def test_not_a_state_dict(self, tmp_path: Path, content: Any, message: str) -> None:
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(ModelFileError, match=message):
            TorchPickle(tmp_path / "model.pt")

    def test_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        for legacy in (False, True):
            torch.save(tensors(), path, _use_new_zipfile_serialization=not legacy)
            content = path.read_bytes()
            for keep in (30, len(content) // 2, len(content) - 3):
                path.write_bytes(content[:keep])
                with pytest.raises(ModelFileError, match=r"model\.pt"):
                    TorchPickle(path)

    def test_an_escape_that_is_none(self) -> None:
        """Python has a warning of its own for it, which is no way to refuse a file."""
        with pytest.raises(PickleProblem):
            scan(io.BytesIO(b"i\\q\nx\n."))

    @given(st.data())
    def test_damaged_anywhere(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        """One byte changed in the object part: it opens or is refused."""
        content = bytearray(OLD_FILE)
        content[data.draw(st.integers(30, len(content) - 1))] = data.draw(st.integers(0, 255))
        path = tmp_path_factory.getbasetemp() / "fuzz.pt"
        path.write_bytes(content)
        try:
            TorchPickle(path).close()
        except ModelFileError as error:
            assert str(path) in error.message  # noqa: PT017

    def test_a_plain_pickle(self, tmp_path: Path) -> None:
        (tmp_path / "model.pt").write_bytes(pickle.dumps({"a": 1}))
        with pytest.raises(ModelFileError, match=r"model\.pt"):
            TorchPickle(tmp_path / "model.pt")


class TestMemoryModel:
    def test_a_state_dict(self) -> None:
        model = MemoryModel(tensors(), {"format": "pt"})
        assert isinstance(model, Model)
        assert holds_everything(model)
        assert model.metadata == {"format": "pt"}
        assert list(model.keys()) == ["a", "b", "c"]
        assert model.read("b", Span(0, 1)).tolist() == [7]
        with pytest.raises(IndexError):
            model.read("a", Span(3, 7))
        with pytest.raises(KeyError):
            model.read("x")

    def test_no_copy(self) -> None:
        tensor = torch.ones(4, 4)
        model = MemoryModel({"a": tensor})
        assert model.read("a").data_ptr() == tensor.data_ptr()
        assert model.read("a", Span(4, 8)).data_ptr() == tensor[1].data_ptr()

    @given(st.data())
    def test_spans_of_strided_tensors(self, data: st.DataObject) -> None:
        shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
        tensor = torch.arange(float(torch.Size(shape).numel())).view(shape)
        tensor = tensor.permute(data.draw(st.permutations(range(len(shape)))))
        tensor = tensor[data.draw(st.integers(0, tensor.shape[0] - 1)) :]
        start = data.draw(st.integers(0, tensor.numel()))
        stop = data.draw(st.integers(start, tensor.numel()))
        got = MemoryModel({"a": tensor}).read("a", Span(start, stop))
        assert got.is_contiguous()
        assert got.tolist() == tensor.flatten()[start:stop].tolist()

    def test_what_no_checkpoint_holds(self) -> None:
        with pytest.raises(TypeError, match=r"'z' is torch\.complex128"):
            MemoryModel({"z": torch.ones(2, dtype=torch.complex128)})


class TestOpenModel:
    def test_by_content(self, sharded: Path, tmp_path: Path) -> None:
        safetensors.torch.save_file(tensors(), tmp_path / "a.safetensors")
        torch.save(tensors(), tmp_path / "a.ckpt")
        # A blob of a download cache has no suffix; some safetensors files are named .ckpt.
        for alias in ("blob", "really.ckpt", "A.SAFETENSORS"):
            shutil.copy(tmp_path / "a.safetensors", tmp_path / alias)
        for name, kind in {
            "a.safetensors": SafetensorsFile,
            "blob": SafetensorsFile,
            "really.ckpt": SafetensorsFile,
            "A.SAFETENSORS": SafetensorsFile,
            "a.ckpt": TorchPickle,
            "sharded": ShardedFolder,
            f"sharded/{INDEX}": ShardedFolder,
        }.items():
            model = open_model(str(tmp_path / name))
            assert type(model) is kind
            assert holds_everything(model)
            model.close()

    def test_a_pickle_named_safetensors_is_not_unpickled(self, tmp_path: Path) -> None:
        torch.save(tensors(), tmp_path / "a.safetensors")
        with pytest.raises(ModelFileError, match="zip archive, as torch pickles are"):
            open_model(tmp_path / "a.safetensors")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("model.gguf", b"GGUF\x03\0\0\0", "GGUF"),
            ("model.onnx", b"\x08\x07\x12\x07pytorch", "no known format"),
            ("model", b"hello", "no known format"),
            ("damaged.safetensors", b"hello, world", "not a safetensors file"),
            ("arrays.npz", b"PK\x03\x04\x14\0", "zip archive"),
            ("model.ckpt", b"<html>", "web page"),
            ("model.ckpt", b"", "is empty"),
            ("merge.yaml", b"models: {}", "no known format"),
        ],
    )
    def test_unknown(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelFileError, match=message) as caught:
            open_model(tmp_path / name)
        if not name.endswith((".ckpt", ".safetensors")):
            assert "Can be opened: .safetensors" in (caught.value.hint or "")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match="no such file"):
            open_model(tmp_path / "a.safetensors")
        with pytest.raises(ModelFileError, match="no such file"):
            open_model(tmp_path / "folder" / INDEX)

    def test_openers_come_first(self, tmp_path: Path) -> None:
        safetensors.torch.save_file(tensors(), tmp_path / "a.safetensors")
        mine = MemoryModel({})
        asked: list[Path] = []

        def never(path: Path) -> Model | None:
            asked.append(path)
            return None

        assert open_model(tmp_path / "a.safetensors", [never, lambda _: mine]) is mine
        assert type(open_model(tmp_path / "a.safetensors", [never])) is SafetensorsFile
        assert asked == [tmp_path / "a.safetensors"] * 2


class TestSameFile:
    def test_links(self, tmp_path: Path) -> None:
        a, b = tmp_path / "a", tmp_path / "b"
        a.write_text("x")
        b.write_text("x")
        (tmp_path / "soft").symlink_to(a)
        os.link(a, tmp_path / "hard")
        assert same_file(a, tmp_path / "nowhere" / ".." / "a") is False  # no such folder
        assert same_file(a, tmp_path / "." / "a")
        assert same_file(a, tmp_path / "soft")
        assert same_file(a, tmp_path / "hard")
        assert not same_file(a, b)
        assert not same_file(a, tmp_path / "new")
        assert replaced_by(tmp_path / "soft", a) == a
        assert replaced_by(tmp_path / "hard", a) == a
        assert replaced_by(tmp_path / "new", a) is None
        assert replaced_by(b, a) is None

    def test_inside_a_sharded_folder(self, sharded: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(sharded, target_is_directory=True)
        for source in (sharded, tmp_path / "link", sharded / INDEX):
            assert replaced_by(sharded / TWO, source)
            assert replaced_by(tmp_path / "link" / INDEX, source)
            assert replaced_by(tmp_path / "link", source)
            assert replaced_by(sharded / "new.safetensors", source) is None

    def test_a_folder_above(self, sharded: Path, tmp_path: Path) -> None:
        """An output folder takes the place of everything in it."""
        assert replaced_by(tmp_path, sharded)
        assert replaced_by(sharded, sharded / ONE)

    def test_a_shard_that_is_a_link(self, sharded: Path, tmp_path: Path) -> None:
        (sharded / ONE).rename(tmp_path / "blob")
        (sharded / ONE).symlink_to(tmp_path / "blob")
        assert replaced_by(tmp_path / "blob", sharded) == sharded / ONE
