"""Tensors computed into memory, for programs that go on with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .. import dtypes
from ..values import TensorMeta
from .tensors import raw_bytes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MemorySink"]

_Self = TypeVar("_Self", bound="MemorySink")


class MemorySink:
    """A :class:`~daremerge_core.stores.sink.Sink` whose output is a dict of contiguous tensors in CPU memory."""

    def __init__(self, tensors: Sequence[TensorMeta]) -> None:
        import torch

        self.tensors: dict[str, Tensor] = {
            meta.key: torch.empty(meta.shape, dtype=dtypes.torch_dtype(meta.dtype)) for meta in tensors
        }
        """Complete after :meth:`commit`; empty after :meth:`abort`."""
        self.metadata: Mapping[str, str] = {}
        self._flat = {key: tensor.view(-1) for key, tensor in self.tensors.items()}
        self._committed = False

    @property
    def digests(self) -> Mapping[Path, str]:
        """None: there is no file."""
        return {}

    def write(self, key: str, start: int, elements: Tensor) -> None:
        flat = elements.reshape(-1)
        self._flat[key][start : start + flat.numel()] = flat

    def write_raw(self, key: str, start: int, data: memoryview) -> None:
        first = start * self._flat[key].element_size()
        raw_bytes(self._flat[key])[first : first + data.nbytes] = data

    def describe(self, metadata: Mapping[str, str], *, sha256: bool = False) -> None:
        self.metadata = dict(metadata)

    def commit(self) -> list[Path]:
        self._committed = True
        return []

    def abort(self) -> None:
        if not self._committed:
            self.tensors, self._flat = {}, {}

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()
