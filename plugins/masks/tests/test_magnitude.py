"""The exact quantile: against numpy's sort, over tensors, blocks and models, with and without numba."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core import MemoryModel, Span, TensorMeta, view
from daremerge_core.layout import detect
from daremerge_core.quantile import magnitude_bits
from daremerge_core.rng import accelerated
from daremerge_core.testing import tiny_model
from daremerge_core.testing.tiny import SHAPES
from daremerge_masks.components import Magnitude

INF, NAN = float("inf"), float("nan")
IMPLEMENTATIONS = ["0"] + ["1"] * accelerated()
"""Values of ``DAREMERGE_FAST``: torch, and numba where it is installed."""

FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, INF, -INF, NAN])
"""Any float32, ties among them likely."""


@contextmanager
def implementation(fast: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAREMERGE_FAST", fast)
        yield


def mask(deltas: Mapping[str, Tensor], **options: Any) -> Any:
    """The mask of a model whose deltas are these: over a base of zeros, so that nothing is rounded."""
    base = {key: torch.zeros_like(delta) for key, delta in deltas.items()}
    return view(Magnitude(model=MemoryModel(dict(deltas)), base=MemoryModel(base), **options))


def smallest(delta: Tensor, share: float) -> Tensor:
    """The oracle: a sort, in which numpy puts NaN last."""
    size = delta.abs().to(torch.float32).numpy()
    rank = round(share * size.size)
    kth = np.sort(size, axis=None)[rank - 1] if rank else np.float32(-1)
    return torch.from_numpy(np.asarray((size <= kth) | np.isnan(kth)))


class Large:
    """A model of one tensor of 2²⁷ elements of as many different sizes, out of order."""

    NUMEL = 1 << 27
    metadata: Mapping[str, str] = {}

    def __init__(self, *, zero: bool) -> None:
        self._zero = zero
        self.longest = 0

    def keys(self) -> list[str]:
        return ["w"]

    def meta(self, key: str) -> TensorMeta:
        return TensorMeta(key, "F32", (self.NUMEL,))

    def read(self, key: str, span: Span | None = None) -> Tensor:
        assert span is not None, "a tensor of this size is never read whole"
        self.longest = max(self.longest, span.numel)
        if self._zero:
            return torch.zeros(span.numel)
        # Every number of 27 bits comes up once; above 0x30000000, and read as bits, each is a float of its own.
        index = torch.arange(span.start, span.stop, dtype=torch.int32)
        return ((index ^ 0x2AAAAAA) + 0x30000000).view(torch.float32)

    def close(self) -> None: ...


def test_exact_at_over_a_hundred_million_elements_in_spans() -> None:
    model = Large(zero=False)
    found = view(Magnitude(model=model, base=Large(zero=True), threshold=0.123456789))
    spans = (Span(start, min(start + (1 << 18), Large.NUMEL)) for start in range(0, Large.NUMEL, 1 << 18))
    assert sum(int(found.read("w", span).sum()) for span in spans) == round(0.123456789 * Large.NUMEL)
    assert model.longest <= 1 << 20


class TestOneTensor:
    @pytest.mark.parametrize("fast", IMPLEMENTATIONS)
    @given(values=st.lists(FLOATS, max_size=60), share=st.floats(0, 1))
    @settings(max_examples=60)
    @example(values=[], share=0.5)
    @example(values=[0.0, 0.0], share=0.0)
    @example(values=[NAN, INF, -INF, 0.0], share=1.0)
    @example(values=[NAN, INF, -INF, 0.0], share=0.75)
    def test_is_what_sorting_gives(self, fast: str, values: list[float], share: float) -> None:
        delta = torch.tensor(values, dtype=torch.float32)
        with implementation(fast):
            assert torch.equal(mask({"w": delta}, threshold=share).read("w"), smallest(delta, share))

    @pytest.mark.parametrize("fast", IMPLEMENTATIONS)
    @pytest.mark.parametrize("share", [0.0, 1e-6, 0.29, 0.5, 0.8, 0.999999, 1.0])
    def test_over_several_blocks(self, fast: str, share: float) -> None:
        delta = torch.randn(600_001, generator=torch.Generator().manual_seed(0))
        with implementation(fast):
            selected = mask({"w": delta}, threshold=share).read("w")
        assert torch.equal(selected, smallest(delta, share))
        assert int(selected.sum()) == round(share * delta.numel()), "without ties the share is exact"

    @given(values=st.lists(FLOATS, min_size=1, max_size=60), share=st.floats(0, 1))
    @settings(max_examples=60)
    def test_the_share_is_exact_up_to_ties_with_the_threshold(self, values: list[float], share: float) -> None:
        delta = torch.tensor(values, dtype=torch.float32)
        selected = mask({"w": delta}, threshold=share).read("w")
        rank = round(share * delta.numel())
        assert int(selected.sum()) >= rank
        if rank:
            order = magnitude_bits(delta)
            largest = order[selected].max()
            assert int((order < largest).sum()) < rank
            assert not (order[~selected] <= largest).any()

    @given(values=st.lists(FLOATS, max_size=60), share=st.floats(0, 1))
    @settings(max_examples=60)
    def test_above_is_what_below_leaves(self, values: list[float], share: float) -> None:
        deltas = {"w": torch.tensor(values, dtype=torch.float32)}
        below = mask(deltas, threshold=share, select="below").read("w")
        above = mask(deltas, threshold=share, select="above").read("w")
        assert torch.equal(above, ~below)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_of_real_deltas_in_every_dtype(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(1)
        base = torch.randn(2000, generator=generator).to(dtype)
        model = (base.double() + 0.01 * torch.randn(2000, generator=generator)).to(dtype)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        value = view(Magnitude(model=MemoryModel({"w": model}), base=MemoryModel({"w": base}), threshold=0.3))
        assert torch.equal(value.read("w"), smallest(model.to(wide) - base.to(wide), 0.3))

    def test_a_float64_beyond_float32_counts_as_infinite(self) -> None:
        delta = torch.tensor([1e300, 1.0, -1e200, NAN], dtype=torch.float64)
        assert mask({"w": delta}, threshold=0.5).read("w").tolist() == [True, True, True, False], "the two tie"

    @pytest.mark.parametrize("threshold_type", ["median", "quantile"])
    def test_both_words_of_old_workflows_mean_the_exact_quantile(self, threshold_type: str) -> None:
        delta = torch.arange(10.0)
        selected = mask({"w": delta}, threshold=0.9, threshold_type=threshold_type).read("w")
        assert selected.tolist() == [True] * 9 + [False]


class TestOverMoreThanATensor:
    @pytest.mark.parametrize("fast", IMPLEMENTATIONS)
    @pytest.mark.parametrize("over", ["block", "model"])
    @pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
    def test_one_quantile_over_a_group(self, fast: str, over: str, share: float) -> None:
        model, base = tiny_model(1), tiny_model(2, scale=0.9)
        layout = detect({key: model.meta(key) for key in model.keys()})
        groups: dict[Any, list[str]] = {}
        for key in SHAPES:
            place = layout.place(key)
            groups.setdefault((place.part, place.block) if over == "block" else "model", []).append(key)
        assert len(groups) == (7 if over == "block" else 1)
        with implementation(fast):
            value = view(Magnitude(model=model, base=base, threshold=share, over=over))
            for keys in groups.values():
                deltas = [(model.read(key) - base.read(key)).reshape(-1) for key in keys]
                expected = smallest(torch.cat(deltas), share).split([len(delta) for delta in deltas])
                for key, one in zip(keys, expected, strict=True):
                    assert torch.equal(value.read(key).reshape(-1), one)

    def test_measured_beforehand_or_when_first_asked(self) -> None:
        """The engine measures groups before it starts, its jobs finishing in any order."""

        def run_in_order(function: Any, items: Any, receive: Any) -> None:
            results = {index: function(item) for index, item in reversed(list(enumerate(items)))}
            for index, item in enumerate(items):
                receive(item, results[index])

        component = Magnitude(model=tiny_model(1), base=tiny_model(2), over="block")
        prepared, plain = view(component), view(component)
        prepared.measurements.prepare(run_in_order)
        for key in SHAPES:
            assert torch.equal(prepared.read(key), plain.read(key))

    def test_only_two_numbers_and_the_threshold_are_kept(self) -> None:
        value: Any = mask({"w": torch.randn(1000)})
        value.read("w", Span(0, 1))
        assert [kept.array().shape for kept in value.measurements.of("w")] == [(2,), (1,)]
