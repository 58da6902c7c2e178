"""Content identity: the same for the same content in any container, another for any other content."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core.dtypes import dtype_name
from daremerge_core.stores import (
    IdentityBuilder,
    MemoryModel,
    SafetensorsFile,
    ShardedFolder,
    ShardedWriter,
    TorchPickle,
    content_identity,
    file_identity,
)
from daremerge_core.stores import identity as identity_module

METADATA = {"format": "pt", "daremerge": "{}"}


def tensors() -> dict[str, Tensor]:
    return {
        "large": torch.arange(2**20 * 3 // 2 + 5, dtype=torch.int64),  # three leaves of 4 MiB and 40 bytes
        "half": torch.arange(10).half().view(2, 5),
        "fp8": torch.arange(10.0).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(True),
        "empty": torch.empty(0, 3),
        "ünï": torch.arange(3, dtype=torch.uint8),
    }


def by_the_book(of: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """The format of the documentation, written down a second time and slowly."""

    def counted(text: str) -> bytes:
        return len(text.encode()).to_bytes(8, "little") + text.encode()

    message = b"daremerge content identity 1\n"
    for name in sorted(metadata):
        message += b"M" + counted(name) + counted(metadata[name])
    for key in sorted(of):
        tensor = of[key].contiguous()
        raw = tensor.view(-1).view(torch.uint8).numpy().tobytes()
        leaves = b"".join(blake3(raw[at : at + 4 * 1024 * 1024]).digest() for at in range(0, len(raw), 4 * 1024 * 1024))
        message += b"T" + counted(key) + counted(dtype_name(tensor.dtype))
        message += np.array([tensor.dim(), *tensor.shape], dtype="<u8").tobytes()
        message += blake3(leaves).digest()
    return "blake3:" + blake3(message).hexdigest()


def test_is_what_the_documentation_says() -> None:
    assert content_identity(MemoryModel(tensors(), METADATA)) == by_the_book(tensors(), METADATA)


def test_known_answer() -> None:
    """Golden: it is written into files, so it may never change."""
    model = MemoryModel({"weight": torch.arange(4.0).view(2, 2), "bias": torch.tensor([1, 2]).half()}, {"format": "pt"})
    assert content_identity(model) == "blake3:455ced0628167196f31d63d860141d38c143efff60890d30e0469948381444be"


def test_the_container_does_not_matter(tmp_path: Path) -> None:
    expected = content_identity(MemoryModel(tensors(), METADATA), threads=1)
    backwards = dict(reversed(tensors().items()))
    assert content_identity(MemoryModel(backwards, dict(reversed(METADATA.items()))), threads=3) == expected
    safetensors.torch.save_file(tensors(), tmp_path / "a.safetensors", METADATA)
    with SafetensorsFile(tmp_path / "a.safetensors") as model:
        assert content_identity(model) == expected
        metas = [model.meta(key) for key in model.keys()]
    with ShardedWriter(tmp_path / "shards", metas, METADATA, shard_size=20) as writer:
        for key, tensor in tensors().items():
            writer.write(key, 0, tensor)
        assert len(writer.commit()) > 3
    with ShardedFolder(tmp_path / "shards") as folder:
        assert content_identity(folder) == expected
    torch.save(tensors(), tmp_path / "a.ckpt")
    with TorchPickle(tmp_path / "a.ckpt") as pickled:
        assert content_identity(pickled) == content_identity(MemoryModel(tensors()))


def test_strides_do_not_matter() -> None:
    tensor = torch.arange(12.0).view(3, 4)
    assert content_identity(MemoryModel({"a": tensor.t()})) == content_identity(
        MemoryModel({"a": tensor.t().contiguous()})
    )


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_one_bit_matters(data: st.DataObject) -> None:
    of = {key: tensor for key, tensor in tensors().items() if key not in ("large", "scalar")}
    before = content_identity(MemoryModel(of), threads=1)
    key = data.draw(st.sampled_from([key for key in of if of[key].numel()]))
    raw = of[key].clone().view(-1).view(torch.uint8)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed = {**of, key: raw.view(of[key].dtype).view(of[key].shape)}
    assert content_identity(MemoryModel(changed), threads=1) != before


def test_everything_matters() -> None:
    base: tuple[dict[str, Tensor], dict[str, str]] = ({"a": torch.zeros(2, 3), "b": torch.ones(4)}, {"k": "v"})
    large = tensors()["large"]
    swapped = large.clone()  # two whole leaves in each other's place
    swapped[: 2**19], swapped[2**19 : 2**20] = large[2**19 : 2**20], large[: 2**19]
    variants: list[tuple[dict[str, Tensor], dict[str, str]]] = [
        base,
        ({"a": torch.zeros(3, 2), "b": torch.ones(4)}, {"k": "v"}),
        ({"a": torch.zeros(6), "b": torch.ones(4)}, {"k": "v"}),
        ({"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(4)}, {"k": "v"}),
        ({"c": torch.zeros(2, 3), "b": torch.ones(4)}, {"k": "v"}),
        ({"b": torch.zeros(2, 3), "a": torch.ones(4)}, {"k": "v"}),
        ({"a": torch.zeros(2, 3)}, {"k": "v"}),
        ({**base[0], "empty": torch.empty(0)}, {"k": "v"}),
        ({**base[0], "empty": torch.empty(0, 1)}, {"k": "v"}),
        (base[0], {}),
        (base[0], {"k": "w"}),
        (base[0], {"kv": ""}),
        (base[0], {"k": "v", "daremerge": "{}"}),
        ({"large": large}, {}),
        ({"large": swapped}, {}),
        ({}, {}),
    ]
    assert len({content_identity(MemoryModel(*variant)) for variant in variants}) == len(variants)


class TestBuilder:
    def test_in_any_order(self) -> None:
        model = MemoryModel(tensors(), METADATA)
        builder = IdentityBuilder.of(model)
        leaves = list(builder.leaves())
        assert [(leaf.key, leaf.index) for leaf in leaves if leaf.key == "large"] == [("large", n) for n in range(4)]
        for leaf in reversed(leaves):
            builder.hash_leaf(model, leaf)
        assert builder.identity() == content_identity(model)

    def test_unfinished(self) -> None:
        model = MemoryModel(tensors())
        builder = IdentityBuilder.of(model)
        for leaf in list(builder.leaves())[1:]:
            builder.hash_leaf(model, leaf)
        with pytest.raises(RuntimeError, match="not been hashed"):
            builder.identity()

    def test_an_error_stops_the_reading(self) -> None:
        class Broken(MemoryModel):
            reads = 0

            def read(self, key: str, span: object = None) -> Tensor:
                Broken.reads += 1
                if key != "0":
                    time.sleep(0.01)  # as a disk would
                raise OSError("disk gone")

        with pytest.raises(OSError, match="disk gone"):
            content_identity(Broken({str(n): torch.ones(1) for n in range(500)}), threads=1)
        assert Broken.reads < 500


def test_file_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `b3sum` prints it; read in pieces."""
    (tmp_path / "g.json").write_bytes(b"abc")
    expected = "blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    assert file_identity(tmp_path / "g.json") == expected
    monkeypatch.setattr(identity_module, "LEAF_BYTES", 2)
    assert file_identity(str(tmp_path / "g.json")) == expected
