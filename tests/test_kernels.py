"""Every compiled loop gives the bits of the torch reference beside it: any values, sizes, offsets and dtypes."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_core import Span, kernels, quantile
from daremerge_core.rng import Stream, accelerated

pytestmark = pytest.mark.skipif(not accelerated(), reason="numba is off, or not installed")

SPECIAL = [0, 1 << 31, 1, 0x7F800000, -0x800000, 0x7FC00000, 0x7F800001, -1, 0x007FFFFF, 0x7F7FFFFF]
"""Bits of zeros, a denormal, infinities, NaNs of several kinds and the largest numbers."""


@st.composite
def floats(draw: st.DrawFn, *, like: int | None = None) -> Tensor:
    """float32, 1-D: ordinary numbers, with special ones among them; long enough to meet vector code, or short."""
    size = draw(st.integers(0, 40) | st.integers(500, 1100)) if like is None else like
    seed = draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(size, generator=generator) * 10.0 ** draw(st.integers(-6, 6))
    special = torch.tensor([one - (1 << 32) if one > 0x7FFFFFFF else one for one in SPECIAL], dtype=torch.int32)
    chosen = special[torch.randint(len(SPECIAL), (size,), generator=generator)].view(torch.float32)
    return torch.where(torch.rand(size, generator=generator) < 0.1, chosen, values)


def both(compute: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """With numba and without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAREMERGE_FAST", "1")
        fast = compute()
        patch.setenv("DAREMERGE_FAST", "0")
        return fast, compute()


def same(pair: tuple[Tensor, Tensor]) -> bool:
    """The same bits; of a NaN that has two NaNs to come from, any NaN will do."""
    fast, plain = pair
    bits = fast.view(torch.int32) == plain.view(torch.int32) if fast.dtype == torch.float32 else fast == plain
    return fast.dtype == plain.dtype and bool((bits | (fast.isnan() & plain.isnan())).all())


@given(data=st.data(), t=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]) | st.floats(0, 1))
@settings(max_examples=60)
def test_lerp(data: st.DataObject, t: float) -> None:
    a = data.draw(floats())
    b = data.draw(floats(like=a.numel()))
    assert same(both(lambda: kernels.lerp(a, b, t)))


@given(data=st.data(), scale=st.sampled_from([0.0, -0.5, 0.1, 1.0, 10.0]) | st.floats(-3, 3))
@settings(max_examples=60)
def test_add_scaled(data: st.DataObject, scale: float) -> None:
    a = data.draw(floats())
    change = data.draw(floats(like=a.numel()))
    assert same(both(lambda: kernels.add_scaled(a, change, scale)))


@given(values=floats(), dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
@settings(max_examples=60)
def test_count_nonfinite(values: Tensor, dtype: torch.dtype) -> None:
    stored = values.to(dtype)
    fast, plain = both(lambda: torch.tensor(kernels.count_nonfinite(stored)))
    assert fast == plain == (~stored.isfinite()).sum()


@given(
    values=floats(),
    start=st.integers(0, 9) | st.integers(2**40, 2**40 + 9),
    density=st.sampled_from([0.0, 2.0**-32, 0.1, 0.5, 1.0]) | st.floats(0, 1),
    scale=st.sampled_from([1.0, 2.0, 10.0, 1 / 3]),
)
@settings(max_examples=100)
def test_thin(values: Tensor, start: int, density: float, scale: float) -> None:
    stream = Stream.derive(3, "test", "tensor")
    assert same(pair := both(lambda: stream.thin(values, start, density, scale)))
    keep = stream.keep(Span(start, start + values.numel()), density)
    assert same((pair[0], torch.where(keep, values * scale, 0.0)))


@given(values=floats(), threshold=st.integers(-1, 0x7F800002) | st.sampled_from([-1, 0, 1, 0x7F800001, 0x7F800002]))
@settings(max_examples=100)
def test_reaching(values: Tensor, threshold: int) -> None:
    assert same(both(lambda: quantile.reaching(values, threshold)))
    assert same(both(lambda: quantile.keep_reaching(values, threshold)))


@given(values=floats(), data=st.data())
@settings(max_examples=60)
def test_counts(values: Tensor, data: st.DataObject) -> None:
    fast, plain = both(lambda: quantile.coarse_counts(values))
    assert torch.equal(fast, plain)
    bins = torch.arange(quantile.COARSE)[fast > 0].tolist() or [0]
    found = torch.tensor([data.draw(st.sampled_from(bins)), 0])
    assert torch.equal(*both(lambda: quantile.fine_counts(values, found)))


def test_machine_code_is_kept_for_the_sources_that_it_was_made_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Code of other modules is compiled into a loop; numba itself looks at the loop's own file alone."""
    from numba import types

    from daremerge_core import compiled

    source = tmp_path / "doubling.py"
    source.write_text("def double(value):\n    return 2 * value\n")
    double = runpy.run_path(str(source))["double"]
    signature = types.int64(types.int64)
    hits = []
    for digest in ("old", "old", "new"):
        monkeypatch.setattr(compiled, "_sources", lambda digest=digest: digest)
        loop = compiled._compile(double, signature)
        assert loop(4) == 8
        hits.append(sum(loop.stats.cache_hits.values()))
    assert hits == [0, 1, 0]
