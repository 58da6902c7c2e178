"""What a module of a LoRA file does to a weight: its tensors read, and the change they make, whole or by rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from daremerge_core import Model, Span

from .modules import SLOTS, Module

if TYPE_CHECKING:
    from torch import Tensor

    from .formats import LoraFile

__all__ = [
    "Change",
    "Dense",
    "Hadamard",
    "Kronecker",
    "LowRank",
    "Swapped",
    "bias_change",
    "has_weight",
    "magnitude",
    "read_change",
]


@dataclass(frozen=True)
class Change(ABC):
    """The change of a weight, before any strength: a matrix of ``rows`` × ``width`` elements, computed when asked.

    A convolution's kernel elements are part of ``width``; a vector is a matrix of one column.
    """

    scale: float
    """What the product of the factors is multiplied with."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Rows and width."""

    @abstractmethod
    def unscaled(self, start: int, stop: int) -> Tensor:
        """Rows ``[start, stop)`` before scaling, as ``[stop − start, width]``: the same bits in any request."""

    @abstractmethod
    def transposed(self) -> Change:
        """The change of the transposed weight."""

    @abstractmethod
    def tensors(self) -> Iterable[Tensor]:
        """What it holds in memory."""

    def rows(self, start: int, stop: int, strength: float = 1.0) -> Tensor:
        """Rows ``[start, stop)`` at a strength."""
        return self.unscaled(start, stop) * (self.scale * strength)

    def dense(self) -> Tensor:
        """All rows at strength 1."""
        return self.rows(0, self.size[0])

    def norm(self) -> float:
        """The Frobenius norm at strength 1."""
        return float(self.dense().double().norm())

    def span(self, span: Span, strength: float = 1.0) -> Tensor:
        """1-D: a run of elements in row-major order."""
        _, width = self.size
        start, stop = span.start // width, -(-span.stop // width)
        flat = self.rows(start, stop, strength).reshape(-1)
        return flat[span.start - start * width : span.stop - start * width]


