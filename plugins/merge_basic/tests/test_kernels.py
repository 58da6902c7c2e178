"""The blends' numerics: laws that every blend keeps, and each against its formula written again in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from daremerge_merge_basic import kernels


def law(**arguments: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Try a test on 25 drawn arguments."""
    return lambda test: settings(deadline=None, max_examples=25)(given(**arguments)(test))


# --- every blend as a function of two whole tensors and t ----------------------------------------------


def position_of(tensor: Tensor) -> Tensor:
    """Each element's index along the last dimension, counted one by one."""
    found = torch.zeros(tensor.shape, dtype=torch.int64)
    for index in range(size_of(tensor) if tensor.dim() else 0):
        found[..., index] = index
    return found


def size_of(tensor: Tensor) -> int:
    return tensor.shape[-1] if tensor.dim() else 1


def totals(a: Tensor, b: Tensor) -> list[float]:
    return [float(product.sum()) for product in kernels.products(a, b)]


def positional(kernel: Callable[..., Tensor]) -> Callable[[Tensor, Tensor, float], Tensor]:
    return lambda a, b, t: kernel(a, b, t, position_of(a), size_of(a))


BLENDS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "lerp": kernels.lerp,
    "cosine": kernels.cosine,
    "cubic": kernels.cubic,
    "slerp": lambda a, b, t: kernels.slerp(a, b, t, *totals(a, b)),
    "bislerp": kernels.bislerp,
    "hslerp": kernels.hslerp,
    "slice": positional(kernels.slice_),
    "cyclic": positional(kernels.cyclic),
    "gradient": positional(kernels.gradient),
    "scaled-add": kernels.scaled_add,
}
ENDS_AT_B = sorted(set(BLENDS) - {"scaled-add"})
POSITIONAL = ["slice", "cyclic", "gradient"]

every_blend = pytest.mark.parametrize("name", sorted(BLENDS))

SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float64])
INSIDE = st.floats(0, 1)
ANYWHERE = st.floats(-2, 3).filter(lambda t: t != -1.0)
KINDS = ("normal", "normal", "equal", "zeros", "one zero", "constant", "opposite", "tiny", "huge", "near")


@st.composite
def pairs(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> tuple[Tensor, Tensor]:
    """Two tensors of one shape and dtype, among them every case that divides by zero somewhere."""
    shape, dtype, kind = draw(SHAPES), draw(DTYPES), draw(st.sampled_from(kinds))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    a, b = (torch.randn(shape, generator=generator, dtype=dtype) for _ in "ab")
    if kind == "equal":
        return a, a.clone()
    if kind == "zeros":
        return torch.zeros_like(a), torch.zeros_like(a)
    if kind == "one zero":
        return (a, torch.zeros_like(a)) if draw(st.booleans()) else (torch.zeros_like(a), b)
    if kind == "constant":
        return torch.full_like(a, 0.25), torch.full_like(a, draw(st.sampled_from([0.25, -0.25, 3.0])))
    if kind == "opposite":
        return a, -2.0 * a
    if kind == "tiny":
        return a * 1e-30, b * 1e-30
    if kind == "huge":
        return a * 1e30, b * 1e30
    if kind == "near":
        return a, a + 1e-4 * b
    return a, b


def bits(tensor: Tensor) -> Tensor:
    """For comparing bit for bit, NaN and the sign of zero included."""
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int64)


