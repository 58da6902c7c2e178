"""Merges that are killed, stopped, or get in one another's way. ``make test-crash`` kills them at every step."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("processes are forked and killed as POSIX does it", allow_module_level=True)

from crash.scene import KINDS, Scene, Victims

MOMENTS = 8


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims.hired() as hired:
        yield hired


@pytest.fixture(scope="module", params=list(KINDS))
def scene(request: pytest.FixtureRequest, victims: Victims, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp(request.param), victims, request.param)


def _first_of_each(steps: list[str]) -> list[int]:
    return [steps.index(name) for name in dict.fromkeys(steps)]


def test_the_steps_are_those_that_matter(scene: Scene) -> None:
    assert {"open", "pwrite", "fsync"} <= set(scene.steps)
    assert ("replace" if scene.kind == "file" else "rename") in scene.steps


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("had_old", [False, True], ids=["new", "old"])
def test_killed_at_a_step(scene: Scene, had_old: bool, after: bool) -> None:
    scene.clear(with_old=had_old)
    assert scene.merge() == 0
    for number in _first_of_each(scene.log()):
        scene.clear(with_old=had_old)
        assert scene.merge(die_at=number, after=after) == -signal.SIGKILL
        scene.assert_whole(had_old=had_old)


def test_killed_at_any_moment(scene: Scene) -> None:
    rng = random.Random(0)
    _, whole = scene.timed()
    for number in range(MOMENTS):
        had_old = bool(number % 2)
        scene.clear(with_old=had_old)
        scene.merge(kill_after=rng.uniform(0, 1.2 * whole))
        scene.assert_whole(had_old=had_old)


@pytest.mark.parametrize("had_old", [False, True], ids=["new", "old"])
def test_killed_and_resumed(scene: Scene, had_old: bool) -> None:
    """At every second step of one run after the other, until there is nothing left to do."""
    scene.clear(with_old=had_old)
    killed, number = 0, 0
    while scene.merge("b", "--resume", die_at=number, after=bool(killed % 2)) == -signal.SIGKILL:
        killed, number = killed + 1, number + 2
        scene.assert_old_or_new(had_old=had_old)
    assert killed > 3
    assert [path.name for path in scene.place.iterdir()] == [scene.out.name]
    assert scene.content() == scene.new


def test_what_was_finished_before_a_kill_is_not_written_again(scene: Scene) -> None:
    scene.clear()
    assert scene.merge("b", "--resume") == 0
    steps = scene.log()
    last = max(number for number, name in enumerate(steps) if name == "pwrite")
    scene.clear()
    assert scene.merge("b", "--resume", "--threads", "1", die_at=last) == -signal.SIGKILL
    assert scene.merge("b", "--resume") == 0
    headers = 1 if scene.kind == "file" else 3
    assert scene.log().count("pwrite") == headers + 1
    assert "kept from an interrupted run" in scene.said()
    assert scene.content() == scene.new


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed(scene: Scene, sent: signal.Signals) -> None:
    scene.clear(with_old=True)
    # The header is written first, and slowly; then each piece is.
    status, _ = scene.timed("b", "--resume", signal=int(sent), after_writes=3 if scene.kind == "file" else 5, slow=0.3)
    assert status == 130
    assert "--resume" in scene.said()
    assert scene.content() == scene.old
    status = scene.merge("b")
    assert status == 0
    assert "--resume would go on" in scene.said()
    assert [path.name for path in scene.place.iterdir()] == [scene.out.name]


def test_the_check_sees_half_a_file(scene: Scene) -> None:
    scene.clear(with_old=True)
    [path, *_] = scene.out.iterdir() if scene.kind == "folder" else [scene.out]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AssertionError):
        scene.assert_whole(had_old=True)
    scene.clear()
    (scene.place / "out.safetensors.tmp").touch()
    with pytest.raises(AssertionError):
        scene.assert_whole(had_old=False)


def test_where_two_paths_cannot_change_places(victims: Victims, tmp_path: Path) -> None:
    """A kill between the two renames leaves the old folder aside, and the next run puts it back first."""
    scene = Scene(tmp_path, victims, "folder", exchanges=False)
    scene.clear(with_old=True)
    assert scene.merge() == 0
    steps = scene.log()
    assert [path.name for path in scene.place.iterdir()] == ["out"]
    aside = max(number for number, name in enumerate(steps) if name == "rename") - 1
    assert steps[aside] == "rename"
    scene.clear(with_old=True)
    assert scene.merge(die_at=aside, after=True) == -signal.SIGKILL
    assert not scene.out.exists()
    assert any(path.name.endswith("-old") for path in scene.place.iterdir())
    assert scene.merge("b", die_at=0) == -signal.SIGKILL  # the first step of the next: nothing is written yet
    scene.assert_whole(had_old=True)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stopped(scene: Scene, sent: signal.Signals) -> None:
    scene.clear(with_old=True)
    status, seconds = scene.timed(signal=int(sent), slow=0.3)
    assert status == 130
    assert seconds < 10  # about one slow write
    assert "nothing was written" in scene.said()
    assert [path.name for path in scene.place.iterdir()] == [scene.out.name]
    assert scene.content() == scene.old


@pytest.mark.parametrize("same", [True, False], ids=["one path", "one folder"])
def test_two_at_once(scene: Scene, tmp_path: Path, same: bool) -> None:
    """Neither takes the other's partial file for litter; each leaves a whole file, the later one last."""
    scene.clear()
    with Victims.hired() as others, ThreadPoolExecutor(2) as pool:
        other = Scene(tmp_path, others, scene.kind)
        other.place = scene.place
        if same:
            other.out = scene.out
        else:
            other.out = scene.out.with_name(f"other{scene.out.suffix}")
        for _ in range(3):
            running = [pool.submit(one.merge, slow=0.02) for one in (scene, other)]
            assert [one.result() for one in running] == [0, 0], (scene.said(), other.said())
            assert {path.name for path in scene.place.iterdir()} == {scene.out.name, other.out.name}
            assert list(other.content().values()) in [list(one.new.values()) for one in (scene, other)]
            assert list(scene.content().values()) in [list(one.new.values()) for one in (scene, other)]


def test_a_folder_that_is_being_written_is_not_swept_as_old(scene: Scene) -> None:
    """Its own process holds it, however old it looks."""
    scene.clear()
    (scene.folder / "log").unlink()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(scene.merge, slow=0.2)
        while "pwrite" not in ("".join(scene.log()) if (scene.folder / "log").exists() else ""):  # by then it is locked
            pass
        found = [path for path in scene.place.iterdir() if path.name.startswith(".out.")]
        assert found
        for path in found:
            os.utime(path, (0, 0))
        from daremerge_core.stores.atomic import Partial

        Partial(scene.out, folder=scene.kind == "folder").remove()
        assert all(path.exists() for path in found)
        assert running.result() == 0
