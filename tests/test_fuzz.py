"""A slice of the fuzzing that ``make fuzz`` does at length, and every file that it ever found wanting."""

from __future__ import annotations

import warnings
from pathlib import Path
from random import Random

import pytest

fuzz = pytest.importorskip("fuzz.__main__", reason="needs the folder tests on the path, and resource limits")
from fuzz import resumed  # noqa: E402
from fuzz.guards import Breach, bounded_memory, time_limit, watched  # noqa: E402
from fuzz.targets import TARGETS, Target  # noqa: E402

CASES = 4000
"""Shared out among the targets, as ``python -m fuzz --cases`` does."""
FINDS = sorted((Path(__file__).parent / "fixtures" / "hostile").glob("*/*"))


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_files_are_answered(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS[name]
    monkeypatch.chdir(tmp_path)
    first = 10_000_000  # cases that `make fuzz` does not come to
    accepted = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(first, first + CASES * target.share // 100):
            content = target.generate(Random(f"{name}/{number}"))
            if number - first < fuzz.WARM_UP:
                target(content, tmp_path)
            accepted += fuzz.check(target, content, tmp_path)
    assert accepted, "all refused: what is generated is nowhere near valid, and tests nothing"


@pytest.mark.parametrize("find", FINDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_once_found_stays_mended(find: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    target = TARGETS[find.parent.name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target(find.read_bytes(), tmp_path)
        fuzz.check(target, find.read_bytes(), tmp_path, measure=True)


@pytest.mark.parametrize("scene", range(len(resumed.SCENES)))
def test_every_trap_for_a_run_that_goes_on(scene: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = resumed.journal(Random(0))
    TARGETS["journal"](content, tmp_path)  # imports what it needs
    for text in (resumed.whole(), b"", b"{}\n"):
        fuzz.check(TARGETS["journal"], bytes([scene]) + text, tmp_path)


def _target(read: object) -> Target:
    return Target("toy", lambda rng: b"", read, 0, 1)  # type: ignore[arg-type]


def _runs_code(content: bytes, folder: Path) -> None:
    import os

    os.system("true")


def _leaves_the_folder(content: bytes, folder: Path) -> None:
    Path("/etc/hostname").read_bytes()


def _hoards(content: bytes, folder: Path) -> None:
    bytearray(8 << 20)


def _hangs(content: bytes, folder: Path) -> None:
    while True:
        pass


def _lets_an_error_out(content: bytes, folder: Path) -> None:
    raise KeyError("a")


@pytest.mark.parametrize("read", [_runs_code, _leaves_the_folder, _hoards, _hangs, _lets_an_error_out])
def test_the_guards_see_what_they_are_for(read: object, tmp_path: Path) -> None:
    target = _target(read)
    with pytest.raises((Breach, KeyError)), time_limit(0.5), bounded_memory(target.most_memory(b"")), watched(tmp_path):
        target(b"", tmp_path)
