"""The commands and examples in the documentation, run as a reader would run them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from daremerge_core import MemoryModel
from daremerge_core.testing import layouts, tiny_tensors
from daremerge_core.testing.fixtures import save
from daremerge_lora.testing import EXAMPLES, write_examples

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "writing-a-plugin.md"
"""Has a test of its own: its commands need the plugin it makes."""
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(page for folder in ("adapters", "plugins") for page in sorted((ROOT / folder).glob("*/README.md"))),
]
ELSEWHERE = {"daremerge demo"}
"""Commands that have a test of their own."""


CONTEXT = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
"""Its width is what SD 1.5 is recognised by."""


def small_sd15(seed: int) -> dict[str, torch.Tensor]:
    """Every tensor of SD 1.5 by name, its sides cut to 4: a checkpoint as a reader has, in a few kilobytes."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for key, meta in layouts.load("sd15").items():
        shape = (4, 768) if key == CONTEXT else tuple(min(size, 4) for size in meta.shape)
        weights = torch.randn(shape, generator=generator)
        tensors[key] = weights.half() if meta.dtype.startswith("F") else weights.long()
    return tensors


def files_of_a_reader(folder: Path, names: Iterable[str]) -> None:
    """What a reader has under these names: LoRAs under those that the pages give to LoRAs, else checkpoints."""
    stems = {Path(name).stem: index for index, name in enumerate(names)}
    for stem, index in stems.items():
        if stem not in EXAMPLES:
            save(folder / f"{stem}.safetensors", small_sd15(index), {"format": "pt"})
    if not EXAMPLES.keys().isdisjoint(stems):
        write_examples(folder, MemoryModel(small_sd15(0)))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Every ``daremerge`` command line of a page, as words, comments left out."""
    lines = [line.removeprefix("$ ") for block in blocks(page, "console") for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("daremerge ")]
    return [words for words in found if " ".join(words) not in ELSEWHERE]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page) and page != GUIDE], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_command_of_a_page_works(page: Path, cli: Callable[..., Result], tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    outputs = set(re.findall(r"(?:-o|path:) (\S+\.safetensors)", text))
    files_of_a_reader(tmp_path, sorted(set(re.findall(r"[\w-]+\.safetensors", text)) - outputs))
    recipes = [block for block in blocks(page, "yaml") if "steps:" in block]
    if recipes:
        (tmp_path / "recipe.yaml").write_text(recipes[0], encoding="utf-8")
    for config in (block for block in blocks(page, "yaml") if "merge_method:" in block):
        (tmp_path / "mergekit.yml").write_text(config, encoding="utf-8")
    for words in commands(page):
        done = cli(*words[1:])
        assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}"


def test_the_readmes_python_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(("realistic", "anime")):
        save(tmp_path / f"{name}.safetensors", tiny_tensors(index, torch.float16))
    (code,) = blocks(ROOT / "README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "merged.safetensors").exists()


def test_the_python_of_the_page_on_masks_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(("realistic", "anime", "sd15")):
        save(tmp_path / f"{name}.safetensors", small_sd15(index))
    page = ROOT / "docs" / "masks-and-gradients.md"
    (code,) = blocks(page, "python")
    made: dict[str, Any] = {}
    exec(compile(code, page.name, "exec"), made)
    selected = made["protect"].read(made["key"])
    assert int(selected.sum()) == made["held"].count(made["key"])
    unchanged = made["merged"].read(made["key"])[~selected]
    assert torch.equal(unchanged, made["a"].read(made["key"])[~selected])
    for model in ("a", "b", "base"):
        made[model].close()


def test_the_plugin_guide_makes_a_plugin(tmp_path: Path) -> None:
    """Its two files, built into a wheel, give a command, a recipe step, and pass the suite it shows."""
    (project,) = blocks(GUIDE, "toml")
    plugin, norm, midway, said, report, tests = blocks(GUIDE, "python")
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(project)
    (source / "power_lerp.py").write_text(plugin)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    for index, name in enumerate("ab"):
        save(tmp_path / f"{name}.safetensors", tiny_tensors(index, torch.float16))
    (tmp_path / "r.yaml").write_text(
        "models: {a: a.safetensors, b: b.safetensors}\n"
        "steps: {m: {op: merge.power-lerp, a: a, b: b, power: 2}}\noutput: {step: m, path: recipe.safetensors}\n"
    )
    (tmp_path / "test_power_lerp.py").write_text(
        "from daremerge_core.testing import ReporterTests\n"
        + tests
        + norm
        + "\n\nclass TestNormLerp(MergeMethodTests):\n    component = NormLerp\n    exact_ends = 'a'\n"
        + midway
        + "\n\nclass TestMidway(MergeMethodTests):\n    component = Midway\n    exact_ends = 'a'\n\n\n"
        + said
        + "\n\nclass TestMidwaySaid(MergeMethodTests):\n    component = MidwaySaid\n    exact_ends = 'a'\n"
        + report
        + "\n\nclass TestLargestWeight(ReporterTests):\n    component = LargestWeight\n"
    )

    def run(*args: str) -> str:
        path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "higher favours large moves" in run("-m", "daremerge_core.cli", "merge", "power-lerp", "--help")
    (shown,) = (words for words in commands(GUIDE) if "-o" in words)
    run("-m", "daremerge_core.cli", *shown[1:])
    run("-m", "daremerge_core.cli", "run", "r.yaml")
    assert "passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_power_lerp.py")


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in [*PAGES, *sorted((ROOT / "docs" / "adr").glob("*.md")), ROOT / "benchmarks" / "README.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_runs_by_the_command_in_it(example: Path, cli: Callable[..., Result], tmp_path: Path) -> None:
    text = example.read_text(encoding="utf-8")
    (line,) = re.findall(r"^#\s+(daremerge run .*)$", text, flags=re.MULTILINE)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / example.name).write_text(text, encoding="utf-8")
    (tmp_path / "models").mkdir()
    files_of_a_reader(tmp_path / "models", re.findall(r": ([\w-]+\.safetensors)", text))
    words = [word.replace("~/models", "models") for word in shlex.split(line)]
    done = cli(*words[1:])
    assert done.exit_code == 0, done.output
