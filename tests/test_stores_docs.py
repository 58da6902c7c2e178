"""The page about files says what is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from daremerge_core.stores import GradientFile

PAGE = Path(__file__).parent.parent / "docs" / "files.md"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert found
    return found


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    safetensors.torch.save_file({"a": torch.ones(2, 3), "b": torch.zeros(4).half()}, "realistic.safetensors")
    exec(compile("\n".join(blocks("python")), str(PAGE), "exec"), {})
    assert "a F32 (2, 3)\nb F16 (4,)\nblake3:" in capsys.readouterr().out


def test_its_gradient_is_one(tmp_path: Path) -> None:
    (text,) = blocks("json")
    (tmp_path / "g.json").write_text(text)
    assert list(GradientFile(tmp_path / "g.json")._ratios.values()) == [0.25, None]
