"""A state dict in memory as a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from .. import dtypes
from ..values import Span, TensorMeta
from .tensors import check_span, take

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MemoryModel"]

_Self = TypeVar("_Self", bound="MemoryModel")


class MemoryModel:
    """A model over tensors that already exist. They are not copied, and must not change while it is in use.

    ``tensors`` may be strided, shared or on any device; :meth:`read` gives contiguous ones in CPU memory. Raises
    ``TypeError`` for a tensor that no checkpoint can hold (complex, quantised, sparse), naming it.
    """

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
        self._tensors = {key: tensor.detach() for key, tensor in tensors.items()}
        self._metas = {key: _meta(key, tensor) for key, tensor in self._tensors.items()}
        self._metadata = MappingProxyType(dict(metadata or {}))

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def keys(self) -> Sequence[str]:
        """Tensor names, in the order given."""
        return tuple(self._metas)

    def meta(self, key: str) -> TensorMeta:
        return self._metas[key]

    def read(self, key: str, span: Span | None = None) -> Tensor:
        """A contiguous tensor in CPU memory; a view of the one held where that is possible.

        Raises ``KeyError`` for an unknown key, ``IndexError`` for a span outside it, ``ValueError`` when closed.
        """
        meta = self._metas[key]
        tensor = self._tensors.get(key)
        if tensor is None:
            raise ValueError("this model is closed")
        if span is not None:
            check_span(meta, span)
        return take(tensor, span).resolve_neg().cpu()

    def close(self) -> None:
        """Let go of the tensors; those already read stay valid."""
        self._tensors = {}

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _meta(key: str, tensor: Tensor) -> TensorMeta:
    import torch

    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_nested:
        raise TypeError(f"tensor {key!r} is {tensor.layout} on {tensor.device}: it has no elements in a row to read")
    try:
        return TensorMeta(key, dtypes.dtype_name(tensor.dtype), tuple(tensor.shape))
    except KeyError:
        raise TypeError(f"tensor {key!r} is {tensor.dtype}, which no checkpoint can hold") from None
