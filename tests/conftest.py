"""Fixtures every test may use: the fixture plugin, tiny model files, the command line in-process and as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from support import FIXTURES, save

from daremerge_core.testing import tiny_tensors

sys.path.insert(0, str(FIXTURES / "site"))  # its .dist-info makes the fixture plugin an installed one


@pytest.fixture
def models(tmp_path: Path) -> SimpleNamespace:
    """Three tiny fp16 checkpoints in ``tmp_path``: base, and two fine-tunes ``a`` and ``b`` of it."""
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
    """The command line in this process, run in ``tmp_path``."""
    from daremerge_core.cli.main import add_plugin_commands, cli

    add_plugin_commands()
    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path) -> Result:
        return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="daremerge", catch_exceptions=False)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line as a process of its own."""

    def run(*args: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(FIXTURES / "site"), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, "-m", "daremerge_core.cli", *map(str, args)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run
