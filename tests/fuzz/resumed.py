"""What an interrupted run left, as somebody hostile would leave it: a journal, and links in the place of files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from .spelling import mutated, spelt, tree

__all__ = ["SCENES", "journal", "resume", "whole"]

_RECIPE = {
    "models": {"a": "a.safetensors", "b": "b.safetensors"},
    "steps": {"merged": {"op": "merge.lerp", "a": "a", "b": "b", "ratio": 0.5}},
    "output": "merged",
}
_TARGET = "out.safetensors"
_PRECIOUS = b"somebody's own file"


class _Left(NamedTuple):
    """What a run leaves that was interrupted at its very end."""

    lines: tuple[dict[str, Any], ...]
    """Of its journal."""
    partial: bytes
    models: Mapping[str, bytes]


@cache
def _left() -> _Left:
    from blake3 import blake3

    from daremerge_core.stores import SafetensorsFile
    from daremerge_core.stores.journal import layout_digest

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _models(folder)
        with _plan(folder) as plan:
            summary = _merge(plan, folder, resume=False)
            made = plan.provenance(summary.identities) | {"tensors": layout_digest(plan.tensors)}
        lines: list[dict[str, Any]] = [{"journal": 1, **made}]
        partial = (folder / _TARGET).read_bytes()
        with SafetensorsFile(folder / _TARGET) as model:
            lines += [
                {
                    "tensor": key,
                    "span": [0, model.meta(key).numel],
                    "blake3": blake3(model.read(key).numpy().tobytes()).hexdigest(),
                    "nonfinite": 0,
                    "overflowed": 0,
                }
                for key in model.keys()
            ]
        return _Left(tuple(lines), partial, {path.name: path.read_bytes() for path in folder.glob("[ab].*")})


def _models(folder: Path) -> None:
    import torch

    from daremerge_core.testing.fixtures import save

    for number, name in enumerate("ab"):
        tensors = {key: torch.full((6,), float(number + at)) for at, key in enumerate(("x", "y.attn", "z"))}
        save(folder / f"{name}.safetensors", tensors)


@cache
def _catalog() -> Any:
    from daremerge_core.catalog import discover

    return discover()


def _plan(folder: Path) -> Any:
    from daremerge_core.api import plan_recipe

    return plan_recipe(_RECIPE, catalog=_catalog(), folders=[folder])


def _merge(plan: Any, folder: Path, *, resume: bool) -> Any:
    from daremerge_core.api import run_plan
    from daremerge_core.engine import Settings

    settings = Settings(threads=1)
    return run_plan(plan, folder / _TARGET, catalog=_catalog(), overwrite=True, settings=settings, resume=resume)


# --- scenes ----------------------------------------------------------------------------------------------------


def _plain(kept: Path, outside: Path) -> None:
    pass


def _in_its_place(name: str, make: Callable[[Path, Path], object]) -> Callable[[Path, Path], None]:
    """A scene with something else under a name in the folder; ``""`` for the folder itself."""

    def scene(kept: Path, outside: Path) -> None:
        path = kept / name if name else kept
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path, outside)

    return scene


def _links_within(path: Path, outside: Path) -> None:
    path.mkdir()
    (path / "out").symlink_to(outside)
    (path / "again").symlink_to(path)
    (path / "too").symlink_to(path)


_MADE: tuple[Callable[[Path, Path], object], ...] = (
    lambda path, outside: path.symlink_to(outside),
    lambda path, outside: path.symlink_to(outside / "precious"),
    lambda path, outside: path.symlink_to(outside / "missing"),
    lambda path, outside: path.symlink_to(outside / "missing" / "too"),
    lambda path, outside: path.symlink_to(path),
    lambda path, outside: os.link(outside / "precious", path),
    lambda path, outside: os.mkfifo(path),
    lambda path, outside: path.write_bytes(b"x"),
    _links_within,
    lambda path, outside: None,
)
SCENES = (_plain, *(_in_its_place(name, make) for name in ("", "partial", "journal.jsonl") for make in _MADE))


def journal(rng: Random) -> bytes:
    """A byte that says what lies in the place of which file, and the text of a journal."""
    scene = 0 if rng.random() < 0.5 else rng.randrange(len(SCENES))
    lines = [spelt(mutated(rng, tree(line), rng.choice((0, 0, 1, 2)))) for line in _left().lines]
    if rng.random() < 0.3:
        lines.insert(rng.randint(0, len(lines)), rng.choice(("", "null", "[]", "{}", '{"journal":1}', "[" * 3000)))
    content = "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        at = rng.randrange(len(content))
        content = content[:at] + rng.choice((b"", b"\xff", b"\0", b"\n", content[:at])) + content[at + 1 :]
    return bytes([scene]) + content


def whole() -> bytes:
    """The journal as the run left it."""
    return "".join(spelt(tree(line)) + "\n" for line in _left().lines).encode()


def resume(content: bytes, folder: Path) -> None:
    """Go on with it, and without it: the result is that of a run from the beginning, or a message."""
    left, case, outside = _left(), folder / "case", folder / "outside"
    for path in (case, outside):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    (outside / "precious").write_bytes(_PRECIOUS)
    for name, data in left.models.items():
        (case / name).write_bytes(data)
    kept = case / f".{_TARGET}.daremerge-resume"
    kept.mkdir()
    (kept / "partial").write_bytes(left.partial)
    (kept / "journal.jsonl").write_bytes(content[1:])
    SCENES[content[0] % len(SCENES) if content else 0](kept, outside)
    try:
        _merged(case, left.partial, resume=True)
    finally:
        assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"precious": _PRECIOUS}
        _merged(case, left.partial, resume=False)  # which needs nothing of what lies there
        assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"precious": _PRECIOUS}


def _merged(case: Path, expected: bytes, *, resume: bool) -> None:
    with _plan(case) as plan:
        _merge(plan, case, resume=resume)
    # What is in a piece may be a lie with the right checksum of it; but nobody lied so here.
    assert (case / _TARGET).read_bytes() == expected
