"""Merges of whole checkpoints in less memory than one of them takes, cached pages and all."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from daremerge_core.dtypes import nbytes
from daremerge_core.stores import open_model
from daremerge_core.stores.header import encode_header, in_file_order
from daremerge_core.testing import layouts
from daremerge_core.values import TensorMeta

from .caged import Cage, Ended, NoCage, dropped_from_cache

__all__ = ["MERGES", "check", "is_in_memory", "make", "merged"]

LIMIT = 2 << 30
"""Bytes of memory. An SDXL checkpoint in fp16 has 6.9 GB."""
SPARE = 4 << 30
"""Bytes of disk that are left free."""
POOL = 1 << 24
"""Random numbers that the weights are made of, over and over."""
MERGES: Mapping[str, Sequence[str]] = {
    "lerp": ("lerp", "{a}", "{b}"),
    "dare": ("dare", "{a}", "{b}", "--base", "{base}"),
    "ties": ("ties", "{a}", "{b}", "--base", "{base}"),
}
"""Words of the command line: one that reads two models, one with random numbers, and one that measures first."""


def make(folder: Path, metas: Sequence[TensorMeta]) -> dict[str, Path]:
    """A base and two fine-tunes of it."""
    made = torch.Generator().manual_seed(0)
    base = torch.randn(POOL, generator=made) * 0.03
    pools = {"base": base, **{name: base + 0.002 * torch.randn(POOL, generator=made) for name in "ab"}}
    files = {}
    for name, pool in pools.items():
        data = memoryview(pool.half().numpy()).cast("B")
        files[name] = folder / f"{name}.safetensors"
        with files[name].open("wb") as file:
            file.write(encode_header(in_file_order(metas), {}))
            left = sum(nbytes(meta.dtype, meta.numel) for meta in metas)
            while left:
                left -= file.write(data[: min(left, len(data))])
    return files


def merged(cage: Cage, method: str, files: Mapping[str, Path], out: Path, *options: str) -> Ended:
    """Merge in a cage, from files of which the system holds nothing in memory."""
    for path in files.values():
        dropped_from_cache(path)
    words = [word.format(**files) for word in MERGES[method]]
    command = [sys.executable, "-m", "daremerge_core.cli", "merge", *words, "-o", str(out), "--quiet", *options]
    return cage.run(command)


def check(folder: Path, limit: int = LIMIT) -> bool:
    """Merge by each of :data:`MERGES` within the limit, and print what it took; whether all was well.

    Where the disk has no room for four SDXL checkpoints, they have as many of its tensors as fit.
    """
    metas = _that_fit(shutil.disk_usage(folder).free - SPARE)
    size = sum(nbytes(meta.dtype, meta.numel) for meta in metas)
    if size < limit:
        print(f"memory: skipped: {folder} has no room for four files larger than {limit / 1e9:.1f} GB", flush=True)
        return True
    if is_in_memory(folder):
        print(f"memory: skipped: {folder} is itself in memory; name a folder on a disk with --folder", flush=True)
        return True
    try:
        with Cage.of(limit):
            pass
    except NoCage as error:
        print(f"memory: skipped: {error}", flush=True)
        return True
    print(f"memory: three files of {size / 1e9:.1f} GB, in {limit / 1e9:.1f} GB of memory", flush=True)
    files = make(folder, metas)
    out = folder / "out.safetensors"
    well = True
    for method in MERGES:
        with Cage.of(limit) as cage:
            ended = merged(cage, method, files, out)
        print(
            f"  {method}: {'done' if ended.status == 0 else f'ended with {ended.status}'} in {ended.seconds:.0f} s; "
            f"peak {ended.peak / 1e6:,.0f} MB, of which no file stands behind {ended.anonymous / 1e6:,.0f} MB",
            flush=True,
        )
        if ended.status or ended.killed:
            print(ended.said, flush=True)
            well = False
        else:
            with open_model(out) as model:  # checks that the file is as long as its header says
                well &= sorted(model.keys()) == sorted(meta.key for meta in metas)
            out.unlink()
    return well


def _that_fit(free: int) -> list[TensorMeta]:
    """As many tensors of SDXL as fit on the disk four times."""
    found: list[TensorMeta] = []
    for meta in layouts.load("sdxl").values():
        free -= 4 * nbytes(meta.dtype, meta.numel)
        if free < 0:
            break
        found.append(meta)
    return found


def is_in_memory(folder: Path) -> bool:
    """Whether the folder's own files take memory."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return False
    above = [(len(words[1]), words[2]) for words in mounts if folder.resolve().is_relative_to(words[1])]
    return max(above)[1] in ("tmpfs", "ramfs") if above else False
