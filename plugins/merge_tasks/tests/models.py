"""Models of a few tensors for the tests: a base and what others changed of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from daremerge_core import MemoryModel, view

KEY = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"


def deltas(count: int, *shape: int, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) * scale for _ in range(count)]


def merged(component: Any, taus: Sequence[Tensor], *, base: Tensor | None = None, **options: Any) -> Tensor:
    """What a merge of models with these task vectors changes of the base; over a base of zeros nothing is rounded."""
    origin = torch.zeros_like(taus[0]) if base is None else base
    models = [MemoryModel({KEY: origin + tau}) for tau in taus]
    found = view(component(models=models, base=MemoryModel({KEY: origin}), **options)).read(KEY)
    return found - origin


def together(component: Any, tensors: Sequence[Tensor], **options: Any) -> Tensor:
    """A merge of models that needs no base."""
    return view(component(models=[MemoryModel({KEY: one}) for one in tensors], **options)).read(KEY)
