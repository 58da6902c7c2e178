"""What is in checkpoints as their makers published them: names, dtypes and shapes, without the weights.

Whole files (fp16 for the Stable Diffusion models; bf16 and fp16 for Flux), each as gzipped JSON
``{name: [dtype, shape]}``. A report says by them what a file lacks; tests and benchmarks meet by them what users have.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from ...values import Span, TensorMeta

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

__all__ = ["NAMES", "HeaderModel", "load", "published"]

NAMES: tuple[str, ...] = ("sd15", "sdxl", "sd3", "flux-dev")
"""The checkpoints there are."""

_OF_ARCHITECTURE = {"sd15": "sd15", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux-dev"}


def load(name: str) -> dict[str, TensorMeta]:
    """Every tensor of a checkpoint of :data:`NAMES`, in the order of its file; ``KeyError`` for another name."""
    if name not in NAMES:
        raise KeyError(f"no layout {name!r}; there are {', '.join(NAMES)}")
    from importlib.resources import files

    packed = files(__package__).joinpath(f"{name}.json.gz").read_bytes()
    tensors = json.loads(gzip.decompress(packed))
    return {key: TensorMeta(key, dtype, tuple(shape)) for key, (dtype, shape) in tensors.items()}


@cache
def published(arch: str) -> Mapping[str, TensorMeta] | None:
    """The published checkpoint of an architecture (:attr:`Layout.arch`), or None where none is known."""
    name = _OF_ARCHITECTURE.get(arch)
    return None if name is None else MappingProxyType(load(name))


class HeaderModel:
    """A model that has headers and no data: for what is known, or must go wrong, before any data is read."""

    def __init__(self, metas: Mapping[str, TensorMeta]) -> None:
        """``metas``: such as :func:`load` gives."""
        self._metas = dict(metas)

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    def keys(self) -> Sequence[str]:
        return list(self._metas)

    def meta(self, key: str) -> TensorMeta:
        return self._metas[key]

    def read(self, key: str, span: Span | None = None) -> Tensor:
        raise AssertionError("only headers may be read here")

    def close(self) -> None: ...
