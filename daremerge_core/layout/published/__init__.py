"""What is in checkpoints as their makers published them: names, dtypes and shapes, without the weights.

Whole files (fp16 for the Stable Diffusion models; bf16 and fp16 for Flux), each as gzipped JSON
``{name: [dtype, shape]}``. A report says by them what a file lacks; tests and benchmarks meet by them what users have.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING

from ...values import TensorMeta

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NAMES", "load", "published"]

NAMES: tuple[str, ...] = ("sd15", "sdxl", "sd3", "flux-dev")
"""The checkpoints there are."""

_OF_ARCHITECTURE = {"sd15": "sd15", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux-dev"}


def load(name: str) -> dict[str, TensorMeta]:
    """Every tensor of a checkpoint of :data:`NAMES`, in the order of its file; ``KeyError`` for another name."""
    if name not in NAMES:
        raise KeyError(f"no layout {name!r}; there are {', '.join(NAMES)}")
    packed = files(__package__).joinpath(f"{name}.json.gz").read_bytes()
    tensors = json.loads(gzip.decompress(packed))
    return {key: TensorMeta(key, dtype, tuple(shape)) for key, (dtype, shape) in tensors.items()}


@cache
def published(arch: str) -> Mapping[str, TensorMeta] | None:
    """The published checkpoint of an architecture (:attr:`Layout.arch`), or None where none is known."""
    name = _OF_ARCHITECTURE.get(arch)
    return None if name is None else MappingProxyType(load(name))