@dataclass(frozen=True)
class LowRank(Change):
    """scale · B A: LoRA, LoCon with its core folded into A."""

    up: Tensor
    """B, ``[rows, rank]``."""
    down: Tensor
    """A, ``[rank, width]``."""

    @property
    def size(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    def unscaled(self, start: int, stop: int) -> Tensor:
        from . import kernels

        return kernels.product_rows(self.up, self.down, start, stop)

    def norm(self) -> float:
        from . import kernels

        return abs(self.scale) * kernels.product_norm(self.up, self.down)

    def transposed(self) -> LowRank:
        return replace(self, up=self.down.T.contiguous(), down=self.up.T.contiguous())

    def tensors(self) -> Iterable[Tensor]:
        return self.up, self.down


@dataclass(frozen=True)
class Hadamard(Change):
    """scale · (B₁ A₁) ⊙ (B₂ A₂): LoHa."""

    first: LowRank
    second: LowRank

    @property
    def size(self) -> tuple[int, int]:
        return self.first.size

    def unscaled(self, start: int, stop: int) -> Tensor:
        from . import kernels

        one, two = self.first, self.second
        return kernels.hadamard_rows((one.up, one.down), (two.up, two.down), start, stop)

    def transposed(self) -> Hadamard:
        return replace(self, first=self.first.transposed(), second=self.second.transposed())

    def tensors(self) -> Iterable[Tensor]:
        return *self.first.tensors(), *self.second.tensors()


@dataclass(frozen=True)
class Kronecker(Change):
    """scale · C ⊗ D: LoKr."""

    first: Tensor
    """C, ``[p, m]``."""
    second: Tensor
    """D, ``[q, n]``."""

    @property
    def size(self) -> tuple[int, int]:
        return self.first.shape[0] * self.second.shape[0], self.first.shape[1] * self.second.shape[1]

    def unscaled(self, start: int, stop: int) -> Tensor:
        from . import kernels

        return kernels.kronecker_rows(self.first, self.second, start, stop)

    def transposed(self) -> Kronecker:
        return replace(self, first=self.first.T.contiguous(), second=self.second.T.contiguous())

    def tensors(self) -> Iterable[Tensor]:
        return self.first, self.second


@dataclass(frozen=True)
class Dense(Change):
    """A change that the file holds as it is."""

    diff: Tensor
    """``[rows, width]``, in the dtype of the file."""

    @property
    def size(self) -> tuple[int, int]:
        rows, width = self.diff.shape
        return rows, width

    def unscaled(self, start: int, stop: int) -> Tensor:
        return self.diff[start:stop].float()

    def transposed(self) -> Dense:
        return replace(self, diff=self.diff.T)

    def tensors(self) -> Iterable[Tensor]:
        return (self.diff,)


@dataclass(frozen=True)
class Swapped(Change):
    """Another change, its second half of the rows before the first."""

    change: Change

    @property
    def size(self) -> tuple[int, int]:
        return self.change.size

    def unscaled(self, start: int, stop: int) -> Tensor:
        import torch

        rows, _ = self.size
        half = rows // 2
        # Row r here is row r + half there, or r − half in the lower half; a run of rows is at most two runs there.
        halves = ((0, half, half), (half, rows, -half))
        runs = ((max(start, low) + shift, min(stop, high) + shift) for low, high, shift in halves)
        return torch.cat([self.change.rows(*run) for run in runs if run[0] < run[1]])

    def transposed(self) -> Change:
        return Dense(1.0, self.dense().T)

    def tensors(self) -> Iterable[Tensor]:
        return self.change.tensors()


def has_weight(module: Module) -> bool:
    """Whether the module changes a weight, and not a bias alone."""
    return not SLOTS[module.family].isdisjoint(module.tensors)


def read_change(lora: LoraFile, module: Module, device: str | None = None) -> Change:
    """The change of a module's weight, without its DoRA magnitude, if any: that needs the weight.

    Reads the module's tensors: a few thin ones, except where the change is held dense.

    Args:
        device: where to compute; the CPU by default.
    """
    tensors = _Tensors(lora.model, module, device)
    scale = lora.scale(module)
    if module.family == "lora":
        return _low_rank(tensors, scale)
    if module.family == "loha":
        return Hadamard(scale, _hadamard_side(tensors, "w1", "t1"), _hadamard_side(tensors, "w2", "t2"))
    if module.family == "lokr":
        return Kronecker(scale, _kronecker_factor(tensors, "w1"), _kronecker_factor(tensors, "w2"))
    return Dense(scale, _matrix(tensors.stored("diff")))


def bias_change(lora: LoraFile, module: Module, device: str | None = None) -> Dense:
    """The change of the bias that a module with a ``diff_b`` makes, as a matrix of one column."""
    return Dense(1.0, _matrix(_Tensors(lora.model, module, device).stored("diff_b")))


def magnitude(lora: LoraFile, module: Module, rows: int, device: str | None = None) -> tuple[Tensor, bool]:
    """A DoRA module's magnitudes, 1-D, and whether they are those of rows, else of input channels.

    PEFT's magnitude vector is of rows, whatever its shape; so is a vector. LyCORIS's ``dora_scale`` tells by its shape:
    of rows ``[rows, 1, …]``, of input channels ``[1, in, …]``.
    """
    name = module.tensors["dora_scale"]
    found = _Tensors(lora.model, module, device)["dora_scale"]
    of_rows = "magnitude" in name or found.dim() < 2 or (found.shape[0] == rows and found.numel() == rows)
    return found.reshape(-1), of_rows


class _Tensors:
    """A module's tensors by slot."""

    def __init__(self, model: Model, module: Module, device: str | None) -> None:
        self._model = model
        self._names = module.tensors
        self._device = device

    def __contains__(self, slot: str) -> bool:
        return slot in self._names

    def stored(self, slot: str) -> Tensor:
        found = self._model.read(self._names[slot])
        return found if self._device is None else found.to(self._device)

    def __getitem__(self, slot: str) -> Tensor:
        return self.stored(slot).float()

    def matrix(self, slot: str) -> Tensor:
        return _matrix(self[slot])


def _matrix(tensor: Tensor) -> Tensor:
    """``[rows, the rest]``; a vector is a column."""
    return tensor.reshape(tensor.shape[0], -1) if tensor.dim() else tensor.reshape(1, 1)


def _low_rank(tensors: _Tensors, scale: float) -> LowRank:
    from . import kernels

    down = tensors.matrix("down")
    if "mid" in tensors:
        down = kernels.fold_core(tensors["mid"], down)
    return LowRank(scale, tensors.matrix("up"), down)


def _hadamard_side(tensors: _Tensors, name: str, core: str) -> LowRank:
    from . import kernels

    output, down = tensors.matrix(f"{name}_a"), tensors.matrix(f"{name}_b")
    if core in tensors:
        output, down = kernels.fold_hadamard_core(tensors[core], output, down)
    return LowRank(1.0, output, down)


def _kronecker_factor(tensors: _Tensors, name: str) -> Tensor:
    from . import kernels

    if name in tensors:
        return tensors.matrix(name)
    output, down = tensors.matrix(f"{name}_a"), tensors.matrix(f"{name}_b")
    core = name.replace("w", "t")
    if core in tensors:
        output, down = kernels.fold_hadamard_core(tensors[core], output, down)
    return output @ down
