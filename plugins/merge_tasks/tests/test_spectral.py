"""The spectral methods against their papers' formulas, written out with full decompositions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from daremerge_merge_tasks import presets, spectral
from daremerge_merge_tasks import spectral_kernels as kernels
from daremerge_merge_tasks.refiners import Lines, Svc

from .models import deltas, merged

SHAPES = [(20, 30), (30, 20), (24, 24), (12, 3, 3, 3)]


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.linalg.svd(matrix.double(), full_matrices=False)


def polar(matrix: Tensor) -> Tensor:
    u, _, v = svd(matrix)
    return u @ v


def flat(taus: Sequence[Tensor]) -> list[Tensor]:
    return [tau.reshape(tau.shape[0], -1).double() for tau in taus]


def close(found: Tensor, wanted: Tensor, tolerance: float = 2e-4) -> None:
    torch.testing.assert_close(found.double().reshape(wanted.shape), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3])
class TestFormulas:
    def test_tsv_m(self, shape: tuple[int, ...], count: int) -> None:
        taus = deltas(count, *shape)
        parts = [svd(matrix) for matrix in flat(taus)]
        rank = len(parts[0][1]) // count
        u = torch.cat([one[0][:, :rank] for one in parts], 1)
        s = torch.cat([one[1][:rank] for one in parts])
        v = torch.cat([one[2][:rank] for one in parts])
        close(merged(spectral.TsvM, taus), polar(u) * s @ polar(v))

    def test_iso_c(self, shape: tuple[int, ...], count: int) -> None:
        taus = deltas(count, *shape)
        u, s, v = svd(sum(flat(taus)))  # type: ignore[arg-type]
        close(merged(spectral.IsoC, taus), s.mean() * (u @ v))

    def test_iso_cts(self, shape: tuple[int, ...], count: int) -> None:
        taus = deltas(count, *shape)
        matrices = flat(taus)
        tall = matrices[0].shape[0] > matrices[0].shape[1]
        matrices = [one.T for one in matrices] if tall else matrices
        sides = min(matrices[0].shape)
        each = round((sides - int(sides * 0.8)) / count)
        common = sides - each * count
        u, s, v = svd(sum(matrices))  # type: ignore[arg-type]
        u, s, v = u[:, :common], s[:common], v[:common]
        own = [svd(one - u @ u.T @ one) for one in matrices]
        us = torch.cat([*(one[0][:, :each] for one in own), u], 1)
        ss = torch.cat([*(one[1][:each] for one in own), s])
        vs = torch.cat([*(one[2][:each] for one in own), v])
        wanted = ss.mean() * (polar(us) @ polar(vs))
        close(merged(spectral.IsoCts, taus), wanted.T if tall else wanted, 1e-3)

    def test_wudi(self, shape: tuple[int, ...], count: int) -> None:
        taus = deltas(count, *shape)
        matrices = flat(taus)
        grams = [one.T @ one / one.square().sum() for one in matrices]
        columns = matrices[0].shape[1]
        rho = 0.1 * sum(torch.trace(one) for one in grams) / columns
        eye = torch.eye(columns, dtype=torch.float64)
        first = sum(one @ gram for one, gram in zip(matrices, grams, strict=True)) + rho * sum(matrices)
        close(merged(spectral.Wudi, taus), first @ torch.linalg.inv(sum(grams) + rho * eye))

    def test_svc(self, shape: tuple[int, ...], count: int) -> None:
        taus = deltas(count, *shape)
        matrices = flat(taus)
        u, s, v = svd(sum(matrices))  # type: ignore[arg-type]
        responses = [u.T @ one for one in matrices]
        whole = s[:, None] * v
        shares = [(whole * one).sum(1) / one.square().sum(1) for one in responses]
        factor = count / sum(one.clamp_min(0.1) for one in shares)
        close(merged(presets.TaskArithmetic, taus, refine=Svc()), u * (factor * s) @ v)


class TestWudi:
    def test_adam_goes_down_towards_the_closed_form(self) -> None:
        taus = deltas(2, 12, 10, scale=0.1)

        def loss(merge: Tensor) -> float:
            parts = (((merge - tau) @ tau.T).square().sum() / tau.square().sum() for tau in taus)
            return float(sum(parts))

        start = loss(sum(taus))  # type: ignore[arg-type]
        adam = loss(merged(spectral.Wudi, taus, solver="adam", rate=1e-3))
        best = loss(merged(spectral.Wudi, taus, ridge=1e-6))
        assert best <= adam < start

    def test_one_model_is_that_model(self) -> None:
        taus = deltas(1, 12, 10)
        close(merged(spectral.Wudi, taus), taus[0].double(), 1e-4)


class TestEdges:
    @pytest.mark.parametrize("component", [spectral.TsvM, spectral.IsoC, spectral.IsoCts, spectral.Wudi])
    def test_no_change_at_all(self, component: Any) -> None:
        assert not merged(component, [torch.zeros(6, 5)] * 2).any()
        one = merged(component, [torch.zeros(6, 5), deltas(1, 6, 5)[0]])
        assert torch.isfinite(one).all()

    @pytest.mark.parametrize("component", [spectral.TsvM, spectral.IsoC, spectral.IsoCts, spectral.Wudi])
    def test_low_rank_changes(self, component: Any) -> None:
        """Directions of no length are left out, not made up."""
        left, right = deltas(2, 20, 2)
        taus = [left[:, :1] @ right[:, :1].T, left[:, 1:] @ right[:, 1:].T]
        found = merged(component, taus)
        assert torch.linalg.matrix_rank(found, rtol=1e-4) <= 2
        assert torch.isfinite(found).all()

    def test_more_models_than_directions_give_the_mean(self) -> None:
        taus = deltas(5, 3, 8)
        close(merged(spectral.TsvM, taus), torch.stack(taus).mean(0).double(), 1e-5)

    @pytest.mark.parametrize("component", [spectral.TsvM, spectral.IsoC, spectral.IsoCts])
    def test_vectors_are_averaged(self, component: Any) -> None:
        taus = deltas(3, 11)
        close(merged(component, taus), torch.stack(taus).mean(0).double(), 1e-5)

    def test_a_model_of_weight_0_takes_no_part(self) -> None:
        taus = deltas(3, 12, 10)
        for component in (spectral.TsvM, spectral.Wudi, spectral.IsoC):
            close(merged(component, taus, weights=[1, 1, 0]), merged(component, taus[:2]).double(), 1e-5)


class TestRandomised:
    def test_is_near_the_exact_one_of_that_rank(self) -> None:
        generator = torch.Generator().manual_seed(0)
        taus = []
        for _ in range(2):  # singular values that fall, as those of real changes do
            u, _, v = torch.linalg.svd(torch.randn(80, 60, generator=generator), full_matrices=False)
            taus.append(u * 0.8 ** torch.arange(60.0) @ v)
        exact = merged(spectral.TsvM, taus, rank=10)
        found = merged(spectral.TsvM, taus, rank=10, decomposition="randomised")
        assert float((found - exact).norm() / exact.norm()) < 0.01

    def test_the_stated_bound_holds_for_one_matrix(self) -> None:
        (matrix,) = deltas(1, 60, 50)
        rank = 10
        sketch = torch.randn(50, rank + 16, generator=torch.Generator().manual_seed(1))
        left, values, right = kernels.sketched(matrix, rank, sketch)
        lost = float((matrix - left * values.float() @ right).square().sum())
        best = float(svd(matrix)[1][rank:].square().sum())
        assert best * 0.999 <= lost <= best * (1 + rank / 15)


class TestLines:
    def test_scales_by_depth(self) -> None:
        (tau,) = deltas(1, 8)
        found = merged(presets.TaskArithmetic, [tau], refine=Lines(alpha=0.25, beta=0.5))
        factors = found / tau
        assert 0.25 <= float(factors[0]) < 0.75
        torch.testing.assert_close(factors, factors[0].expand(8))
