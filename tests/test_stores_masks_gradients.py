"""Mask and gradient files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core.errors import ComponentError, ModelFileError, OutputError
from daremerge_core.stores import GradientFile, MaskFile, SafetensorsFile, mask_file, write_gradient, write_mask
from daremerge_core.stores.kernels import pack_bits, unpack_bits
from daremerge_core.values import Gradient, Mask, Span

bits = st.lists(st.booleans(), max_size=70)


class TestBits:
    @given(bits)
    def test_packing_by_definition(self, values: list[bool]) -> None:
        """Element i is bit i mod 8, from the least significant, of byte i div 8."""
        packed = pack_bits(np.array(values, np.bool_))
        assert packed.dtype == np.uint8
        expected = [0] * (-(-len(values) // 8))
        for i, value in enumerate(values):
            expected[i // 8] += value << (i % 8)
        assert packed.tolist() == expected

    @given(bits, st.data())
    def test_unpacking_any_span(self, values: list[bool], data: st.DataObject) -> None:
        packed = pack_bits(np.array(values, np.bool_))
        start = data.draw(st.integers(0, len(values)))
        stop = data.draw(st.integers(start, len(values)))
        unpacked = unpack_bits(packed, start, stop)
        assert unpacked.dtype == np.bool_
        assert unpacked.tolist() == values[start:stop]

    def test_shapes_and_strides(self) -> None:
        mask = np.array([[True, False, True], [False, False, True]])
        assert pack_bits(mask).tolist() == [0b100101]
        assert pack_bits(mask.T).tolist() == [0b110001]
        assert pack_bits(np.array(True)).tolist() == [1]


def masks() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (5, 7), "vector": (16,), "scalar": (), "empty": (0, 3), "ünï": (9,)}
    return {key: torch.rand(shape, generator=generator) < 0.5 for key, shape in shapes.items()}


class Lazy:
    """A mask that is no dict, and remembers what was asked of it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def keys(self) -> list[str]:
        return list(masks())

    def shape(self, key: str) -> tuple[int, ...] | None:
        return tuple(masks()[key].shape)

    def read(self, key: str, span: Span | None = None) -> Tensor:
        assert span is not None
        self.spans.append(span)
        return masks()[key].reshape(-1)[span.start : span.stop]

    def close(self) -> None: ...


