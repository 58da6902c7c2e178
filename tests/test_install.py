"""Install only what you need: each distribution, built as a wheel, works with the core alone beside it."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from daremerge_core.testing import tiny_tensors
from daremerge_core.testing.fixtures import save

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of every distribution in this checkout, by folder name."""
    target = tmp_path_factory.mktemp("wheels")
    found: dict[str, Path] = {}
    for folder in [ROOT, *PLUGINS]:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(folder)]
        before = set(target.iterdir())
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found["core" if folder == ROOT else folder.name] = (set(target.iterdir()) - before).pop()
    return found


@pytest.fixture
def environment(tmp_path: Path, wheels: dict[str, Path]) -> Callable[..., Callable[..., str]]:
    """A fresh environment with third-party packages and the named wheels, and nothing else of ours."""

    def create(*names: str) -> Callable[..., str]:
        folder = tmp_path / "env"
        venv.create(folder, with_pip=False, symlinks=True)
        python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        site = next(folder.glob("**/site-packages"))
        for place in map(Path, sys.path):
            if place.name == "site-packages":
                for entry in place.iterdir():
                    if "daremerge" not in entry.name and entry.suffix != ".pth" and not (site / entry.name).exists():
                        (site / entry.name).symlink_to(entry)
        for name in ("core", *names):
            with zipfile.ZipFile(wheels[name]) as archive:
                archive.extractall(site)

        def run(*args: str, fails: bool = False) -> str:
            command = [str(python), "-m", "daremerge_core.cli", *args]
            done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
            assert bool(done.returncode) == fails, done.stdout + done.stderr
            return done.stdout + done.stderr

        return run

    for index, name in enumerate(("a", "b", "base")):
        save(tmp_path / f"{name}.safetensors", tiny_tensors(index, torch.float16))
    return create


METHODS = {
    "edits": ("edit", "noise", "a.safetensors", "--include", "*.to_q*"),
    "gradients": ("gradient", "parts", "a.safetensors", "--unet", "0.5"),
    "lora": ("lora", "extract", "a.safetensors", "base.safetensors", "--rank", "2"),
    "masks": ("mask", "magnitude", "a.safetensors", "--base", "base.safetensors"),
    "merge_basic": ("merge", "slerp", "a.safetensors", "b.safetensors"),
    "merge_dare": ("merge", "dare", "a.safetensors", "b.safetensors", "--base", "base.safetensors"),
    "merge_tasks": ("merge", "ties", "a.safetensors", "b.safetensors", "--base", "base.safetensors"),
    "reports": ("report", "diff", "a.safetensors", "b.safetensors"),
}


def test_the_core_alone_says_what_to_install(environment: Callable[..., Callable[..., str]], tmp_path: Path) -> None:
    run = environment()
    assert "No components are installed" in run("methods")
    assert "merge" in run("--help")
    (tmp_path / "r.yaml").write_text("models: {a: a, b: b}\nsteps: {m: {op: merge.dare, a: a, b: b}}\noutput: m\n")
    assert "pip install daremerge-merge-dare" in run("plan", "r.yaml", fails=True)
    assert "pip install daremerge-merge-basic" in run("merge", "lerp", "a", "b", "-o", "o.safetensors", fails=True)


@pytest.mark.parametrize("name", [path.name for path in PLUGINS])
def test_each_plugin_works_with_the_core_alone(
    name: str, environment: Callable[..., Callable[..., str]], tmp_path: Path
) -> None:
    run = environment(name)
    assert f"daremerge-{name.replace('_', '-')}" in run("plugins")
    output = {"gradients": "out.json", "reports": "out.html"}.get(name, "out.safetensors")
    done = run(*METHODS[name], "-o", output)
    assert output in done
    assert (tmp_path / output).exists()


def test_every_first_party_component_is_listed_for_the_hint() -> None:
    from daremerge_core import discover
    from daremerge_core.catalog import SHIPPED
    from daremerge_core.components import KINDS

    catalog = discover()
    shipped = {
        (catalog.plugin_of(cls).distribution, kind, cls.name)
        for kind in KINDS
        for cls in catalog.all(kind)
        if catalog.plugin_of(cls).distribution != "daremerge-fixture"
    }
    listed = {
        (home, kind, name) for home, of in SHIPPED.items() for kind, names in of.items() for name in names.split()
    }
    assert shipped == listed
