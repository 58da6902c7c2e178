"""Names, dtypes and shapes of real checkpoints, without their weights.

For tests and benchmarks that must meet what users have: whole files as their makers published them (fp16 for the
Stable Diffusion models; bf16 and fp16 for Flux), each as gzipped JSON ``{name: [dtype, shape]}``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from ...values import Span, TensorMeta

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NAMES", "HeaderModel", "load"]

NAMES: tuple[str, ...] = ("sd15", "sdxl", "sd3", "flux-dev")
"""The checkpoints there are."""


def load(name: str) -> dict[str, TensorMeta]:
    """Every tensor of a checkpoint of :data:`NAMES`, in the order of its file; ``KeyError`` for another name."""
    if name not in NAMES:
        raise KeyError(f"no layout {name!r}; there are {', '.join(NAMES)}")
    packed = files(__package__).joinpath(f"{name}.json.gz").read_bytes()
    tensors = json.loads(gzip.decompress(packed))
    return {key: TensorMeta(key, dtype, tuple(shape)) for key, (dtype, shape) in tensors.items()}


class HeaderModel:
    """A model that has headers and no data: for what must be known, or go wrong, before any data is read."""

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
