"""Merges by singular directions of each weight matrix: TSV-M, isotropic merging, WUDI. Maths: :mod:`.spectral_kernels`.

They see whole tensors. The result can differ in its last bits between machines and torch versions, whose linear
algebra differs; on one machine it is the same whatever the threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from daremerge_core import Site, Span

from .tasks import TaskMerge

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IsoC", "IsoCts", "TsvM", "Wudi"]

CHUNKS = 1 << 26
"""Bytes of the parts of matrices that are in float64 at a time."""
OVERSAMPLING = 16
"""Columns of a sketch beyond the rank."""
RANK = Field(None, ge=1, description="Only so many directions of each matrix; all the method wants by default.")


class SpectralMerge(TaskMerge):
    """A merge of matrices; of vectors and numbers, the mean, which is what the papers do."""

    elementwise = False

    def combined(self, site: Site, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        from . import kernels

        taking_part = [(delta, weight) for delta, weight in zip(deltas, weights, strict=True) if weight]
        values = [delta if weight == 1.0 else self._weighed(delta, weight) for delta, weight in taking_part]
        if not values or not site.numel:
            return deltas[0] * 0.0
        if len(site.shape) < 2:
            return self.of_vectors(values)
        rows = [value.reshape(value.shape[0], -1) for value in values]
        if not any(bool(one.any()) for one in rows):
            return kernels.total(values)
        return self.of_matrices(site, rows).reshape(site.shape)

    def _weighed(self, delta: Tensor, weight: float) -> Tensor:
        """In place, as large matrices count, where no refiner wants the differences after."""
        return delta.mul_(weight) if self.refine is None else delta * weight

    def task_vectors(self, site: Site) -> list[Tensor]:
        """Read one after the other, so that only the differences are held."""
        base = site.base
        return [read() - base for read in site.inputs["models"]]  # type: ignore[union-attr, operator]

    def of_vectors(self, values: Sequence[Tensor]) -> Tensor:
        from . import kernels

        return kernels.total(values) * (1.0 / len(values))

    def of_matrices(self, site: Site, matrices: Sequence[Tensor]) -> Tensor:
        """The merged matrix of task matrices ``[out, rest]``."""
        raise NotImplementedError

    def working_bytes(self, shape: tuple[int, ...], numel: int, models: int) -> int:
        """The base, a difference for each model, the merge, what is added and what is stored, and squares of the
        shorter side. For a refiner the differences are there twice."""
        if len(shape) < 2:
            return super().working_bytes(shape, numel, models)
        tasks, rows, columns = max(models - 1, 1), shape[0], math.prod(shape[1:])
        whole = 4 * numel * (tasks * (1 if self.refine is None else 2) + 4)
        refining = 0 if self.refine is None else self.refine.working_bytes(shape, models)
        return whole + 8 * self.squares(rows, columns, tasks) + CHUNKS + refining

    def squares(self, rows: int, columns: int, tasks: int) -> int:
        """Elements of the square matrices, in float64, that are there at a time."""
        return min(rows, columns) ** 2 * (tasks * (tasks + 1) // 2 + 3 * tasks + 6)

    def effort(self, shape: tuple[int, ...]) -> float:
        """Each product of two matrices takes a multiplication for each row, of each element."""
        if len(shape) < 2:
            return 1.0
        return 1.0 + len(self.models) * min(shape[0], math.prod(shape[1:])) / 8


def _on_shorter_side(matrices: Sequence[Tensor]) -> tuple[bool, list[Tensor]]:
    """Whether the matrices are taller than wide, and the same with the shorter side as rows."""
    tall = matrices[0].shape[0] > matrices[0].shape[1]
    return tall, [one.T for one in matrices] if tall else list(matrices)


class TsvM(SpectralMerge):
    """Merge the main singular directions of each model's changes, made orthogonal to each other (TSV-M).

    Of each task matrix Aᵢ (out, rest) the first r = ⌊min(out, rest)/N⌋ singular directions are kept, U and V of all
    models are stacked and replaced by their nearest orthogonal matrices, and base + λ Û S V̂ᵀ is the result. With one
    model that is the model. Directions of no length are left out; where r is 0, and of vectors, the mean is taken.

    ``decomposition`` randomised finds the directions from random combinations of columns: with a ``rank`` far below the
    matrix's side several times sooner, and in expectation losing at most 1 + rank/15 times the square of what the best
    directions of that rank would.

    Source: Gargiulo et al., "Task Singular Vectors", arXiv 2412.00081.
    """

    name = "tsv-m"
    rank: int | None = RANK
    decomposition: Literal["exact", "randomised"] = Field(
        "exact", description="How singular directions are found: all of them, or nearly as well in less time."
    )
    seed: int = Field(0, ge=0, description="Of the randomised decomposition.")

    def of_matrices(self, site: Site, matrices: Sequence[Tensor]) -> Tensor:
        from . import kernels
        from . import spectral_kernels as spectral

        rank = min(matrices[0].shape) // len(matrices)
        rank = rank if self.rank is None else min(rank, self.rank)
        if not rank:
            return kernels.total(matrices) * (1.0 / len(matrices))
        if self.decomposition == "randomised":
            return spectral.tsv_m_of(
                [spectral.sketched(one, rank, self._sketch(site, one, rank, i)) for i, one in enumerate(matrices)]
            )
        tall, sides = _on_shorter_side(matrices)
        result = spectral.combined(spectral.tsv_m(spectral.products(sides), rank), sides)
        return result.T if tall else result

    def _sketch(self, site: Site, matrix: Tensor, rank: int, model: int) -> Tensor:
        from daremerge_core.rng import Stream

        columns = matrix.shape[1]
        width = min(rank + OVERSAMPLING, *matrix.shape)
        stream = Stream.derive(self.seed, self.name, site.place.name, model=model)
        return stream.normal(Span(0, columns * width)).reshape(columns, width).to(matrix)


class IsoC(SpectralMerge):
    """Add up the changes and make all their singular directions equally long (Iso-C).

    Σ Aᵢ = U S Vᵀ becomes s̄ U Vᵀ, s̄ the mean singular value over min(out, rest): base + λ s̄ U Vᵀ. Rare directions
    count as much as common ones. Directions of no length stay zero. Of vectors the mean is taken.

    Source: Marczak et al., "No Task Left Behind", arXiv 2502.04959.
    """

    name = "iso-c"
    rank: int | None = RANK

    def of_matrices(self, site: Site, matrices: Sequence[Tensor]) -> Tensor:
        from . import kernels
        from . import spectral_kernels as spectral

        tall, (summed,) = _on_shorter_side([kernels.total(matrices)])
        result = spectral.combined(spectral.iso_c(spectral.products([summed]), len(summed), self.rank), [summed])
        return result.T if tall else result


class IsoCts(SpectralMerge):
    """Iso-C with room for each model: the main common directions, and the main ones of each beside them (Iso-CTS).

    The first k = ``common`` · min(out, rest) directions of Σ Aᵢ, and of each model the first of what is orthogonal to
    them, an equal share of the rest; made orthogonal together and of one length, the mean of theirs. What is orthogonal
    is taken on the shorter side of the matrix. Of vectors the mean is taken.

    Source: Marczak et al., "No Task Left Behind", arXiv 2502.04959, algorithm 2.
    """

    name = "iso-cts"
    common: float = Field(0.8, ge=0, le=1, description="Share of the directions that is common to all models.")

    def of_matrices(self, site: Site, matrices: Sequence[Tensor]) -> Tensor:
        from . import spectral_kernels as spectral

        tall, sides = _on_shorter_side(matrices)
        factors = spectral.iso_cts(spectral.products(sides), len(sides[0]), self.common)
        result = spectral.combined(factors, sides)
        return result.T if tall else result


class Wudi(SpectralMerge):
    """The merge that disturbs each model least on the inputs it was tuned on, guessed from its changes (WUDI).

    The rows of a linear layer's change span the inputs it was tuned on, so W is sought that does on them what each
    model does: min Σ ‖(W − Aᵢ)Aᵢᵀ‖²/‖Aᵢ‖². In closed form, with a ridge ρ = ``ridge`` · tr(Σ AᵢᵀAᵢ/‖Aᵢ‖²)/in that pulls
    towards Σ Aᵢ; or by Adam from Σ Aᵢ as in the paper. base + λW; of vectors, the sum. The best of the digits
    experiment, and it needs neither data nor tuning.

    Source: Cheng et al., "Whoever Started the Interference Should End It", arXiv 2503.08099.
    """

    name = "wudi"
    solver: Literal["closed", "adam"] = Field("closed", description="The minimum itself, or Adam's way towards it.")
    ridge: float = Field(0.1, gt=0, description="How much the closed form is pulled towards the sum of the changes.")
    steps: int = Field(300, ge=1, description="Steps of Adam.")
    rate: float = Field(1e-5, gt=0, description="Learning rate of Adam.")

    def of_vectors(self, values: Sequence[Tensor]) -> Tensor:
        from . import kernels

        return kernels.total(values)

    def of_matrices(self, site: Site, matrices: Sequence[Tensor]) -> Tensor:
        from . import spectral_kernels as spectral

        if self.solver == "adam":
            return spectral.wudi_by_descent(matrices, self.steps, self.rate)
        return spectral.wudi(matrices, self.ridge)

    def squares(self, rows: int, columns: int, tasks: int) -> int:
        if self.solver == "closed" and tasks * rows < columns:
            return 2 * (tasks * rows) ** 2 + rows**2 * (tasks * (tasks + 1) // 2 + 3 * tasks)
        return columns**2 * (tasks + 3)
