"""The few things every store does with a tensor in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeGuard

from ..values import Model, Span, TensorMeta

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Stored", "check_span", "gives_bytes", "raw_bytes", "stored_bytes", "take"]


class Stored(Protocol):
    """A model that can give a tensor's stored bytes as they are, without a tensor: see :func:`gives_bytes`."""

    def raw(self, key: str, span: Span) -> memoryview:
        """The bytes of a span's elements in their stored dtype, little-endian. Never write into them."""
        ...


def gives_bytes(model: object) -> TypeGuard[Stored]:
    """Whether a model is :class:`Stored`. Asked for every span: ``isinstance`` of a protocol takes a hundred times as
    long, and lets no other thread go on meanwhile."""
    return hasattr(model, "raw")


def stored_bytes(model: Model, key: str, span: Span) -> memoryview:
    """The bytes of a span's elements in their stored dtype, little-endian."""
    if gives_bytes(model):
        return model.raw(key, span)
    return raw_bytes(model.read(key, span).cpu().contiguous())


def check_span(meta: TensorMeta, span: Span) -> Span:
    """``span``, if it lies inside the tensor. Raises ``IndexError`` where it does not."""
    start, stop = span
    if not 0 <= start <= stop <= meta.numel:
        raise IndexError(f"the span [{start}, {stop}) is outside {meta.key!r}, which has {meta.numel} elements")
    return span


def take(tensor: Tensor, span: Span | None = None) -> Tensor:
    """All of a tensor (shaped) or one span (1-D) of its elements in row-major order, contiguous.

    A view where memory allows it. A strided tensor is copied, but only the rows that the span touches.
    """
    if span is None:
        return tensor.contiguous()
    start, stop = span
    if tensor.is_contiguous():
        return tensor.view(-1)[start:stop]
    row = tensor.numel() // tensor.shape[0]  # not contiguous: so it has a dimension and elements
    first, last = start // row, -(-stop // row)
    return tensor[first:last].reshape(-1)[start - first * row : stop - first * row].contiguous()


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor in CPU memory, without a copy."""
    import torch

    if not tensor.numel():
        return memoryview(bytearray())  # an empty array of NumPy's has strides that view() refuses
    return tensor.detach().view(-1).view(torch.uint8).numpy().data
