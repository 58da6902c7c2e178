"""A folder in which merges are killed, and what must be true of it afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from daremerge_core.stores import open_model, write_model

__all__ = ["KINDS", "Scene", "Victims"]

ELEMENTS = 60_000
"""Of each of the models' tensors: a tensor is more than one write of a shard."""
LITTER = re.compile(r"\.out\.\d+-[0-9a-f]{8}\.daremerge-partial(-old)?|\.out(\.safetensors)?\.daremerge-resume")
KINDS: Mapping[str, Sequence[str]] = {"file": (), "folder": ("--shard-size", "200KB")}
"""Options that make the output a file, or a folder of shards."""


class Victims:
    """The process that forks merges."""

    def __init__(self) -> None:
        code = Path(__file__).with_name("victims.py")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, **job: Any) -> tuple[int, float]:
        """How a merge ended, negative by a signal, and how many seconds after it was told to."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        status, seconds = json.loads(self._process.stdout.readline())
        return status, seconds

    def close(self) -> None:
        self._process.communicate(timeout=60)

    @classmethod
    @contextmanager
    def hired(cls) -> Iterator[Victims]:
        victims = cls()
        try:
            yield victims
        finally:
            victims.close()


class Scene:
    """Models to merge, and a place for the result: with or without something there before."""

    def __init__(self, folder: Path, victims: Victims, kind: str, *, exchanges: bool = True) -> None:
        self.folder, self.victims, self.kind, self.exchanges = folder, victims, kind, exchanges
        self.place = folder / "place"
        self.out = self.place / ("out" if kind == "folder" else "out.safetensors")
        self._before = folder / "before"
        folder.mkdir(exist_ok=True)
        for seed, name in enumerate(("a", "b", "c")):
            made = torch.Generator().manual_seed(seed)
            tensors = {f"layer.{key}.weight": torch.randn(ELEMENTS, generator=made).half() for key in "pqr"}
            write_model(folder / f"{name}.safetensors", tensors)
        self.clear()
        assert self.merge("c") == 0, self.said()
        self.old = self.content()
        shutil.move(self.out, self._before)
        assert self.merge() == 0, self.said()
        self.new = self.content()
        assert self.old != self.new
        self.steps = self.log()

    def clear(self, *, with_old: bool = False) -> None:
        """An empty place, or one that holds an older merge."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        if with_old:
            copy = shutil.copytree if self._before.is_dir() else shutil.copy
            copy(self._before, self.out)  # type: ignore[operator]

    def merge(self, other: str = "b", *options: str, **job: Any) -> int:
        """Merge model ``a`` with another; the exit status, negative for a signal."""
        return self.timed(other, *options, **job)[0]

    def timed(self, other: str = "b", *options: str, **job: Any) -> tuple[int, float]:
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        words = ["merge", "lerp", *(str(self.folder / f"{name}.safetensors") for name in ("a", other))]
        arguments = [*words, "-o", str(self.out), "--quiet", "--overwrite", "--threads", "2", *KINDS[self.kind]]
        return self.victims.run(
            arguments=[*arguments, *options],
            log=str(log),
            said=str(self.folder / "said"),
            exchanges=self.exchanges,
            **job,
        )

    def log(self) -> list[str]:
        """The steps of the last merge."""
        return (self.folder / "log").read_text().split()

    def said(self) -> str:
        """What the last merge printed."""
        return (self.folder / "said").read_text()

    def content(self) -> dict[str, bytes]:
        """Every file of the result."""
        if self.out.is_dir():
            return {path.name: path.read_bytes() for path in sorted(self.out.iterdir())}
        return {self.out.name: self.out.read_bytes()}

    def assert_whole(self, *, had_old: bool) -> None:
        """What was there before, or all that is new; beside it at most litter; and the next run clears that away."""
        found = self.assert_old_or_new(had_old=had_old)
        long_ago = time.time() - 3600
        for name in found - {self.out.name}:
            os.utime(self.place / name, (long_ago, long_ago))
        assert self.merge() == 0, self.said()
        assert [path.name for path in self.place.iterdir()] == [self.out.name]
        assert self.content() == self.new

    def assert_old_or_new(self, *, had_old: bool) -> set[str]:
        """What was there before, or all that is new, and beside it at most litter; the names of all that is there."""
        found = {path.name for path in self.place.iterdir()}
        strange = {name for name in found - {self.out.name} if not LITTER.fullmatch(name)}
        assert not strange, strange
        if self.out.name in found:
            assert self.content() in ([self.old, self.new] if had_old else [self.new])
            with open_model(self.out) as model:
                assert len(list(model.keys())) == 3
        else:
            assert not had_old or not self.exchanges, "what was there before is gone"
        return found
