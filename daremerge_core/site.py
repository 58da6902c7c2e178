"""The site: one tensor, or a span of it, as a component's verb sees it.

A verb reads ``site.a``, ``site.b``, ``site.t`` and so on, and answers a tensor. It never learns about files,
storage dtypes, spans, masks or devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .values import Span

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from typing_extensions import Self

    from .layout import Place
    from .rng import Stream

__all__ = ["Draw", "Site", "TensorSite"]


@dataclass(frozen=True)
class Draw:
    """Random numbers for a site: one independent stream per (seed, component, tensor, model, draw).

    Element *i* of the tensor gets the same number whatever span, thread or device asks for it.
    """

    site: Site
    seed: int
    component: str
    draw: int = 0

    def _stream(self) -> Stream:
        return self.site.stream(self.seed, self.component, draw=self.draw)

    def keep(self, density: float) -> Tensor:
        """A bool tensor, each element True with probability ``density`` (0 to 1)."""
        return self._shaped(self._stream().keep(self.site.span, density, self.site.device))

    def thin(self, values: Tensor, density: float, *, scale: float = 1.0) -> Tensor:
        """``values`` of this site times ``scale`` where :meth:`keep` keeps, zero elsewhere: both in one go."""
        return self._stream().thin(values, self.site.span.start, density, scale)

    def uniform(self) -> Tensor:
        """float32 in [0, 1)."""
        return self._shaped(self._stream().uniform(self.site.span, self.site.device))

    def normal(self) -> Tensor:
        """float32, standard normal; made on the CPU, then moved."""
        return self._shaped(self._stream().normal(self.site.span).to(self.site.device))

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat.reshape(self.site.size)


@dataclass(frozen=True, kw_only=True)
class TensorSite:
    """One tensor, before any of its elements is read: what a loop is made for."""

    place: Place
    """Where in the model the tensor lives: key, part, block, depth, role."""
    shape: tuple[int, ...]
    """Shape of the full tensor."""
    ratio: float = 0.0
    measured: tuple[Any, ...] = ()
    """Results of the measuring passes done so far, as NumPy arrays."""
    model_index: int = 0
    """Which of the merged models a sparsifier is looking at; each has random numbers of its own."""

    @property
    def t(self) -> float:
        """1 − ratio: 0 keeps A, 1 takes B."""
        return 1.0 - self.ratio

    @property
    def numel(self) -> int:
        """Elements of the full tensor."""
        return math.prod(self.shape)

    def stream(self, seed: int, component: str, *, draw: int = 0) -> Stream:
        """The random numbers of this tensor, for one seed and component, and the model that is looked at."""
        from .rng import Stream

        return Stream.derive(seed, component, self.place.name, model=self.model_index, draw=draw)

    def for_model(self, index: int, *, measured: tuple[Any, ...] | None = None) -> Self:
        """The same site, its random numbers, and what was measured, those of another of the merged models."""
        return replace(self, model_index=index, measured=self.measured if measured is None else measured)


@dataclass(frozen=True, kw_only=True)
class Site(TensorSite):
    """One tensor, or a span of it.

    Tensors have the shape ``size``: the full ``shape`` where the component sees whole tensors, some of its rows where
    it sees rows, else 1-D of ``span.numel`` elements. All are on ``device``, in ``dtype``: float32, or float64 where
    a model holds float64.
    """

    span: Span
    """The elements at hand, in row-major order."""
    size: tuple[int, ...]
    """Shape of the tensors at hand."""
    dtype: torch.dtype
    device: torch.device
    inputs: Mapping[str, Callable[[], Tensor] | Sequence[Callable[[], Tensor]] | None]
    """By port name: how to read the tensor of that port. Use :meth:`__getitem__` or the properties."""
    measured: tuple[Tensor, ...] = ()
    """Results of the measuring passes done so far."""
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    # --- tensors ---

    def __getitem__(self, port: str) -> Any:
        """The tensor of a port (a list of tensors for a list port, None for an optional port left out)."""
        if port not in self._cache:
            source = self.inputs[port]
            if source is None:
                self._cache[port] = None
            elif callable(source):
                self._cache[port] = source()
            else:
                self._cache[port] = [one() for one in source]
        return self._cache[port]

    @property
    def a(self) -> Tensor:
        return self._tensor("a")

    @property
    def b(self) -> Tensor:
        return self._tensor("b")

    @property
    def model(self) -> Tensor:
        return self._tensor("model")

    @property
    def base(self) -> Tensor | None:
        """The base model's tensor, or None when there is no base."""
        found: Tensor | None = self["base"] if "base" in self.inputs else None
        return found

    @property
    def models(self) -> list[Tensor]:
        """The tensors of the models being merged: of the ``models`` port, else ``[a, b]``."""
        if "models" in self.inputs:
            found: list[Tensor] = self["models"]
            return found
        return [self.a, self.b]

    @property
    def delta(self) -> Tensor:
        """B's task vector: B − base where there is a base, else B − A."""
        base = self.base
        return self.b - (self.a if base is None else base)

    @property
    def deltas(self) -> list[Tensor]:
        """One task vector per model: model − base; without a base, the difference to the first model."""
        if "models" not in self.inputs:
            return [self.delta]
        base = self.base
        first = self.models[0] if base is None else base
        return [model - first for model in (self.models[1:] if base is None else self.models)]

    def _tensor(self, port: str) -> Tensor:
        found: Tensor = self[port]
        return found

    # --- numbers ---

    def position(self) -> Tensor:
        """int64: each element's index along the tensor's last dimension (0 for a 0-d tensor)."""
        import torch

        size = self.shape[-1] if self.shape else 1
        index = torch.arange(self.span.start, self.span.stop, device=self.device) % max(size, 1)
        return index.reshape(self.size)

    def draw(self, seed: int, component: str, *, draw: int = 0) -> Draw:
        """Random numbers for this site: ``site.draw(self.seed, self.name).keep(0.1)``."""
        return Draw(self, seed, component, draw)

    def total(self, *values: Tensor) -> Tensor:
        """1-D float64 tensor: the sum of each of ``values`` in a fixed order of additions."""
        import torch

        from .kernels import tree_sum

        return torch.stack([tree_sum(value) for value in values])

    def replace(self, *, measured: tuple[Tensor, ...] | None = None, **tensors: Tensor) -> Site:
        """The same site with some ports' tensors replaced, e.g. ``site.replace(b=target)``."""
        inputs = dict(self.inputs)
        cache = {port: value for port, value in self._cache.items() if port not in tensors}
        for port, tensor in tensors.items():
            inputs[port] = (lambda value: lambda: value)(tensor)
        return replace(self, inputs=inputs, measured=self.measured if measured is None else measured, _cache=cache)
