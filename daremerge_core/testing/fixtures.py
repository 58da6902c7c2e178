"""Fixtures for pytest: put ``pytest_plugins = ["daremerge_core.testing.fixtures"]`` in your ``conftest.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from .tiny import tiny_tensors

__all__ = ["cli", "models", "save"]


def save(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    """Write tensors as a safetensors file, over one that is there."""
    from ..stores import write_model

    write_model(path, tensors, metadata, overwrite=True)
    return path


@pytest.fixture
def models(tmp_path: Path) -> SimpleNamespace:
    """Three tiny fp16 checkpoints in ``tmp_path``: ``base``, and two fine-tunes ``a`` and ``b`` of it; ``folder``."""
    import torch

    base = tiny_tensors(0, torch.float16)
    files = {"base": save(tmp_path / "base.safetensors", base)}
    for index, name in enumerate("ab", start=1):
        delta = tiny_tensors(index, torch.float32, scale=0.01)
        tuned = {k: (t.float() + delta[k]).half() if t.is_floating_point() else t for k, t in base.items()}
        metadata = {"format": "pt", "modelspec.title": f"model {name}", "modelspec.hash_sha256": "0xstale"}
        files[name] = save(tmp_path / f"{name}.safetensors", tuned, metadata)
    return SimpleNamespace(folder=tmp_path, **files)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """The command line in this process, run in ``tmp_path``: ``cli("merge", "lerp", …).output``."""
    from ..cli import make_cli

    command = make_cli()
    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path) -> Result:
        return CliRunner().invoke(command, [str(arg) for arg in args], prog_name="daremerge", catch_exceptions=False)

    return run
