"""Checkpoints with the names, shapes and dtypes of real ones and random weights: a base and two fine-tunes of it.

What a merge costs depends on how many tensors of what shapes there are, not on what they say, so nothing has to be
downloaded. Each file is streamed: a few megabytes of memory, whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from daremerge_core.dtypes import FLOATS, torch_dtype
from daremerge_core.stores.writer import SafetensorsWriter
from daremerge_core.testing import layouts, tiny
from daremerge_core.values import TensorMeta

LAYOUTS = ("sd15", "sdxl", "tiny")
"""Checkpoints that can be made: 2.1 GB, 6.9 GB and a few kilobytes a file, in fp16."""

CHUNK = 1 << 22
"""Elements made at a time."""
WEIGHT, DELTA = 0.03, 0.002
"""Standard deviation of the base's weights, and of how far a fine-tune moved them."""


@dataclass(frozen=True)
class Checkpoints:
    """The files of one layout."""

    base: Path
    a: Path
    b: Path

    def __getitem__(self, name: str) -> Path:
        return {"base": self.base, "a": self.a, "b": self.b}[name]


def tensors_of(layout: str) -> dict[str, TensorMeta]:
    """Every tensor of one of :data:`LAYOUTS`, with the int64 ``position_ids`` that many files in use still carry."""
    if layout == "tiny":
        model = tiny.tiny_model(dtype=torch.float16)
        return {key: model.meta(key) for key in model.keys()}
    found = layouts.load(layout)
    for meta in list(found.values()):
        if meta.key.endswith("embeddings.position_embedding.weight"):
            key = meta.key.removesuffix("position_embedding.weight") + "position_ids"
            found.setdefault(key, TensorMeta(key, "I64", (1, meta.shape[0])))
    return found


def checkpoints(layout: str, data: Path) -> Checkpoints:
    """The checkpoints of a layout in ``data/<layout>``, made if they are not there yet."""
    folder = data / layout
    files = Checkpoints(*(folder / f"{name}.safetensors" for name in ("base", "a", "b")))
    if not all(path.exists() for path in (files.base, files.a, files.b)):
        folder.mkdir(parents=True, exist_ok=True)
        generate(tensors_of(layout), files)
    return files


def generate(tensors: Mapping[str, TensorMeta], files: Checkpoints, *, seed: int = 0) -> None:
    """Write all three files: the same bytes for the same seed. A file is at its path only when it is complete.

    Normal numbers come from one pool, read from a random place for each chunk: as good as fresh ones for timing, and
    as quick as a copy.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(4 * CHUNK, generator=generator)

    def normal(count: int) -> torch.Tensor:
        start = int(torch.randint(0, len(pool) - count + 1, (), generator=generator))
        return pool[start : start + count]

    with ExitStack() as stack:
        sinks = [
            stack.enter_context(SafetensorsWriter(path, list(tensors.values()), {"format": "pt"}, overwrite=True))
            for path in (files.base, files.a, files.b)
        ]
        for meta in tensors.values():
            dtype = torch_dtype(meta.dtype)
            for start in range(0, meta.numel, CHUNK):
                count = min(CHUNK, meta.numel - start)
                if meta.dtype in FLOATS:
                    base = WEIGHT * normal(count)
                    values = [base, base + DELTA * normal(count), base + DELTA * normal(count)]
                else:
                    values = [torch.arange(start, start + count)] * 3
                for sink, value in zip(sinks, values, strict=True):
                    sink.write(meta.key, start, value.to(dtype))
        for sink in sinks:
            sink.commit()