class TestMaskFile:
    @pytest.fixture(params=["packed", "plain"])
    def path(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        path = tmp_path / "mask.safetensors"
        if request.param == "packed":
            return write_mask(path, masks(), {"title": "x"})
        safetensors.torch.save_file(masks(), path, {"title": "x"})
        return path

    def test_round_trip(self, path: Path) -> None:
        with MaskFile(path) as mask:
            assert isinstance(mask, Mask)
            assert set(mask.keys()) == set(masks())
            assert mask.metadata["title"] == "x"
            assert mask.paths == (path,)
            for key, tensor in masks().items():
                assert mask.shape(key) == tuple(tensor.shape)
                assert mask.read(key).dtype == torch.bool
                assert torch.equal(mask.read(key), tensor)

    @given(st.data())
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    def test_any_span(self, path: Path, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(masks())))
        values = masks()[key].reshape(-1).tolist()
        start = data.draw(st.integers(0, len(values)))
        stop = data.draw(st.integers(start, len(values)))
        with MaskFile(path) as mask:
            assert mask.read(key, Span(start, stop)).tolist() == values[start:stop]

    def test_unknown_key_and_span_outside(self, path: Path) -> None:
        with MaskFile(path) as mask:
            assert mask.shape("x") is None
            with pytest.raises(KeyError):
                mask.read("x")
            with pytest.raises(IndexError, match="vector"):
                mask.read("vector", Span(9, 17))
            with pytest.raises(IndexError, match="35 elements"):
                mask.read("matrix", Span(30, 36))  # inside the last byte, but beyond the mask

    def test_size_on_disk(self, tmp_path: Path) -> None:
        path = write_mask(tmp_path / "mask.safetensors", masks())
        with SafetensorsFile(path) as stored:
            assert {key: stored.meta(key).shape for key in stored.keys()} == {
                "matrix": (5,), "vector": (2,), "scalar": (1,), "empty": (0,), "ünï": (2,)
            }  # fmt: skip
            described = json.loads(stored.metadata["daremerge.mask"])
        assert described == {
            "version": 1,
            "shapes": {"matrix": [5, 7], "vector": [16], "scalar": [], "empty": [0, 3], "ünï": [9]},
        }

    def test_is_written_piece_by_piece(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = write_mask(tmp_path / "whole.safetensors", masks())
        monkeypatch.setattr(mask_file, "_STEP", 8)
        lazy = Lazy()
        pieces = write_mask(tmp_path / "pieces.safetensors", lazy)
        assert max(span.numel for span in lazy.spans) == 8
        assert pieces.read_bytes() == whole.read_bytes()

    def test_an_existing_file(self, tmp_path: Path) -> None:
        path = write_mask(tmp_path / "mask.safetensors", masks())
        with pytest.raises(OutputError, match="already exists"):
            write_mask(path, masks())
        write_mask(path, {"a": torch.tensor([True])}, overwrite=True)
        assert MaskFile(path).keys() == ("a",)

    def test_not_bool(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="'a' is F32, not BOOL"):
            write_mask(tmp_path / "mask.safetensors", {"a": torch.ones(3)})
        assert list(tmp_path.iterdir()) == []

    def test_any_byte_but_zero_is_true(self, tmp_path: Path) -> None:
        safetensors.torch.save_file({"a": torch.zeros(3, dtype=torch.bool)}, tmp_path / "mask.safetensors")
        raw = bytearray((tmp_path / "mask.safetensors").read_bytes())
        raw[-3:] = b"\x00\x02\xff"
        (tmp_path / "mask.safetensors").write_bytes(raw)
        read = MaskFile(tmp_path / "mask.safetensors").read("a")
        assert torch.equal(read, torch.tensor([False, True, True]))
        assert read.view(torch.uint8).tolist() == [0, 1, 1]

    @pytest.mark.parametrize(
        ("tensors", "described", "message"),
        [
            ({"a": torch.ones(3)}, None, "tensor 'a' is F32 .* not a mask"),
            ({"a": torch.ones(3, dtype=torch.uint8)}, None, "not a mask"),
            ({"a": torch.ones(2, dtype=torch.uint8)}, {"version": 1, "shapes": {"a": [8]}}, "'a' is U8 of shape"),
            ({"a": torch.ones(1, 1, dtype=torch.uint8)}, {"version": 1, "shapes": {"a": [8]}}, "'a' is U8 of shape"),
            ({"a": torch.ones(1)}, {"version": 1, "shapes": {"a": [8]}}, "'a' is F32 of shape"),
            ({"a": torch.ones(8, dtype=torch.bool)}, {"version": 1, "shapes": {"a": [8]}}, "'a' is BOOL of shape"),
            ({"a": torch.ones(1, dtype=torch.uint8)}, {"version": 1, "shapes": {"b": [8], "a": [8]}}, "'b' is listed"),
            ({}, {"version": 2, "shapes": {}}, "version 2"),
            ({}, {"version": True, "shapes": {}}, "must have version 1"),
            ({}, {"shapes": {}}, "must have version 1"),
            ({}, {"version": 1}, "must have version 1 and shapes"),
            ({}, {"version": 1, "shapes": {"a": [-8]}}, "mask of tensor 'a': its shape must be a list"),
            ({}, {"version": 1, "shapes": {"a": [True]}}, "mask of tensor 'a': its shape must be a list"),
            ({}, {"version": 1, "shapes": {"a": 8}}, "mask of tensor 'a': its shape must be a list"),
            ({}, [], "must have version 1"),
            ({}, "{", "not valid JSON"),
        ],
    )
    def test_not_a_mask(self, tmp_path: Path, tensors: dict[str, Tensor], described: Any, message: str) -> None:
        path = tmp_path / "mask.safetensors"
        text = described if isinstance(described, str) else json.dumps(described)
        safetensors.torch.save_file(tensors, path, None if described is None else {"daremerge.mask": text})
        with pytest.raises(ModelFileError, match=message) as caught:
            MaskFile(path)
        assert str(path) in caught.value.message


RATIOS: dict[str, float | None] = {"b.weight": 0.5, "a.weight": None, "ünï": 1.0, "third": 1 / 3, "beyond": -0.25}


class TestGradientFile:
    def test_round_trip(self, tmp_path: Path) -> None:
        path = write_gradient(tmp_path / "g.json", RATIOS, {"family": "mbw", "rest": 0.5})
        gradient = GradientFile(path)
        assert isinstance(gradient, Gradient)
        assert list(gradient.keys()) == list(RATIOS)
        assert {key: gradient.ratio(key) for key in gradient.keys()} == RATIOS
        assert gradient.ratio("unknown") is None
        assert gradient.made_by == {"family": "mbw", "rest": 0.5}

    def test_the_text(self, tmp_path: Path) -> None:
        """Golden: people read and edit it."""
        path = write_gradient(tmp_path / "g.json", {"ünï.weight": 1, "out": None}, {"family": "block"})
        assert path.read_text(encoding="utf-8") == (
            "{\n"
            '  "daremerge": "gradient",\n'
            '  "version": 1,\n'
            '  "made_by": {\n'
            '    "family": "block"\n'
            "  },\n"
            '  "ratios": {\n'
            '    "ünï.weight": 1.0,\n'
            '    "out": null\n'
            "  }\n"
            "}\n"
        )

    def test_written_by_hand(self, tmp_path: Path) -> None:
        path = tmp_path / "g.json"
        path.write_text('\ufeff{"daremerge": "gradient", "version": 1, "ratios": {"a": 1}}', encoding="utf-8")
        gradient = GradientFile(path)
        assert gradient.ratio("a") == 1.0
        assert type(gradient.ratio("a")) is float
        assert gradient.made_by == {}

    @pytest.mark.parametrize(
        "value", ["NaN", "Infinity", "-Infinity", "1e999", "true", '"0.5"', "[0.5]", "{}", "9" * 400]
    )
    def test_a_bad_ratio_is_named_with_its_line(self, tmp_path: Path, value: str) -> None:
        path = tmp_path / "g.json"
        path.write_text(
            '{"daremerge": "gradient", "version": 1,\n"made_by": {"b": 1},\n"ratios": {\n"a": 0.5,\n"b": '
            + value
            + "\n}}"
        )
        with pytest.raises(ModelFileError, match=r"g\.json, line 5: the ratio of tensor 'b' must be a finite number"):
            GradientFile(path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "not valid JSON"),
            ('{\n"daremerge": }', "line 2"),
            ("[]", "not a gradient file"),
            ("{}", "not a gradient file"),
            ('{"models": {}}', "not a gradient file"),
            ('{"daremerge": "gradient", "ratios": {}}', "version None"),
            ('{"daremerge": "gradient", "version": 2, "ratios": {}}', "version 2"),
            ('{"daremerge": "gradient", "version": true, "ratios": {}}', "version True"),
            ('{"daremerge": "gradient", "version": 1}', "'ratios' must be an object"),
            ('{"daremerge": "gradient", "version": 1, "ratios": []}', "'ratios' must be an object"),
            ('{"daremerge": "gradient", "version": 1, "ratios": {}, "made_by": 3}', "'made_by' must be an object"),
            ('{"daremerge": "gradient", "version": 1, "ratio": {}}', "unknown field 'ratio'.*ratios"),
            ('{"daremerge": "gradient", "version": 1, "ratios": {\n"a": 1,\n"a": 0}}', r"'a' appears twice \(line 3\)"),
            ("[" * 5000, "nested too deeply"),
            (
                '{"daremerge": "gradient", "version": 1, "ratios": {"a": ' + "[" * 900 + "]" * 900 + "}}",
                "tensor 'a'|nested",
            ),
        ],
    )
    def test_not_a_gradient(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "g.json"
        path.write_text(text)
        with pytest.raises(ModelFileError, match=message) as caught:
            GradientFile(path)
        assert str(path) in caught.value.message

    def test_not_text(self, tmp_path: Path) -> None:
        (tmp_path / "g.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ModelFileError, match="JSON text"):
            GradientFile(tmp_path / "g.json")
        with pytest.raises(ModelFileError, match="no such file"):
            GradientFile(tmp_path / "h.json")

    @pytest.mark.parametrize("ratio", [float("nan"), float("inf"), -float("inf")])
    def test_a_ratio_that_cannot_be_written(self, tmp_path: Path, ratio: float) -> None:
        with pytest.raises(ComponentError, match="tensor 'b'"):
            write_gradient(tmp_path / "g.json", {"a": 0.5, "b": ratio})
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_file(self, tmp_path: Path) -> None:
        path = write_gradient(tmp_path / "g.json", {"a": 0.5})
        with pytest.raises(OutputError, match="already exists"):
            write_gradient(path, {"a": 0.25})
        assert GradientFile(path).ratio("a") == 0.5
        write_gradient(path, {"a": 0.25}, overwrite=True)
        assert GradientFile(path).ratio("a") == 0.25
        assert [one.name for one in tmp_path.iterdir()] == ["g.json"]

    @given(
        st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
        )
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    def test_any_ratio_survives_exactly(self, tmp_path: Path, ratios: dict[str, float | None]) -> None:
        gradient = GradientFile(write_gradient(tmp_path / "g.json", ratios, overwrite=True))
        assert {key: gradient.ratio(key) for key in gradient.keys()} == ratios