class TestLaws:
    @every_blend
    @law(pair=pairs(), spoilt=st.sampled_from([None, math.nan, math.inf]))
    def test_the_ends_are_exact_bit_for_bit(self, name: str, pair: tuple[Tensor, Tensor], spoilt: float | None) -> None:
        """Also where the other end is not finite, and for a zero's sign."""
        a, b = pair
        for end, other, t in ((a, b, 0.0), (b, a, 1.0)):
            if t == 1.0 and name not in ENDS_AT_B:
                continue
            if spoilt is not None:
                other.fill_(spoilt)
            end = torch.where(end == 0.0, -0.0, end)
            x, y = (end, other) if t == 0.0 else (other, end)
            assert torch.equal(bits(BLENDS[name](x, y, t)), bits(end))

    @every_blend
    @law(pair=pairs(), t=ANYWHERE)
    def test_what_a_and_b_share_stays(self, name: str, pair: tuple[Tensor, Tensor], t: float) -> None:
        a, _ = pair
        assert torch.equal(BLENDS[name](a, a.clone(), t), a)

    @every_blend
    @law(pair=pairs(), t=ANYWHERE)
    def test_inputs_are_left_alone_and_shape_and_dtype_kept(
        self, name: str, pair: tuple[Tensor, Tensor], t: float
    ) -> None:
        a, b = pair
        before = a.clone(), b.clone()
        result = BLENDS[name](a, b, t)
        assert (result.shape, result.dtype) == (a.shape, a.dtype)
        assert torch.equal(bits(a), bits(before[0]))
        assert torch.equal(bits(b), bits(before[1]))

    @every_blend
    @law(pair=pairs(), t=INSIDE)
    def test_finite_tensors_of_any_kind_give_finite_ones(
        self, name: str, pair: tuple[Tensor, Tensor], t: float
    ) -> None:
        assert BLENDS[name](*pair, t).isfinite().all()

    @every_blend
    def test_a_nan_stays_where_it_is(self, name: str) -> None:
        generator = torch.Generator().manual_seed(3)
        a, b = (torch.randn(4, 6, generator=generator) for _ in "ab")
        b[2, 5] = math.nan
        spoilt = BLENDS[name](a, b, 0.5).isnan()
        if name == "hslerp":  # the norm of row 2 is NaN, which spoils its first channel too
            assert spoilt[2, 0]
            spoilt[2, 0] = False
        expected = torch.zeros_like(spoilt)
        expected[2, 5] = name != "slice"  # which takes it from A
        assert torch.equal(spoilt, expected)

    @pytest.mark.parametrize("name", ["lerp", "cosine", "cubic", "scaled-add", "gradient"])
    @law(pair=pairs(kinds=("normal", "near", "constant")), t=INSIDE)
    def test_a_blend_lies_between_its_ends(self, name: str, pair: tuple[Tensor, Tensor], t: float) -> None:
        a, b = pair
        result, slack = BLENDS[name](a, b, t), 1e-6 * (a.abs() + b.abs())
        assert bool(((torch.minimum(a, b) - slack <= result) & (result <= torch.maximum(a, b) + slack)).all())

    @pytest.mark.parametrize("name", ["lerp", "cosine", "cubic", "slerp", "bislerp"])
    @law(pair=pairs(kinds=("normal", "near")), t=st.sampled_from([i / 16 for i in range(1, 16)]))
    def test_from_b_to_a_is_the_way_back(self, name: str, pair: tuple[Tensor, Tensor], t: float) -> None:
        a, b = pair
        torch.testing.assert_close(BLENDS[name](a, b, t), BLENDS[name](b, a, 1.0 - t), rtol=1e-5, atol=1e-5)


