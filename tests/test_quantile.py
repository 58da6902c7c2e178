"""Radix selection: bits in the order of magnitudes, and the same counts with numba and without."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from daremerge_core import ranks
from daremerge_core.quantile import magnitude_bits

INF, NAN = float("inf"), float("nan")
SMALLEST = 2.0**-149
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, SMALLEST, INF, -INF, NAN])
"""Any float32, ties among them likely. All are float32 exactly, so that Python compares the numbers that are tested."""


class TestBitsAndCounts:
    @given(st.lists(FLOATS, min_size=2, max_size=2))
    def test_bits_are_in_the_order_of_magnitudes(self, values: list[float]) -> None:
        one, other = magnitude_bits(torch.tensor(values, dtype=torch.float32)).tolist()
        first, second = (INF if np.isnan(value) else abs(value) for value in values)
        if any(np.isnan(values)):
            assert (one < other) == (not np.isnan(values[0]) and bool(np.isnan(values[1])))
        else:
            assert (one < other) == (first < second)
            assert (one == other) == (first == second)

    def test_every_nan_counts_the_same(self) -> None:
        patterns = torch.tensor([0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF, 0x7FC00000], dtype=torch.int32)
        assert magnitude_bits(patterns.view(torch.float32)).tolist() == [ranks.NAN] * 5

    @given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=20), data=st.data())
    def test_a_rank_is_found_in_its_bin(self, counts: list[int], data: st.DataObject) -> None:
        flat = [index for index, count in enumerate(counts) for _ in range(count)]
        rank = data.draw(st.integers(0, len(flat)))
        found, within = ranks.bin_of_rank(np.array(counts), rank).tolist()
        if rank == 0:
            assert (found, within) == (0, 0)
        else:
            assert found == flat[rank - 1]
            assert within == rank - sum(counts[:found])

    def test_values_are_left_alone(self) -> None:
        values = torch.tensor([-1.0, NAN, 2.0])
        magnitude_bits(values)
        assert values[0] == -1.0
