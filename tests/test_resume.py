"""``--resume``: a merge that was interrupted, however often, ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_engine import DARE, STEPS, recipe

from daremerge_core import engine
from daremerge_core.api import merge_recipe, plan_recipe, run_plan
from daremerge_core.engine import Settings, Summary
from daremerge_core.errors import Interrupted, OutputError
from daremerge_core.stores import open_model, write_model
from daremerge_core.stores.journal import Finished, Journal, Piece, kept_beside

MASK = {"op": "mask.magnitude", "model": "a", "base": "base", "threshold": 0.5}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SPAN", 16)
    monkeypatch.setattr(engine, "LOOP_SPAN", 16)
    monkeypatch.setattr(engine, "TASK", 48)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Piece]:
    """The pieces that are computed, as they are begun."""
    pieces: list[Piece] = []
    whole = engine._write
    monkeypatch.setattr(engine, "_write", lambda *args: pieces.append(args[2].piece) or whole(*args))
    return pieces


def merge(models: SimpleNamespace, step: dict[str, Any], *, name: str = "out", **options: Any) -> Summary:
    path = models.folder / name
    output = {"shard_size": "500B"} if not path.suffix else {}
    return merge_recipe(
        recipe(step, **output), path, folder=models.folder, resume=options.pop("resume", True), **options
    )


def interrupted(models: SimpleNamespace, step: dict[str, Any], after: int, **options: Any) -> bool:
    """Run until so many more pieces are begun; whether that stopped it."""
    cancel = threading.Event()
    begun: list[Piece] = []
    whole = engine._write

    def write(*args: Any) -> None:
        begun.append(args[2].piece)
        if len(begun) > after:
            cancel.set()
        whole(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_write", write)
        try:
            merge(models, step, cancel=cancel, settings=Settings(threads=1), **options)
        except Interrupted:
            return True
    return False


def content(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files}


def left(models: SimpleNamespace) -> list[str]:
    return sorted(path.name for path in models.folder.iterdir() if "daremerge" in path.name)


@pytest.mark.parametrize(
    ("step", "name"), [*((step, "out.safetensors") for step in [*STEPS, MASK]), *((step, "out") for step in STEPS)]
)
def test_interrupted_again_and_again(
    models: SimpleNamespace, step: dict[str, Any], name: str, written: list[Piece]
) -> None:
    os.mkdir(models.folder / "whole")
    expected = merge(models, step, name=f"whole/{name}", resume=False)
    pieces = sorted(map(repr, written))
    written.clear()
    stops = 0
    while interrupted(models, step, max(len(pieces) // 5, 1), name=name):
        stops += 1
        assert not (models.folder / name).exists()
    assert stops >= 3
    assert content(models.folder / name) == content(models.folder / "whole" / name)
    assert left(models) == []
    # A piece that was begun and not finished is begun again, and no other: one worker has one at a time.
    assert len(written) <= len(pieces) + stops
    assert sorted({repr(piece) for piece in written}) == pieces
    assert expected.bytes_kept == 0


def test_a_finished_piece_is_not_made_again(models: SimpleNamespace, written: list[Piece]) -> None:
    assert interrupted(models, DARE, 5)
    written.clear()
    summary = merge(models, DARE)
    assert summary.bytes_kept > 0
    with open_model(models.folder / "out") as model:
        everything = sum(model.meta(key).numel for key in model.keys())
    assert 0 < sum(piece.numel for piece in written) < everything
    assert left(models) == []


def _other_recipe(models: SimpleNamespace) -> dict[str, Any]:
    return {**DARE, "drop_rate": 0.25}


def _other_input(models: SimpleNamespace) -> dict[str, Any]:
    path = models.folder / "b.safetensors"
    with open_model(path) as model:
        tensors = {key: model.read(key).clone() for key in model.keys()}
        metadata = dict(model.metadata)
    first = next(key for key, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel())
    tensors[first].view(-1)[0] += 1
    write_model(path, tensors, metadata, overwrite=True)
    return DARE


def _other_version(models: SimpleNamespace) -> dict[str, Any]:
    [journal] = (models.folder / ".out.daremerge-resume").glob("journal.jsonl")
    text = journal.read_text()
    first = json.loads(text.partition("\n")[0])
    first["made_with"]["daremerge-core"] = "0.0.1"
    journal.write_text(json.dumps(first) + "\n" + text.partition("\n")[2])
    return DARE


def _other_layout(models: SimpleNamespace) -> dict[str, Any]:
    for name in ("a", "b", "base"):
        path = models.folder / f"{name}.safetensors"
        with open_model(path) as model:
            tensors = {key: model.read(key).clone() for key in model.keys()}
        write_model(path, {**tensors, "one.more.weight": torch.ones(4)}, overwrite=True)
    return DARE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_recipe, "recipe.steps.merged.drop_rate was 0.5, and is 0.25"),
        (_other_input, "inputs.b.identity was 'blake3:"),
        (_other_version, "made_with.daremerge-core was '0.0.1'"),
        (_other_layout, "tensors was 'blake3:"),
    ],
)
def test_refused_when_something_changed(
    models: SimpleNamespace,
    change: Callable[[SimpleNamespace], dict[str, Any]],
    said: str,
) -> None:
    """And what was kept stays as it was: after the change is taken back, it goes on."""
    assert interrupted(models, DARE, 5)
    inputs = {path: path.read_bytes() for path in models.folder.glob("*.safetensors")}
    kept = {path: path.read_bytes() for path in models.folder.rglob("*") if path.is_file() and path not in inputs}
    step = change(models)
    with pytest.raises(OutputError) as refused:
        merge(models, step)
    assert said in str(refused.value)
    assert ".out.daremerge-resume" in str(refused.value)
    partials = {path: data for path, data in kept.items() if path.name != "journal.jsonl"}
    assert partials
    assert {path: path.read_bytes() for path in partials} == partials
    for path, data in (inputs | kept).items():
        path.write_bytes(data)
    assert merge(models, DARE).bytes_kept > 0


def test_a_piece_that_was_damaged_is_made_again(models: SimpleNamespace, written: list[Piece]) -> None:
    merge(models, DARE, name="whole.safetensors", resume=False)
    written.clear()
    assert interrupted(models, DARE, 5, name="out.safetensors")
    partial = models.folder / ".out.safetensors.daremerge-resume" / "partial"
    data = bytearray(partial.read_bytes())
    for at in range(len(data) // 2, len(data)):
        data[at] ^= 1
    partial.write_bytes(data)
    merge(models, DARE, name="out.safetensors")
    assert (models.folder / "out.safetensors").read_bytes() == (models.folder / "whole.safetensors").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: text.replace(b'"span"', b'"spam"'),
        lambda text: text[5:],
        lambda text: b"",
        lambda text: text.replace(b"\n", b"\n[1]\nnull\n{}\n\xff\n"),
        lambda text: text.replace(b'"journal":1', b'"journal":2'),
        lambda text: b"[" * 100_000 + text,
        lambda text: text.replace(b'"nonfinite":0', b'"nonfinite":"0"'),
    ],
)
def test_a_journal_that_was_damaged(models: SimpleNamespace, damage: Callable[[bytes], bytes]) -> None:
    merge(models, DARE, name="whole.safetensors", resume=False)
    assert interrupted(models, DARE, 5, name="out.safetensors")
    journal = models.folder / ".out.safetensors.daremerge-resume" / "journal.jsonl"
    journal.write_bytes(damage(journal.read_bytes()))
    assert interrupted(models, DARE, 3, name="out.safetensors")
    merge(models, DARE, name="out.safetensors")
    assert (models.folder / "out.safetensors").read_bytes() == (models.folder / "whole.safetensors").read_bytes()
    assert left(models) == []


def test_interrupted_before_anything_is_finished_leaves_nothing(models: SimpleNamespace) -> None:
    assert interrupted(models, DARE, 0)
    assert left(models) == []


def test_a_run_without_resume_leaves_it_until_it_has_what_was_wanted(models: SimpleNamespace) -> None:
    assert interrupted(models, DARE, 5)
    assert kept_beside(models.folder / "out")
    assert interrupted(models, DARE, 5, resume=False)
    assert kept_beside(models.folder / "out")
    assert merge(models, DARE, resume=False).bytes_kept == 0
    assert left(models) == []


def test_the_digest_of_what_is_kept_and_written(models: SimpleNamespace) -> None:
    settings = Settings(sha256=True)
    expected = merge(models, DARE, name="whole.safetensors", resume=False, settings=settings)
    assert interrupted(models, DARE, 5, name="out.safetensors")
    summary = merge(models, DARE, name="out.safetensors", settings=settings)
    assert list(summary.sha256.values()) == list(expected.sha256.values())


def test_what_was_found_in_a_piece_is_remembered(tmp_path: Path, written: list[Piece]) -> None:
    values = torch.full((480,), 70_000.0)
    values[::7] = float("nan")
    for name in ("a", "b", "base"):
        write_model(tmp_path / f"{name}.safetensors", {f"{key}.weight": values for key in "pqr"})
    models = SimpleNamespace(folder=tmp_path)
    made = {"op": "merge.lerp", "a": "a", "b": "b"}

    def run(name: str, **options: Any) -> Summary:
        spoken = recipe(made, dtype="fp16")
        with plan_recipe(spoken, folders=[tmp_path]) as plan:
            return run_plan(plan, tmp_path / name, settings=Settings(threads=1), **options)

    expected = run("whole.safetensors")
    assert expected.overflowed
    written.clear()
    cancel = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        whole = engine._write
        patch.setattr(engine, "_write", lambda *args: (len(written) > 12 and cancel.set()) or whole(*args))
        with pytest.raises(Interrupted):
            run("out.safetensors", resume=True, cancel=cancel)
    summary = run("out.safetensors", resume=True)
    assert summary.bytes_kept
    assert (summary.nonfinite, summary.overflowed) == (expected.nonfinite, expected.overflowed)
    assert left(models) == []


def test_one_run_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    with Journal(target) as first:
        with pytest.raises(OutputError, match="another run with --resume"):
            Journal(target)
        first.partial.touch()
        first.begin({"recipe": {}})
        first.add(Piece("x", 0, 1), Finished("0" * 64, 0, 0))
    with Journal(target) as second:
        assert second.finished == {Piece("x", 0, 1): Finished("0" * 64, 0, 0)}


def test_long_names_do_not_share_a_folder(tmp_path: Path) -> None:
    names = ["x" * 240 + "a", "x" * 240 + "b"]
    folders = set()
    for name in names:
        with Journal(tmp_path / name) as journal:
            folders.add(journal.folder)
    assert len(folders) == 2


@pytest.mark.parametrize("trap", ["folder", "partial", "shard", "finished shard", "something else"])
def test_links_in_a_folder_of_shards_are_not_followed(models: SimpleNamespace, tmp_path: Path, trap: str) -> None:
    """Nor removed with what they lead to: whoever guesses the folder's name can put them there."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"somebody's own")
    assert interrupted(models, DARE, 5)
    kept = models.folder / ".out.daremerge-resume"
    [shard, *_] = sorted((kept / "partial").iterdir())
    place, there = {
        "folder": (kept, elsewhere),
        "partial": (kept / "partial", elsewhere),
        "shard": (shard, elsewhere / "precious"),
        "finished shard": (kept / "partial" / shard.name.removeprefix(".").removesuffix(".partial"), elsewhere),
        "something else": (kept / "partial" / "else", elsewhere),
    }[trap]
    if trap in ("folder", "partial"):
        place.rename(tmp_path / "moved")
    else:
        place.unlink(missing_ok=True)
    place.symlink_to(there)
    if trap != "something else":
        with pytest.raises(OutputError, match="cannot be resumed"):
            merge(models, DARE)
        kept.unlink() if kept.is_symlink() else shutil.rmtree(kept)  # as the hint says
    merge(models, DARE)
    assert [(path.name, path.read_bytes()) for path in elsewhere.iterdir()] == [("precious", b"somebody's own")]
    merge(models, DARE, name="whole")
    assert content(models.folder / "out") == content(models.folder / "whole")


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "chown") or os.geteuid() != 0:
        pytest.skip("files can be given away by an administrator alone")
    folder = tmp_path / ".out.safetensors.daremerge-resume"
    folder.mkdir()
    os.chown(folder, 12345, -1)
    with pytest.raises(OutputError, match="belongs to somebody else"):
        Journal(tmp_path / "out.safetensors")
    os.chown(tmp_path, 12345, -1)  # who owns the folder above may do anything there
    with Journal(tmp_path / "out.safetensors"):
        pass


def test_a_journal_without_end_is_not_held_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / ".out.safetensors.daremerge-resume"
    folder.mkdir()
    with (folder / "journal.jsonl").open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    try:
        with Journal(tmp_path / "out.safetensors") as journal:
            assert journal.finished == {}
        assert tracemalloc.get_traced_memory()[1] < 1 << 28
    finally:
        tracemalloc.stop()
    assert not folder.exists()
