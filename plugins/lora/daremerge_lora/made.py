"""A LoRA file that does not exist yet: its modules computed when they are read."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from daremerge_core import Span, TensorMeta
from daremerge_core.dtypes import torch_dtype

from .convert import scales_of
from .formats import Writable, tensor_name
from .modules import Family

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MadeLora", "NewModule", "Slot"]

HELD = 8
"""Modules whose tensors are kept until all of them have been read: a few, as many as there may be threads at work."""


class Slot(NamedTuple):
    """One tensor of a new module: its slot, and its shape."""

    name: str
    shape: tuple[int, ...]


class NewModule(ABC):
    """A module of a new file, whose tensors are computed together.

    What its header needs of data, say the rank that keeps some energy, :meth:`settle` finds and keeps.
    """

    name: str
    """As the file will write it."""
    family: Family

    @property
    def settled(self) -> bool:
        """Whether :meth:`slots` answers without reading data."""
        return True

    def settle(self) -> None:
        """Find what :meth:`slots` needs. Done at most once, by one thread."""
        raise NotImplementedError("it is settled from the start")

    @abstractmethod
    def slots(self) -> Sequence[Slot]:
        """Its tensors but for alpha, in order; none where the module is left out. Only when settled."""

    @property
    @abstractmethod
    def rank(self) -> int | None:
        """The rank, which is alpha too; None where it is not factored. Only when settled."""

    @abstractmethod
    def compute(self) -> Mapping[str, Tensor]:
        """Slot → tensor of its shape, in float32 or float64. Only when settled."""

    @abstractmethod
    def scratch(self) -> int:
        """Rough bytes that computing or settling takes."""


@dataclass(frozen=True)
class _Entry:
    """A tensor of the new file."""

    module: NewModule
    slot: str
    meta: TensorMeta


class MadeLora:
    """A new LoRA file as a lazy model, in one dtype.

    The tensors of a module are computed at once and kept until each has been read. alpha is the rank, so that the
    scale is 1: it says nothing that the factors do not.
    """

    def __init__(
        self,
        modules: Sequence[NewModule],
        *,
        format: Writable,
        dtype: str,
        metadata: Callable[[Sequence[NewModule]], Mapping[str, str]],
    ) -> None:
        """
        Args:
            dtype: a safetensors name, of every tensor.
            metadata: what the file says of itself, from its modules when they are settled.
        """
        self._modules = {module.name: module for module in modules}
        self._format = format
        self._dtype = dtype
        self._describe = metadata
        self._locks = {name: threading.Lock() for name in self._modules}
        self._held: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def with_dtype(self, dtype: str) -> MadeLora:
        """The same file in another dtype, rounded once."""
        modules = list(self._modules.values())
        return MadeLora(modules, format=self._format, dtype=dtype, metadata=self._describe)

    # --- what is not known from headers alone (Unsettled) ---

    def to_settle(self) -> Mapping[str, int]:
        return {name: one.scratch() for name, one in self._modules.items() if not one.settled}

    def settle(self, item: str) -> None:
        with self._locks[item]:
            if not self._modules[item].settled:
                self._modules[item].settle()

    # --- headers ---

    @property
    def modules(self) -> Sequence[NewModule]:
        """The modules that the file has, in its order."""
        self._settle_all()
        return [one for one in self._modules.values() if one.slots()]

    @cached_property
    def _entries(self) -> Mapping[str, _Entry]:
        found: dict[str, _Entry] = {}
        for module in self.modules:
            slots = [*module.slots(), *([Slot("alpha", ())] if self._has_alpha(module) else ())]
            for slot, shape in slots:
                key = tensor_name(self._format, module.name, slot, module.family)
                found[key] = _Entry(module, slot, TensorMeta(key, self._dtype, shape))
        return MappingProxyType(found)

    def _has_alpha(self, module: NewModule) -> bool:
        return module.rank is not None and self._format != "diffusers"

    def _settle_all(self) -> None:
        for name in self.to_settle():
            self.settle(name)

    @property
    def metadata(self) -> Mapping[str, str]:
        found = dict(self._describe(self.modules))
        if self._format == "diffusers":
            found |= scales_of({one.name: one.rank for one in self.modules if one.rank}, self.keys())
        return found

    def keys(self) -> Sequence[str]:
        return list(self._entries)

    def meta(self, key: str) -> TensorMeta:
        return self._entries[key].meta

    # --- data ---

    def read(self, key: str, span: Span | None = None) -> Tensor:
        import torch

        entry = self._entries[key]
        dtype = torch_dtype(self._dtype)
        if entry.slot == "alpha":
            found = torch.tensor(entry.module.rank, dtype=torch.float32)
        else:
            found = self._take(entry.module, entry.slot)
        found = found.reshape(entry.meta.shape).to(dtype)
        return found if span is None else found.reshape(-1)[span.start : span.stop]

    def _take(self, module: NewModule, slot: str) -> Tensor:
        """A tensor of a module, which is computed unless a reader of another of its tensors has just done so."""
        with self._locks[module.name]:
            with self._lock:
                held = self._held.pop(module.name, {})
            if slot not in held:
                held = dict(module.compute())
            found = held.pop(slot)
            with self._lock:
                if held:
                    self._held[module.name] = held
                while len(self._held) > HELD:
                    self._held.popitem(last=False)
        return found

    def needs_whole(self, key: str) -> bool:
        return True

    def working_bytes(self, key: str, numel: int) -> int:
        entry = self._entries[key]
        return 0 if entry.slot == "alpha" else entry.module.scratch()

    def close(self) -> None:
        self._held.clear()