class TestSpans:
    """What is computed on a span has the bits of that part of the whole, wherever it begins and ends."""

    @pytest.mark.parametrize("name", sorted(set(BLENDS) - {"bislerp", "hslerp"}))
    @law(
        t=ANYWHERE,
        ends=st.tuples(st.integers(0, 1500), st.integers(0, 1500)).map(sorted),
        dtype=DTYPES,
        width=st.sampled_from([1, 3, 20, 1500]),
    )
    def test_elementwise_blends(self, name: str, t: float, ends: list[int], dtype: torch.dtype, width: int) -> None:
        generator = torch.Generator().manual_seed(1)
        a, b = (torch.randn(1500 // width, width, generator=generator, dtype=dtype) for _ in "ab")
        part = slice(*ends)
        span_a, span_b = (one.reshape(-1)[part].clone() for one in (a, b))
        if name in POSITIONAL:
            position = torch.arange(*ends) % width
            kernel = {"slice": kernels.slice_, "cyclic": kernels.cyclic, "gradient": kernels.gradient}[name]
            found = kernel(span_a, span_b, t, position, width)
        elif name == "slerp":
            found = kernels.slerp(span_a, span_b, t, *totals(a, b))
        else:
            found = BLENDS[name](span_a, span_b, t)
        assert torch.equal(bits(found), bits(BLENDS[name](a, b, t)).reshape(-1)[part])

    @pytest.mark.parametrize("name", ["bislerp", "hslerp"])
    def test_rows_together_or_apart(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        generator = torch.Generator().manual_seed(1)
        a, b = (torch.randn(7, 5, 3, 3, generator=generator) for _ in "ab")
        whole = BLENDS[name](a, b, 0.3)
        for block in (1, 45, 100):
            monkeypatch.setattr(kernels, "ROWS_BLOCK", block)
            assert torch.equal(BLENDS[name](a, b, 0.3), whole)
        monkeypatch.undo()
        for row in range(7):
            assert torch.equal(BLENDS[name](a[row : row + 1], b[row : row + 1], 0.3), whole[row : row + 1])

    @every_blend
    def test_any_number_of_threads(self, name: str) -> None:
        generator = torch.Generator().manual_seed(1)
        a, b = (torch.randn(70, 1111, generator=generator) for _ in "ab")
        measured = totals(a, b)
        blend = (lambda a, b, t: kernels.slerp(a, b, t, *measured)) if name == "slerp" else BLENDS[name]
        with threads(1):
            expected = blend(a, b, 0.3)
        with threads(3):
            assert torch.equal(bits(blend(a, b, 0.3)), bits(expected))


class TestBits:
    """One operation at a time, each rounded: never a fused multiply-add, never a sum of the processor's choosing."""

    @pytest.mark.parametrize("t", [0.3, 0.7, -0.9, 1.3])
    def test_a_line_is_numpys_in_float32(self, t: float) -> None:
        a, b = (one.numpy() for one in random_pair(1003))
        near, far = np.float32(t), np.float32(1 - t)
        expected = a + (b - a) * near if t < 0.5 else b - (b - a) * far
        assert np.array_equal(kernels.lerp(torch.from_numpy(a), torch.from_numpy(b), t).numpy(), expected)

    def test_an_arc_is_numpys_in_float32(self) -> None:
        a, b = random_pair(1003)
        ab, aa, bb = totals(a, b)
        theta = math.acos(ab / (math.sqrt(aa) * math.sqrt(bb)))
        weights = [np.float32(math.sin(x * theta) / math.sin(theta)) for x in (0.7, 0.3)]
        expected = a.numpy() * weights[0] + b.numpy() * weights[1]
        assert np.array_equal(kernels.slerp(a, b, 1.0 - 0.7, ab, aa, bb).numpy(), expected)

    def test_a_ramp_is_numpys_in_float32(self) -> None:
        tensors = random_pair(1003)
        share = kernels.gradient_share(torch.arange(1003), 1003, 0.6, torch.float32).numpy()
        assert share.min() < 0.5 < share.max()
        a, b = (one.numpy() for one in tensors)
        expected = np.where(share < 0.5, a + (b - a) * share, b - (b - a) * (np.float32(1) - share))
        assert np.array_equal(BLENDS["gradient"](*tensors, 0.6).numpy(), expected)

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1003])
    def test_a_rows_sum_is_a_tree(self, size: int) -> None:
        values = random_pair(5 * size)[0].double().reshape(5, size) * 1e3 + 1e-9
        expected = [halved(row) for row in values.tolist()]
        assert kernels._sum_along(values, 1).tolist() == expected
        assert kernels._sum_along(values.T.contiguous(), 0).tolist() == expected


def random_pair(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, generator=generator), torch.randn(size, generator=generator)


def halved(values: list[float]) -> float:
    """First half plus second half, down to one number; zeros fill up to a power of two."""
    while len(values) & (len(values) - 1):
        values = [*values, 0.0]
    while len(values) > 1:
        half = len(values) // 2
        values = [x + y for x, y in zip(values[:half], values[half:], strict=True)]
    return values[0]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- each formula, written again in numpy --------------------------------------------------------------

Array = np.ndarray[Any, np.dtype[np.float64]]


def line(a: Array, b: Array, t: float) -> Array:
    return (1 - t) * a + t * b


def arc(a: Array, b: Array, t: float) -> Array | None:
    """Slerp of flat arrays by turning â towards its perpendicular; None where it is undefined or too flat."""
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    if length_a == 0 or length_b == 0:
        return None
    u, v = a / length_a, b / length_b
    if abs(float(u @ v)) > 0.9995:
        return None
    across = v - (u @ v) * u
    across /= np.linalg.norm(across)
    theta = np.arctan2(v @ across, v @ u)
    turned: Array = np.cos(t * theta) * u + np.sin(t * theta) * across
    return turned


def slerp_oracle(a: Array, b: Array, t: float) -> Array:
    """On raw tensors: A's share of the unit arc times A's length, plus B's share times B's."""
    u, v = a.ravel(), b.ravel()
    turned = arc(u, v, t)
    if turned is None:
        return line(a, b, t)
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    weights = np.linalg.lstsq(np.stack([u, v], 1), turned, rcond=None)[0]
    result: Array = weights[0] * a + weights[1] * b
    return result


def bislerp_oracle(a: Array, b: Array, t: float) -> Array:
    rows = [(a, b)] if a.ndim < 2 else list(zip(a, b, strict=True))
    result = []
    for u, v in rows:
        u, v = u.ravel(), v.ravel()
        turned = arc(u, v, t)
        length = line(np.linalg.norm(u), np.linalg.norm(v), t)  # type: ignore[arg-type]
        result.append(line(u, v, t) if turned is None else turned * length)
    whole: Array = np.array(result).reshape(a.shape)
    return whole


def hslerp_oracle(a: Array, b: Array, t: float) -> Array:
    result: Array = np.array(line(a, b, t))
    bump = np.sin(2 * np.pi * t) / 6
    if a.ndim < 2:
        result.reshape(-1)[:1] += bump * np.linalg.norm(b - a)
    elif result.size:
        result[:, 0] += bump * np.linalg.norm(b - a, axis=1)
    return result


def by_position(a: Array, b: Array, shares: list[float]) -> Array:
    share = np.array(shares if a.ndim else shares[0])
    result: Array = (1 - share) * a + share * b
    return result


def width(a: Array) -> int:
    return a.shape[-1] if a.ndim else 1


def slice_oracle(a: Array, b: Array, t: float) -> Array:
    count = round(min(max(t, 0.0), 1.0) * width(a))
    return by_position(a, b, [1.0] * count + [0.0] * (width(a) - count))


def cyclic_oracle(a: Array, b: Array, t: float) -> Array:
    """Bresenham with an accumulator: B whenever it overflows."""
    count, filled, shares = round(min(max(t, 0.0), 1.0) * width(a)), 0, []
    for _ in range(width(a)):
        filled += count
        shares.append(1.0 if filled >= width(a) else 0.0)
        filled %= width(a)
    return by_position(a, b, shares)


def gradient_oracle(a: Array, b: Array, t: float) -> Array:
    """The steepest ramp found by bisection over a fine grid, then centred on the positions there are."""
    t = min(max(t, 0.0), 1.0)
    grid = np.array([0.0, t, 1.0])
    mean = (t**2 + (1 - t) ** 2) / 2
    low, high = 0.0, 4.0
    for _ in range(60):
        slope = (low + high) / 2
        ramp = t + slope * (mean - abs(grid - t))
        low, high = (slope, high) if ramp.min() >= 0 and ramp.max() <= 1 else (low, slope)
    distance = abs((np.arange(width(a)) + 0.5) / max(width(a), 1) - t)
    centre = distance.mean() if distance.size else 0.0
    return by_position(a, b, list(t + low * (centre - distance)))


ORACLES: dict[str, Callable[[Array, Array, float], Array]] = {
    "lerp": line,
    "cosine": lambda a, b, t: line(a, b, math.sin(math.pi * t / 2) ** 2),
    "cubic": lambda a, b, t: line(a, b, 3 * t**2 - 2 * t**3),
    "slerp": slerp_oracle,
    "bislerp": bislerp_oracle,
    "hslerp": hslerp_oracle,
    "slice": slice_oracle,
    "cyclic": cyclic_oracle,
    "gradient": gradient_oracle,
    "scaled-add": lambda a, b, t: (a + t * b) / (1 + t),
}


class TestFormulas:
    @every_blend
    @law(pair=pairs(kinds=("normal", "constant", "one zero", "opposite")), t=st.integers(-16, 32).map(lambda i: i / 16))
    def test_against_numpy(self, name: str, pair: tuple[Tensor, Tensor], t: float) -> None:
        if name == "scaled-add" and abs(1 + t) < 0.1:
            return
        a, b = pair
        expected = ORACLES[name](a.double().numpy().copy(), b.double().numpy().copy(), t)
        tolerance = 1e-4 if a.dtype == torch.float32 else 1e-9
        found = BLENDS[name](a, b, t).double()
        torch.testing.assert_close(found, torch.as_tensor(expected), rtol=tolerance, atol=tolerance)

    @law(pair=pairs(kinds=("normal",)), amount=st.floats(-2, 2))
    def test_add_difference_is_a_line_too(self, pair: tuple[Tensor, Tensor], amount: float) -> None:
        a, difference = pair
        found = kernels.add_difference(a, difference, amount)
        torch.testing.assert_close(found.double(), a.double() + amount * difference.double(), rtol=1e-5, atol=1e-5)

    def test_add_difference_of_nothing_is_a_bit_for_bit(self) -> None:
        a = torch.tensor([-0.0, 1.0])
        assert torch.equal(bits(kernels.add_difference(a, torch.tensor([math.inf, math.nan]), 0.0)), bits(a))

    def test_scaled_add_is_the_midpoint_at_1(self) -> None:
        a, b = torch.tensor([1.0, -3.0]), torch.tensor([3.0, 5.0])
        assert torch.equal(kernels.scaled_add(a, b, 1.0), torch.tensor([2.0, 1.0]))
        with pytest.raises(ZeroDivisionError):
            kernels.scaled_add(a, b, -1.0)

    def test_lerp_extrapolates(self) -> None:
        a, b = torch.tensor([0.0]), torch.tensor([2.0])
        assert [float(kernels.lerp(a, b, t)) for t in (-1.0, 0.25, 1.5)] == [-2.0, 0.5, 3.0]


# --- positions --------------------------------------------------------------------------------------------


def shares(name: str, size: int, t: float) -> Tensor:
    """B's share at each of ``size`` positions."""
    return BLENDS[name](torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64), t)


