"""What every test may use: the fixture plugin, the kit's own fixtures, and the command line as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import FIXTURES

sys.path.insert(0, str(FIXTURES / "site"))  # its .dist-info makes the fixture plugin an installed one

from daremerge_core.testing.fixtures import cli, models

__all__ = ["cli", "models"]


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
