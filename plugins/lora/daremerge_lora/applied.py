"""LoRAs put to the tensors of a checkpoint: which of their modules changes which tensor, and how."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daremerge_core import Span

from .deltas import Change, Swapped, bias_change, has_weight, magnitude, read_change
from .formats import LoraFile
from .modules import Module, Target
from .targets import Matching, Part, locate

if TYPE_CHECKING:
    from torch import Tensor

    from daremerge_core import Site

__all__ = ["Recent", "Step", "steps"]

HELD = 64 << 20
"""Bytes of factors kept between the spans of a tensor."""


class Recent:
    """The changes used last, up to :data:`HELD` bytes of them, so that each span need not read its factors again."""

    def __init__(self, limit: int = HELD) -> None:
        self._limit = limit
        self._held: OrderedDict[object, tuple[Change, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: object, make: Callable[[], Change]) -> Change:
        """The change under a key, made now if it is not held. Two threads may both make one: they are the same."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
        change = make()
        size = sum(tensor.numel() * tensor.element_size() for tensor in change.tensors())
        with self._lock:
            if key not in self._held:
                self._held[key] = (change, size)
                self._bytes += size
            while self._bytes > self._limit and len(self._held) > 1:
                _, (_, freed) = self._held.popitem(last=False)
                self._bytes -= freed
        return change


@dataclass(frozen=True)
class Step:
    """One module's change of one tensor of the checkpoint: its weight, or the bias beside it."""

    lora: LoraFile
    module: Module
    target: Target
    strength: float
    is_bias: bool

    @property
    def needs_weight(self) -> bool:
        """Whether the change follows from the whole weight: DoRA."""
        return self.module.is_dora and not self.is_bias

    def added(self, weight: Tensor, site: Site, recent: Recent) -> Tensor:
        """The weight, or the site's span of it, with the change at its strength; the input is left as it is.

        Args:
            weight: what earlier steps made of the site's tensor.
        """
        if self.strength == 0.0:
            return weight
        return self._decomposed(weight, site, recent) if self.needs_weight else self._summed(weight, site, recent)

    def _summed(self, weight: Tensor, site: Site, recent: Recent) -> Tensor:
        """W + strength · ΔW, on the module's rows."""
        first, last = self._elements(site)
        start, stop = max(first, site.span.start), min(last, site.span.stop)
        if start >= stop:
            return weight
        change = self._change(site, recent).span(Span(start - first, stop - first), self.strength)
        if stop - start == site.span.numel:
            return weight + change.reshape(weight.shape)
        result = weight.reshape(-1).clone()
        result[start - site.span.start : stop - site.span.start] += change
        return result.reshape(weight.shape)

    def _decomposed(self, weight: Tensor, site: Site, recent: Recent) -> Tensor:
        """W + strength · (W′ − W), where W′ is the weight that DoRA trained, on the module's rows of a whole weight."""
        from daremerge_core.kernels import lerp

        from . import kernels

        start, stop = self.target.rows or (0, weight.shape[0])
        rows = weight[start:stop]
        theirs = rows.T if self.target.transposed else rows
        scales, per_row = magnitude(self.lora, self.module, theirs.shape[0], str(site.device))
        if self.target.swapped and per_row:
            scales = scales.roll(len(scales) // 2)
        change = self._change(site, recent).dense().reshape(rows.shape)
        delta = change.T if self.target.transposed else change
        trained = kernels.decompose(theirs, delta.to(weight.dtype), scales, per_row=per_row)
        result = weight.clone()
        result[start:stop] = lerp(rows, trained.T if self.target.transposed else trained, self.strength)
        return result

    def _elements(self, site: Site) -> tuple[int, int]:
        """The module's half-open range of elements of the tensor."""
        if self.target.rows is None:
            return 0, site.numel
        width = site.numel // site.shape[0]
        return self.target.rows[0] * width, self.target.rows[1] * width

    def _change(self, site: Site, recent: Recent) -> Change:
        """The change in the checkpoint's own orientation."""
        device = str(site.device)

        def make() -> Change:
            change = (bias_change if self.is_bias else read_change)(self.lora, self.module, device)
            if self.target.transposed and not self.is_bias:
                change = change.transposed()
            return Swapped(1.0, change) if self.target.swapped else change

        return recent.get((id(self.lora), self.module.name, self.is_bias, device), make)


def steps(
    found: Sequence[tuple[LoraFile, Matching, float]], strength_of: Callable[[Part], float]
) -> Mapping[str, Sequence[Step]]:
    """Tensor's name → the changes made to it, in the order of the LoRAs.

    Args:
        found: each LoRA with its targets and its strength.
        strength_of: a factor for the strengths in one network.
    """
    by_key: dict[str, list[Step]] = {}
    for lora, matching, strength in found:
        for name, target in matching.targets.items():
            module = lora.modules[name]
            part, _, _ = locate(name)
            total = strength * strength_of(part)
            if has_weight(module):
                by_key.setdefault(target.key, []).append(Step(lora, module, target, total, is_bias=False))
            if "diff_b" in module.tensors:
                by_key.setdefault(target.bias, []).append(Step(lora, module, target, total, is_bias=True))
    return by_key