class TestPositions:
    @pytest.mark.parametrize("name", ["slice", "cyclic"])
    @law(size=st.integers(1, 4000), t=INSIDE)
    @example(size=320, t=1.0 - 0.9)  # a t that rounding left just below a tenth
    @example(size=5, t=0.5)  # 2.5 → 2
    @example(size=3, t=0.5)  # 1.5 → 2
    def test_round_tn_of_n_are_bs(self, name: str, size: int, t: float) -> None:
        share = shares(name, size, t)
        assert set(share.tolist()) <= {0.0, 1.0}
        assert int(share.sum()) == round(t * size)

    @law(size=st.integers(1, 4000), t=INSIDE)
    @example(size=1, t=0.3)
    def test_gradients_mean_share_is_t(self, size: int, t: float) -> None:
        share = shares("gradient", size, t)
        assert abs(float(share.mean()) - t) < 1e-12
        assert 0.0 <= float(share.min()) <= float(share.max()) <= 1.0

    @pytest.mark.parametrize("name", POSITIONAL)
    @law(size=st.integers(1, 500), ts=st.tuples(INSIDE, INSIDE).map(sorted))
    def test_bs_share_grows_with_t(self, name: str, size: int, ts: list[float]) -> None:
        low, high = (float(shares(name, size, t).mean()) for t in ts)
        assert low <= high + 1e-12
        assert abs(low - ts[0]) <= 1 / size

    @law(size=st.integers(1, 500), t=INSIDE)
    def test_slice_takes_the_first(self, size: int, t: float) -> None:
        share = shares("slice", size, t)
        assert torch.equal(share, share.sort(descending=True).values)

    @law(size=st.integers(2, 500), t=st.floats(0.01, 0.99))
    def test_cyclic_spreads_evenly(self, size: int, t: float) -> None:
        taken = shares("cyclic", size, t).nonzero().reshape(-1).tolist()
        if taken:
            around = [*taken[1:], taken[0] + size]
            gaps = {after - before for before, after in zip(taken, around, strict=True)}
            assert max(gaps) - min(gaps) <= 1

    def test_cyclic_alternates_halfway(self) -> None:
        assert shares("cyclic", 6, 0.5).tolist() == [0, 1, 0, 1, 0, 1]

    @law(size=st.integers(2, 500), t=st.floats(0.05, 0.95))
    def test_gradient_peaks_at_t(self, size: int, t: float) -> None:
        peak = (float(shares("gradient", size, t).argmax()) + 0.5) / size
        assert abs(peak - t) <= 0.5 / size + 1e-9

    def test_gradient_goes_from_a_over_b_to_a_halfway(self) -> None:
        share = shares("gradient", 1001, 0.5)
        assert float(share[500]) > 0.999
        assert float(share[0]) == pytest.approx(float(share[-1])) == pytest.approx(0.0, abs=1e-3)

    @pytest.mark.parametrize("name", POSITIONAL)
    def test_beyond_the_ends_is_the_end(self, name: str) -> None:
        assert torch.equal(shares(name, 5, -0.5), torch.zeros(5, dtype=torch.float64))
        assert torch.equal(shares(name, 5, 1.5), torch.ones(5, dtype=torch.float64))

    @pytest.mark.parametrize(("name", "share"), [("slice", 0.0), ("cyclic", 0.0), ("gradient", 0.3)])
    def test_a_single_position(self, name: str, share: float) -> None:
        """As in a 1×1 convolution: to the larger share, or blended at t."""
        assert float(shares(name, 1, 0.3)) == pytest.approx(share)


