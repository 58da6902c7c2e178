"""LoRA files for tests: by names and shapes alone, or with numbers in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

import torch

from daremerge_core import MemoryModel
from daremerge_core.testing.layouts import HeaderModel, load
from daremerge_core.values import TensorMeta
from daremerge_lora.formats import LoraFile, Writable, open_lora, tensor_name
from daremerge_lora.modules import Target

__all__ = ["changes", "checkpoint", "headers", "numbers", "plain"]


def headers(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F16") -> HeaderModel:
    """A model of these tensors, without data."""
    return HeaderModel({key: TensorMeta(key, dtype, tuple(shape)) for key, shape in shapes.items()})


@cache
def checkpoint(name: str) -> HeaderModel:
    """A real checkpoint's headers."""
    return HeaderModel(load(name))


def numbers(
    shapes: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, str] | None = None,
    *,
    alpha: float = 4.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> MemoryModel:
    """A model of these tensors, filled at random; those called ``….alpha`` with ``alpha``."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        key: torch.full(shape, alpha) if key.endswith(".alpha") else torch.randn(shape, generator=generator)
        for key, shape in shapes.items()
    }
    return MemoryModel({key: tensor.to(dtype) for key, tensor in tensors.items()}, metadata)


def plain(
    format: Writable, modules: Iterable[tuple[str, tuple[int, ...]]], rank: int = 4, *, alpha: bool = True
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a plain LoRA over modules with these names and weights' shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out, inside, *kernel) in modules:
        shapes[tensor_name(format, name, "down")] = (rank, inside, *kernel)
        shapes[tensor_name(format, name, "up")] = (out, rank, *(1 for _ in kernel))
        if alpha and format != "diffusers":
            shapes[tensor_name(format, name, "alpha")] = ()
    return shapes


def changes(model: HeaderModel, named: Iterable[tuple[str, Target]]) -> LoraFile:
    """A LoRA that changes these targets of a checkpoint, as whole differences."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, target in named:
        shape = list(model.meta(target.key).shape)
        if target.rows is not None:
            shape[0] = target.rows[1] - target.rows[0]
        shapes[f"{name}.diff"] = tuple(reversed(shape) if target.transposed else shape)
    return open_lora(headers(shapes))
