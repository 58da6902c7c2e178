"""``daremerge verify``: each check passes where it should, and fails where it must."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from daremerge_core.cli import make_cli
from daremerge_core.stores import write_model

Run = Callable[[str], Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in a folder with models and what was made of them."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        made = torch.Generator().manual_seed(seed)
        tensors = {f"model.diffusion_model.{key}.weight": torch.randn(64, 64, generator=made).half() for key in "pqr"}
        write_model(tmp_path / f"{name}.safetensors", tensors)

    def invoke(words: str) -> Result:
        return CliRunner().invoke(make_cli(), words.split(), prog_name="daremerge", catch_exceptions=False)

    for words in (
        "merge lerp a.safetensors b.safetensors -o out.safetensors",
        "merge lerp a.safetensors b.safetensors -o folder --shard-size 10KB",
        "mask random a.safetensors -o mask.safetensors",
        "gradient pattern a.safetensors --rest 0.5 --layer *.p.weight=0.2 -o gradient.json",
    ):
        assert invoke(words).exit_code == 0, words
    return invoke


def outcomes(done: Result) -> dict[str, str]:
    [checks] = json.loads(done.output).values()
    return {one["name"]: one["outcome"] for one in checks}


@pytest.mark.parametrize("name", ["out.safetensors", "folder", "mask.safetensors", "gradient.json"])
def test_what_was_made_here_is_whole(run: Run, name: str) -> None:
    assert run(f"verify --write {name}").exit_code == 0
    done = run(f"verify --rebuild --json {name}")
    found = outcomes(done)
    assert done.exit_code == 0
    assert {found[check] for check in ("readable", "finite", "checksum", "recipe", "rebuilt")} == {"ok"}
    assert found["inputs"] == ("not checked" if name == "gradient.json" else "ok")
    assert not list(Path().glob(".verify-*"))


def test_what_somebody_else_made_says_nothing_of_itself(run: Run) -> None:
    done = run("verify a.safetensors")
    assert done.exit_code == 0
    assert "not checked" in done.output
    assert "the file holds no recipe" in done.output


def test_one_changed_bit(run: Run, tmp_path: Path) -> None:
    run("verify --write out.safetensors")
    path = tmp_path / "out.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    done = run("verify --rebuild --json out.safetensors")
    assert done.exit_code == 1
    found = outcomes(done)
    assert found["readable"] == found["recipe"] == found["inputs"] == "ok"
    assert found["checksum"] == found["rebuilt"] == "FAILED"


def test_a_file_that_was_cut(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    done = run("verify --json out.safetensors")
    assert done.exit_code == 1
    assert outcomes(done)["readable"] == "FAILED"
    assert set(outcomes(done).values()) == {"FAILED", "not checked"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_weights_that_are_none(run: Run, tmp_path: Path, dtype: torch.dtype) -> None:
    write_model(tmp_path / "bad.safetensors", {"x": torch.tensor([1.0, float("nan"), 448.0]).to(dtype)})
    done = run("verify bad.safetensors")
    assert done.exit_code == 1
    assert "1 weights are NaN or infinite, in x (1)" in done.output


def test_an_input_that_changed_or_is_gone(run: Run, tmp_path: Path) -> None:
    write_model(
        tmp_path / "b.safetensors",
        {f"model.diffusion_model.{key}.weight": torch.ones(64, 64) for key in "pqr"},
        overwrite=True,
    )
    done = run("verify --json out.safetensors")
    assert done.exit_code == 1
    assert outcomes(done)["inputs"] == "FAILED"
    (tmp_path / "b.safetensors").unlink()
    done = run("verify --json out.safetensors")
    assert done.exit_code == 0
    assert outcomes(done)["inputs"] == "not checked"


def test_several_files_and_a_checksum_that_is_there(run: Run) -> None:
    assert run("verify out.safetensors mask.safetensors a.safetensors").exit_code == 0
    run("verify --write out.safetensors")
    done = run("verify --write out.safetensors")
    assert done.exit_code != 0
    assert "already exists" in done.output
    assert run("verify --write --overwrite out.safetensors").exit_code == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"identity": 3}', "[" * 100_000])
def test_a_checksum_that_is_none(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "out.safetensors.daremerge.json").write_text(text)
    done = run("verify --json out.safetensors")
    assert done.exit_code == 1
    assert outcomes(done)["checksum"] == "FAILED"
