"""Tags and facts, from honest metadata and from any other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from daremerge_core import MemoryModel
from daremerge_core.errors import ModelFileError
from daremerge_core.stores import open_model, write_model
from daremerge_core.values import Model
from daremerge_lora.cli import info_command, tags_command
from daremerge_lora.formats import open_lora
from daremerge_lora.metadata import TAGS, hashes, info, tags

from .files import headers, numbers, plain

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def save(path: Path, model: Model) -> None:
    tensors = {key: model.read(key) for key in model.keys()}
    write_model(path, tensors, model.metadata, overwrite=True)


def of(table: Any) -> dict[str, str]:
    return {TAGS: table if isinstance(table, str) else json.dumps(table)}


class TestTags:
    def test_by_falling_count_over_all_datasets_and_ties_in_the_files_order(self) -> None:
        table = {"10_cat": {"solo": 3, "b": 5, "a": 5, " solo ": 1}, "5_dog": {"solo": 4, "new": 2.0}}
        assert tags(of(table)).pairs == (("solo", 8), ("b", 5), ("a", 5), ("new", 2))
        assert tags(of(table), 2).pairs == (("solo", 8), ("b", 5))
        assert tags(of(table), 0).pairs == ()

    @pytest.mark.parametrize(
        ("metadata", "reason"),
        [
            ({}, "the metadata holds no ss_tag_frequency"),
            (of(""), "not valid JSON"),
            (of("{"), "not valid JSON"),
            (of("["), "not valid JSON"),
            (of("[" * 100_000), "nested too deeply"),
            (of("1" * 10_000), "not valid JSON"),
            (of("[]"), "not a table"),
            (of("null"), "not a table"),
            (of({}), "holds no tags"),
            (of({"a": {}}), "holds no tags"),
            (of({"a": 3}), "nothing that is a tag with a count (1 entries)"),
            (of({"a": {"x": {"y": 1}}}), "nothing that is a tag with a count"),
            (of({"a": {"": 1, "  ": 2}}), "nothing that is a tag with a count (2 entries)"),
        ],
    )
    def test_none_and_why(self, metadata: dict[str, str], reason: str) -> None:
        found = tags(metadata)
        assert found.pairs == ()
        assert reason in found.reason

    @pytest.mark.parametrize(
        "count", ["-1", "NaN", "Infinity", "1e999", "1e20", "0.5", "true", "null", '"3"', "[3]", "1" * 400]
    )
    def test_counts_that_are_none_are_left_out(self, count: str) -> None:
        found = tags(of(f'{{"a": {{"bad": {count}, "good": 1}}, "b": {{"good": 1}}}}'))
        assert (found.pairs, found.reason, found.ignored) == ((("good", 2),), "", 1)

    def test_half_a_character_is_no_tag(self) -> None:
        assert tags(of('{"a": {"\\ud800": 3, "ok": 1}}')).pairs == (("ok", 1),)

    @given(
        st.text() | JSON.map(json.dumps) | st.dictionaries(st.text(), JSON).map(json.dumps),
        st.none() | st.integers(0, 3),
    )
    def test_whatever_stands_there(self, text: str, limit: int | None) -> None:
        found = tags({TAGS: text}, limit)
        counts = [count for _, count in found.pairs]
        assert counts == sorted(counts, reverse=True)
        assert all(count >= 0 and tag == tag.strip() != "" for tag, count in found.pairs)
        assert bool(found.pairs) or bool(found.reason) or limit == 0

    def test_a_negative_limit(self) -> None:
        with pytest.raises(ValueError, match="limit"):
            tags({}, -1)


CONV = ("lora_unet_conv_in", (320, 4, 3, 3))
TEXT = ("lora_te_text_model_encoder_layers_0_mlp_fc1", (3072, 768))
KEY = ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", (320, 768))
METADATA = {
    **of({"a": {"x\x1b[31m": 2, "y": 1}}),
    "ss_base_model_version": "sd_v1",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "None",
    "ss_training_comment": "c" * 5000,
    "modelspec.title": "Title \x07",
    "modelspec.thumbnail": "data:image/jpeg;base64," + "A" * 1000,
    "sshs_model_hash": "0" * 64,
}


def one_number(found: list[dict[str, Any]]) -> dict[Any, int]:
    return {one["value"]: one["count"] for one in found}


class TestInfo:
    def test_of_a_usual_file(self) -> None:
        shapes = {**plain("kohya", [CONV, KEY], 4), **plain("kohya", [TEXT], 8), "x.oft_blocks": (2, 2, 2)}
        facts = info(open_lora(numbers(shapes, METADATA, alpha=2.0), name="a.safetensors"))
        assert (facts["file"], facts["architecture"], facts["modules"]) == ("a.safetensors", "sd15", 3)
        assert one_number(facts["ranks"]) == {4: 2, 8: 1}
        assert one_number(facts["alphas"]) == {2.0: 3}
        assert one_number(facts["scales"]) == {0.5: 2, 0.25: 1}
        assert one_number(facts["parts"]) == {"unet": 2, "te1": 1}
        assert one_number(facts["families"]) == {"lora": 3}
        assert one_number(facts["formats"]) == {"kohya": 3}
        assert facts["unknown"] == ["x.oft_blocks"]
        assert facts["base_model"] == {"ss_base_model_version": "sd_v1"}
        assert set(facts["training"]) == {"ss_network_module", "ss_training_comment"}
        assert facts["description"] == {"title": "Title \x07", "thumbnail": "1023 characters"}
        assert facts["hashes"] == {"sshs_model_hash": "0" * 64}
        assert facts["notes"] == []
        json.dumps(facts, allow_nan=False)

    def test_of_nothing(self) -> None:
        facts = info(open_lora(headers({"decoder.weight": (2, 2)})))
        assert (facts["architecture"], facts["modules"], facts["ranks"]) == ("unknown", 0, [])

    def test_of_a_damaged_file(self) -> None:
        tensors = {f"{KEY[0]}.lora_up.weight": torch.ones(4, 4), f"{KEY[0]}.lora_down.weight": torch.ones(3, 4)}
        facts = info(open_lora(MemoryModel({**tensors, f"{KEY[0]}.alpha": torch.tensor(float("nan"))})))
        assert one_number(facts["alphas"]) == {None: 1}
        assert "must be one finite number" in facts["notes"][0]
        json.dumps(facts, allow_nan=False)

    def test_hashes(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        for number, note in (("0" * 64, True), (None, False)):
            model = numbers(plain("kohya", [CONV]), {"sshs_model_hash": number} if number else {})
            save(path, model)
            raw = path.read_bytes()
            data = raw[8 + int.from_bytes(raw[:8], "little") :]
            expected = {"sha256": hashlib.sha256(raw).hexdigest(), "data": hashlib.sha256(data).hexdigest()}
            assert hashes(path) == expected
            facts = info(open_lora(open_model(path)), hashed=True)
            assert {name: facts["hashes"][name] for name in expected} == expected
            assert bool(facts["notes"]) == note

    def test_a_file_that_is_no_model_has_no_hashes(self, tmp_path: Path) -> None:
        (tmp_path / "a.safetensors").write_bytes(b"nothing")
        with pytest.raises(ModelFileError):
            hashes(tmp_path / "a.safetensors")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    save(path, numbers(plain("kohya", [CONV, TEXT, KEY]), METADATA))
    return path


class TestCommands:
    def test_tags_are_ready_to_paste_and_drive_no_terminal(self, file: Path) -> None:
        result = CliRunner().invoke(tags_command, [str(file)])
        assert (result.exit_code, result.stdout) == (0, "x\\x1b[31m, y\n")

    def test_counts_and_limit(self, file: Path) -> None:
        result = CliRunner().invoke(tags_command, [str(file), "--counts", "--limit", "1"])
        assert result.stdout.splitlines() == ["count  tag", "2      x\\x1b[31m"]

    def test_tags_as_json(self, file: Path) -> None:
        found = json.loads(CliRunner().invoke(tags_command, [str(file), "--json"]).stdout)
        assert found["tags"] == [{"tag": "x\x1b[31m", "count": 2}, {"tag": "y", "count": 1}]

    def test_no_tags(self, tmp_path: Path) -> None:
        path = tmp_path / "b.safetensors"
        save(path, numbers(plain("kohya", [CONV])))
        result = CliRunner().invoke(tags_command, [str(path)])
        assert (result.exit_code, result.stdout) == (0, "none\n")
        assert "the metadata holds no ss_tag_frequency" in result.stderr

    def test_info(self, file: Path) -> None:
        result = CliRunner().invoke(info_command, [str(file)])
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        assert "  fits        Stable Diffusion 1.5" in lines
        assert "  modules     3: denoiser (2), first text encoder (1)" in lines
        assert any(line.endswith("… (5000 characters)") and len(line) < 200 for line in lines)
        assert "\x07" not in result.stdout
        assert "the hash of these tensors" in result.stderr

    def test_info_as_json(self, file: Path) -> None:
        facts = json.loads(CliRunner().invoke(info_command, [str(file), "--json"]).stdout)
        assert (facts["architecture"], facts["file"]) == ("sd15", str(file))

    def test_info_of_what_nobody_understands(self, tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        save(path, MemoryModel({f"{index}.oft_blocks": torch.ones(2) for index in range(12)}))
        result = CliRunner().invoke(info_command, [str(path)])
        assert "12 tensors belong to no module that is understood" in result.stdout
        assert "… and 2 more: --json lists all" in result.stdout
        assert "no architecture that is known" in result.stdout