# --- arcs -------------------------------------------------------------------------------------------------


class TestArcs:
    @law(
        seed=st.integers(0, 999),
        t=INSIDE,
        lengths=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
        shape=st.sampled_from([(40,), (3, 40), (3, 5, 2, 4)]),
    )
    def test_bislerp_keeps_the_rows_lengths_on_a_line(
        self, seed: int, t: float, lengths: tuple[float, float], shape: tuple[int, ...]
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) * length for length in lengths)
        norms = [
            (one if one.dim() > 1 else one[None]).flatten(1).norm(dim=1) for one in (a, b, kernels.bislerp(a, b, t))
        ]
        torch.testing.assert_close(norms[2], (1 - t) * norms[0] + t * norms[1])

    def test_slerp_of_unit_vectors_at_a_right_angle(self) -> None:
        a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        found = kernels.slerp(a, b, 1 / 3, *totals(a, b))
        torch.testing.assert_close(found, torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)]))

    @pytest.mark.parametrize("name", ["slerp", "bislerp"])
    @pytest.mark.parametrize("factor", [1.0, -1.0, 0.0, 3.0])
    def test_parallel_opposite_and_zero_are_lerp(self, name: str, factor: float) -> None:
        a = torch.tensor([[1.0, 2.0, 3.0]])
        assert torch.equal(BLENDS[name](a, factor * a, 0.3), kernels.lerp(a, factor * a, 0.3))

    def test_in_bislerp_one_parallel_row_does_not_flatten_the_others(self) -> None:
        a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
        b = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        middle = math.sqrt(0.5)
        torch.testing.assert_close(kernels.bislerp(a, b, 0.5), torch.tensor([[1.5, 0.0], [middle, middle], [0.0, 0.5]]))

    def test_slerp_measures_what_float32_cannot_hold(self) -> None:
        """Squares beyond float32's range, above and below."""
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(50, generator=generator) for _ in "ab")
        expected = BLENDS["slerp"](a, b, 0.5)
        for scale in (2.0**90, 2.0**-90):
            assert torch.equal(BLENDS["slerp"](a * scale, b * scale, 0.5), expected * scale)

    def test_hslerps_bump_adds_on_as_half_and_takes_away_on_bs(self) -> None:
        a, b = torch.zeros(2, 3, 1, 1), torch.zeros(2, 3, 1, 1)
        b[0, :, 0, 0] = torch.tensor([0.0, 3.0, 4.0])
        for t, bump in ((0.25, 5 / 6), (0.5, 0.0), (0.75, -5 / 6)):
            found = kernels.hslerp(a, b, t)[:, 0, 0, 0]
            torch.testing.assert_close(found, torch.tensor([bump, 0.0]))
