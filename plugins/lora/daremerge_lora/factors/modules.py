"""New modules: factors of a change, or of a sum of products, cut to a rank; and differences as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from daremerge_core import Span
from daremerge_core.errors import ModelFileError

from ..made import NewModule, Slot
from ..modules import Family

if TYPE_CHECKING:
    from torch import Tensor

    from .kernels import Svd

__all__ = ["EXACT", "Decomposition", "DenseModule", "Extra", "FullModule", "Keep", "Product", "ProductModule"]

Product = tuple[float, "Tensor", "Tensor"]
"""(c, B ``[out, rank]``, A ``[rank, width]``): a term c B A of a change."""


@dataclass(frozen=True)
class Keep:
    """How many terms of a decomposition to keep."""

    rank: int | None = None
    """At most so many; None for all."""
    energy: float | None = None
    """As few as hold this share of the squared norm; None for as many as there may be."""

    def most(self, terms: int) -> int:
        """How many of ``terms`` there can be."""
        return terms if self.rank is None else min(self.rank, terms)


@dataclass(frozen=True)
class Decomposition:
    """How the terms of a dense change are found."""

    method: Literal["exact", "randomised"] = "exact"
    oversampling: int = 16
    power_iterations: int = 2
    seed: int = 0

    def svd(self, delta: Tensor, rank: int, name: str) -> Svd:
        """The first ``rank`` terms; random numbers, if any, are those of ``name``."""
        from daremerge_core.rng import Stream

        from . import kernels

        _check_finite(delta, name)
        columns = min(rank + self.oversampling, *delta.shape)
        if self.method == "exact" or columns == min(delta.shape):
            return kernels.exact_svd(delta, rank)
        width = delta.shape[1]
        drawn = Stream.derive(self.seed, "lora.extract", name).normal(Span(0, width * columns))
        sketch = drawn.reshape(width, columns).to(delta.device)
        return kernels.randomised_svd(delta, rank, sketch, power_iterations=self.power_iterations)

    def rank(self, delta: Tensor, keep: Keep, name: str) -> int:
        """The rank that ``keep`` asks for. Exact: from all singular values, at half the work of vectors too."""
        from . import kernels

        _check_finite(delta, name)
        most = keep.most(min(delta.shape))
        if keep.energy is None:
            return most
        if self.method == "exact":
            return min(kernels.rank_for_energy(kernels.singular_values(delta), keep.energy), most)
        total = float(kernels.squared_norm(delta))
        return kernels.rank_for_energy(self.svd(delta, most, name).values, keep.energy, total)


EXACT = Decomposition()
"""The best approximation."""


@dataclass(frozen=True)
class Extra:
    """A tensor of a module beside its factors: the change of a bias, magnitudes."""

    slot: str
    shape: tuple[int, ...]
    compute: Callable[[], Tensor]


class _Made(NewModule):
    """What all of these share: a name, a shape, and tensors beside."""

    def __init__(self, name: str, shape: tuple[int, ...], extras: Sequence[Extra] = ()) -> None:
        """
        Args:
            shape: of the change, ``(out, in, …kernel)``.
        """
        self.name = name
        self._shape = shape
        self.extras = extras

    def _beside(self) -> Mapping[str, Tensor]:
        return {one.slot: one.compute() for one in self.extras}

    def _slots_beside(self) -> list[Slot]:
        return [Slot(one.slot, one.shape) for one in self.extras]

    @property
    def _size(self) -> tuple[int, int]:
        return self._shape[0], math.prod(self._shape[1:])


class _Factored(_Made):
    """A module of two factors, whose rank may follow from data."""

    family: Family = "lora"
    _rank: int | None = None

    @property
    def settled(self) -> bool:
        return self._rank is not None

    @property
    def rank(self) -> int:
        assert self._rank is not None, "settle first"
        return self._rank

    def slots(self) -> Sequence[Slot]:
        if not self.rank:
            return self._slots_beside()
        out, *rest = self._shape
        kernel = [1] * len(rest[1:])
        return [Slot("down", (self.rank, *rest)), Slot("up", (out, self.rank, *kernel)), *self._slots_beside()]

    def compute(self) -> Mapping[str, Tensor]:
        if not self.rank:
            return self._beside()
        up, down = self.factors()
        return {"down": down, "up": up, **self._beside()}

    def factors(self) -> tuple[Tensor, Tensor]:
        """B ``[out, rank]`` and A ``[rank, width]``."""
        raise NotImplementedError


class ProductModule(_Factored):
    """Σ c B A: by concatenation, which is exact, or cut to a rank, without the sum itself."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        products: Callable[[], Sequence[Product]],
        *,
        terms: int,
        keep: Keep,
        extras: Sequence[Extra] = (),
    ) -> None:
        """
        Args:
            products: reads the terms.
            terms: the sum of their ranks.
        """
        super().__init__(name, shape, extras)
        self._products = products
        self._terms = terms
        self._keep = keep
        if keep.energy is None:
            self._rank = self._most

    @property
    def _most(self) -> int:
        whole = self._terms if self._concatenates else min(self._terms, *self._size)
        return self._keep.most(whole)

    @property
    def _concatenates(self) -> bool:
        """Whether all terms are kept."""
        return self._keep.energy is None and (self._keep.rank is None or self._keep.rank >= self._terms)

    def settle(self) -> None:
        from . import kernels

        assert self._keep.energy is not None
        values = self._svd().values
        self._rank = min(kernels.rank_for_energy(values, self._keep.energy), self._most)

    def factors(self) -> tuple[Tensor, Tensor]:
        from . import kernels

        if self._concatenates:
            return kernels.concatenate(self._products())
        return kernels.split(self._svd().truncated(self.rank))

    def _svd(self) -> Svd:
        from . import kernels

        products = self._products()
        for _, up, down in products:
            _check_finite(up, self.name)
            _check_finite(down, self.name)
        return kernels.product_svd(products)

    def scratch(self) -> int:
        return 8 * 4 * sum(self._size) * self._terms


