"""A lazy model whose tensors are those of another one, renamed, cut, scaled and put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from daremerge_core.dtypes import torch_dtype
from daremerge_core.values import Model, Span, TensorMeta

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AssembledModel", "Assembly", "Block"]


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a source tensor, and where they go. ``columns`` says how its elements, in their order, make a matrix."""

    source: str
    columns: int
    rows: tuple[int, int]
    """Half-open, of the source."""
    at: tuple[int, int] = (0, 0)
    """Row and column of the result."""
    factor: float = 1.0

    @property
    def height(self) -> int:
        return self.rows[1] - self.rows[0]

    @property
    def span(self) -> Span:
        """Its elements in the source."""
        return Span(self.rows[0] * self.columns, self.rows[1] * self.columns)


@dataclass(frozen=True, slots=True)
class Assembly:
    """How one tensor is made: of blocks over zeros, or filled with one value."""

    meta: TensorMeta
    columns: int = 1
    """Its elements as a matrix, as :attr:`Block.columns`."""
    blocks: tuple[Block, ...] = ()
    value: float = 0.0


class AssembledModel:
    """Tensors made of another model's when they are read. Headers are known from the start."""

    def __init__(self, source: Model, assemblies: Mapping[str, Assembly], metadata: Mapping[str, str]) -> None:
        self._source = source
        self._assemblies = dict(assemblies)
        self._metadata = MappingProxyType(dict(metadata))

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def keys(self) -> Sequence[str]:
        return tuple(self._assemblies)

    def meta(self, key: str) -> TensorMeta:
        return self._assemblies[key].meta

    def read(self, key: str, span: Span | None = None) -> Tensor:
        """Raises ``KeyError`` for an unknown key, ``IndexError`` for a span outside it."""
        from daremerge_core.stores.tensors import check_span, take  # not at the top: --help loads this module

        assembly = self._assemblies[key]
        meta = assembly.meta
        if span is not None:
            check_span(meta, span)
        if (copied := self._copied(assembly)) is not None:
            begin, end = span or meta.whole
            flat = self._source.read(copied.source, Span(copied.span.start + begin, copied.span.start + end))
            return flat if span is not None else flat.reshape(meta.shape)
        return take(self._assemble(assembly), span)

    def needs_whole(self, key: str) -> bool:
        """Whether a span costs as much as the whole tensor."""
        return self._copied(self._assemblies[key]) is None

    def working_bytes(self, key: str, numel: int) -> int:
        """Scratch memory for ``numel`` elements: the result in single or double precision, and one block."""
        return 16 * numel

    def close(self) -> None:
        self._source.close()

    def _copied(self, assembly: Assembly) -> Block | None:
        """The one block that holds the tensor's elements as they are and in their order, if there is one."""
        if len(assembly.blocks) != 1:
            return None
        block = assembly.blocks[0]
        same = block.factor == 1.0 and self._source.meta(block.source).dtype == assembly.meta.dtype
        return block if same and block.span.numel == assembly.meta.numel else None

    def _assemble(self, assembly: Assembly) -> Tensor:
        import torch

        dtype = torch_dtype(assembly.meta.dtype)
        if not assembly.meta.numel:
            return torch.empty(assembly.meta.shape, dtype=dtype)
        working = torch.float64 if dtype == torch.float64 else torch.float32
        result = torch.full((assembly.meta.numel,), assembly.value, dtype=working).view(-1, assembly.columns)
        for block in assembly.blocks:
            piece = self._source.read(block.source, block.span).view(block.height, block.columns)
            row, column = block.at
            result[row : row + block.height, column : column + block.columns] = piece.to(working) * block.factor
        return result.to(dtype).reshape(assembly.meta.shape)
