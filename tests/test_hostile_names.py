"""Names and metadata that somebody else wrote: on pages they are text, and on a terminal they print."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from fuzz.targets import assert_shown_safely

from daremerge_core.cli import make_cli
from daremerge_core.stores import write_model

SCRIPT = "<script>alert(1)</script>"
QUOTES = "\"'><img src=x onerror=alert(1)>"
STEERING = "layer\u202e\u200b.weight"
"""Turns the direction of writing; has no width."""
NAMES = (f"model.{SCRIPT}.weight", f"model.{QUOTES}.weight", f"model.{STEERING}", "model.diffusion_model.a.weight")
REPORTS = {
    "diff": "report diff a.safetensors b.safetensors",
    "conflict": "report conflict base.safetensors a.safetensors b.safetensors",
    "health": "report health a.safetensors",
    "model": "report model a.safetensors",
    "mask": "report mask mask.safetensors",
    "gradient": "report gradient gradient.json",
    "merge": "report merge merged.safetensors",
}
PREPARED = (
    "mask magnitude a.safetensors --base base.safetensors --threshold 0.5 -o mask.safetensors",
    "gradient pattern a.safetensors --rest 0.5 --layer *.weight=0.4 -o gradient.json",
    "merge lerp a.safetensors b.safetensors -o merged.safetensors",
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Result]:
    """The command line, in a folder of models with such names."""
    monkeypatch.chdir(tmp_path)
    metadata = {"modelspec.title": SCRIPT + QUOTES, "author": STEERING}
    for seed, name in enumerate(("a", "b", "base")):
        made = torch.Generator().manual_seed(seed)
        write_model(tmp_path / f"{name}.safetensors", {k: torch.randn(8, 8, generator=made) for k in NAMES}, metadata)

    def invoke(words: str) -> Result:
        done = CliRunner().invoke(make_cli(), words.split(), prog_name="daremerge", catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert_shown_safely(done.output)
        return done

    return invoke


class _Page(HTMLParser):
    """What a browser would take for elements."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("a", "iframe", "object"), tag
        if tag == "img":
            assert dict(attrs)["src"].startswith("data:image/png;base64,")  # type: ignore[union-attr]
        if tag == "script":
            assert dict(attrs) == {"type": "application/json", "id": "data"}, "only data, never code"
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("report", REPORTS)
def test_on_a_page_they_are_text(run: Callable[[str], Result], tmp_path: Path, report: str) -> None:
    for command in PREPARED:
        run(command)
    for ending in ("html", "txt", "json"):
        run(f"{REPORTS[report]} -o report.{ending}")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = _Page()
    found.feed(page)
    assert "\u202e" not in page
    assert "\u200b" not in page
    assert_shown_safely((tmp_path / "report.txt").read_text(encoding="utf-8"))
    assert_shown_safely((tmp_path / "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "words",
    [
        "inspect a.safetensors --keys",
        "inspect a.safetensors --json",
        "merge lerp a.safetensors b.safetensors --dry-run",
    ],
)
def test_on_a_terminal_they_print(run: Callable[[str], Result], words: str) -> None:
    shown = run(words).output
    assert "\\u202e" in shown or "--dry-run" in words


def test_in_an_error_they_print(run: Callable[[str], Result], tmp_path: Path) -> None:
    write_model(tmp_path / "other.safetensors", {name: torch.zeros(3) for name in NAMES})
    done = CliRunner().invoke(
        make_cli(), ["merge", "lerp", "a.safetensors", "other.safetensors", "-o", "x.safetensors"]
    )
    assert done.exit_code != 0
    assert_shown_safely(done.output)


def test_names_are_kept_as_they_are_in_what_is_written(run: Callable[[str], Result], tmp_path: Path) -> None:
    from daremerge_core.stores import open_model

    run("merge lerp a.safetensors b.safetensors -o merged.safetensors")
    with open_model(tmp_path / "merged.safetensors") as model:
        assert set(model.keys()) == set(NAMES)