class DenseModule(_Factored):
    """A change computed whole and decomposed."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        delta: Callable[[], Tensor],
        *,
        keep: Keep,
        decomposition: Decomposition = EXACT,
        min_diff: float | None = None,
        clamp_quantile: float = 1.0,
        extras: Sequence[Extra] = (),
    ) -> None:
        """
        Args:
            delta: computes the change, ``[out, width]`` in float32.
            min_diff: leave the module out where no element changes by more; None for never.
            clamp_quantile: of the sizes of all entries of both factors; larger ones are cut down to it.
        """
        super().__init__(name, shape, extras)
        self._delta = delta
        self._keep = keep
        self._decomposition = decomposition
        self._min_diff = min_diff
        self._clamp_quantile = clamp_quantile
        if keep.energy is None and min_diff is None:
            self._rank = keep.most(min(self._size))

    def settle(self) -> None:
        delta = self._delta()
        is_same = self._min_diff is not None and not _differs(delta, self._min_diff)
        self._rank = 0 if is_same else self._decomposition.rank(delta, self._keep, self.name)

    def factors(self) -> tuple[Tensor, Tensor]:
        from . import kernels

        most = self._keep.most(min(self._size))  # a sketch for the most that there may be, as settling had it
        found = self._decomposition.svd(self._delta(), most, self.name).truncated(self.rank)
        return kernels.clamp(*kernels.split(found), self._clamp_quantile)

    def scratch(self) -> int:
        out, width = self._size
        return 16 * out * width + 4 * 8 * min(out, width) ** 2


class FullModule(_Made):
    """A change written as it is."""

    family: Family = "full"

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        delta: Callable[[], Tensor],
        *,
        min_diff: float | None = None,
        extras: Sequence[Extra] = (),
    ) -> None:
        """
        Args:
            shape: of the change; ``()`` for a module that changes a bias only.
            delta: computes the change, of as many elements.
            min_diff: leave the change out where no element changes by more; None for never.
        """
        super().__init__(name, shape, extras)
        self._delta = delta
        self._min_diff = min_diff
        self._kept: list[str] | None = None if min_diff is not None else [slot for slot, _ in self._all]

    @property
    def _all(self) -> list[Slot]:
        return [*([Slot("diff", self._shape)] if self._shape else ()), *self._slots_beside()]

    @property
    def settled(self) -> bool:
        return self._kept is not None

    def settle(self) -> None:
        assert self._min_diff is not None
        self._kept = [slot for slot, tensor in self._everything().items() if _differs(tensor, self._min_diff)]

    def slots(self) -> Sequence[Slot]:
        assert self._kept is not None, "settle first"
        return [slot for slot in self._all if slot.name in self._kept]

    @property
    def rank(self) -> None:
        return None

    def compute(self) -> Mapping[str, Tensor]:
        everything = self._everything()
        return {slot: everything[slot] for slot, _ in self.slots()}

    def _everything(self) -> Mapping[str, Tensor]:
        return ({"diff": self._delta()} if self._shape else {}) | dict(self._beside())

    def scratch(self) -> int:
        return 12 * math.prod(self._shape)


def _check_finite(tensor: Tensor, name: str) -> None:
    """Raise :class:`~daremerge_core.errors.ModelFileError` for what has no decomposition."""
    from daremerge_core.kernels import count_nonfinite

    if bad := count_nonfinite(tensor):
        raise ModelFileError(
            f"module {name}: {bad} of the {tensor.numel()} elements it is made from are NaN or infinite",
            hint="The input is damaged: a matrix with such elements has no decomposition.",
        )


def _differs(delta: Tensor, min_diff: float) -> bool:
    return bool(delta.numel()) and not bool(delta.abs().amax() <= min_diff)
