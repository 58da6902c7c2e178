"""Random streams: the published vectors, the laws, and the frozen definition."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import random
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daremerge_core.rng import Stream, accelerated
from daremerge_core.rng.normal import normal as normal_of_bits
from daremerge_core.rng.normal import quantile
from daremerge_core.rng.philox_torch import philox
from daremerge_core.values import Span

DOCS = Path(__file__).parents[1] / "docs" / "random-numbers.md"
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
HAS_NUMBA = importlib.util.find_spec("numba") is not None

KNOWN_ANSWERS = [  # counter, key → output; from the kat_vectors file of Random123
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.fixture(params=["torch", pytest.param("numba", marks=pytest.mark.skipif(not HAS_NUMBA, reason="no numba"))])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test that takes this runs on both implementations."""
    monkeypatch.setenv("DAREMERGE_FAST", "1" if request.param == "numba" else "0")
    assert accelerated() is (request.param == "numba")
    return str(request.param)


def oracle_philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 in Python's unbounded integers, as the paper writes it."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k, q % 2**32, (p >> 32) ^ d ^ m, p % 2**32
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return a, b, c, d


def oracle_bits(key: int, i: int) -> int:
    counter = ((i // 4) % 2**32, (i // 4) // 2**32, 0, 0)
    return oracle_philox(counter, (key % 2**32, key // 2**32))[i % 4]


keys = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1]))
starts = st.one_of(
    st.integers(0, 3000),
    st.integers(2**34 - 3000, 2**34 + 3000),  # where the counter outgrows its first word
    st.integers(0, 2**63 - 4000),
)
spans = st.builds(lambda start, numel: Span(start, start + numel), starts, st.integers(0, 1300))


# The generator


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_known_answers_of_random123(counter: str, key: str, output: str) -> None:
    words, (k0, k1), expected = (tuple(int(word, 16) for word in text.split()) for text in (counter, key, output))
    assert oracle_philox(words, (k0, k1)) == expected
    tensors = tuple(torch.tensor([word]) for word in words)
    assert tuple(int(word) for word in philox(tensors, k0, k1)) == expected  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(key=keys, span=spans)
def test_torch_and_numba_agree_with_plain_python(key: int, span: Span) -> None:
    expected = None
    for fast in ("0", "1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAREMERGE_FAST", fast)
            bits, keep = Stream(key).bits(span), Stream(key).keep(span, 0.3)
        if expected is None:
            expected = torch.tensor([oracle_bits(key, i) for i in range(span.start, span.stop)], dtype=torch.int64)
        assert torch.equal(bits, expected)
        assert torch.equal(keep, expected < round(0.3 * 2**32))


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_gives_the_same_numbers(device: str) -> None:
    stream, span = Stream.derive(3, "test", "device"), Span(2**34 - 1001, 2**34 + 70_002)
    for draw in (stream.bits, lambda span, device: stream.keep(span, 0.1, device), stream.uniform):
        on_device = draw(span, device)
        assert on_device.device.type == device
        assert torch.equal(on_device.cpu(), draw(span, "cpu"))


# The laws of a stream


def draws(stream: Stream, span: Span) -> dict[str, torch.Tensor]:
    return {
        "bits": stream.bits(span),
        "keep": stream.keep(span, 0.4),
        "uniform": stream.uniform(span),
        "normal": stream.normal(span),
    }


@settings(deadline=None, max_examples=25)
@given(key=keys, start=starts, first=st.integers(0, 900), second=st.integers(0, 900), fast=st.sampled_from("01"))
def test_a_span_is_its_pieces_joined(key: int, start: int, first: int, second: int, fast: str) -> None:
    a, b, c = start, start + first, start + first + second
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAREMERGE_FAST", fast)
        whole, left, right = (draws(Stream(key), Span(*ends)) for ends in ((a, c), (a, b), (b, c)))
    for name, values in whole.items():
        assert torch.equal(values, torch.cat([left[name], right[name]])), name


def test_a_span_longer_than_a_block_is_its_pieces_joined(backend: str) -> None:
    stream, numel = Stream.derive(1, "test", "long"), 3 * 2**16 + 5
    whole = draws(stream, Span(0, numel))
    cuts = [0, 1, 511, 512, 514, 2**16 + 3, 2**17, numel]
    pieces = [draws(stream, Span(start, stop)) for start, stop in pairwise(cuts)]
    for name, values in whole.items():
        assert torch.equal(values, torch.cat([piece[name] for piece in pieces])), name


def test_dtypes_and_shapes(backend: str) -> None:
    dtypes = {"bits": torch.int64, "keep": torch.bool, "uniform": torch.float32, "normal": torch.float32}
    for numel in (0, 1, 7):
        for name, values in draws(Stream(5), Span(10, 10 + numel)).items():
            assert values.shape == (numel,)
            assert values.dtype == dtypes[name]


def test_threads_do_not_disturb_each_other(backend: str) -> None:
    stream = Stream.derive(1, "test", "threads")
    spans = [Span(7919 * i, 7919 * i + 20_011) for i in range(16)]
    together = threading.Barrier(4)

    def draw(span: Span) -> torch.Tensor:
        together.wait(timeout=60)
        return stream.keep(span, 0.5)

    with ThreadPoolExecutor(4) as pool:
        for span, mask in zip(spans, pool.map(draw, spans), strict=True):
            assert torch.equal(mask, stream.keep(span, 0.5))


def test_no_global_generator_is_touched(backend: str) -> None:
    before = torch.random.get_rng_state(), np.random.get_state(), random.getstate()
    numbers = draws(Stream(1), Span(0, 100))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert all(np.array_equal(now, then) for now, then in zip(np.random.get_state(), before[1], strict=True))
    assert random.getstate() == before[2]
    torch.manual_seed(99)
    assert torch.equal(draws(Stream(1), Span(0, 100))["normal"], numbers["normal"])


def test_torch_defaults_change_nothing(backend: str) -> None:
    expected = draws(Stream(8), Span(3, 400))
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"), torch.inference_mode():
            found = draws(Stream(8), Span(3, 400))
    finally:
        torch.set_default_dtype(dtype)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert torch.equal(found[name], values), name


# Keys


def test_the_derivation_of_keys_is_frozen() -> None:
    assert Stream.derive(0, "dare", "w").key == 0x2D8B6264A8C544D7
    assert Stream.derive(-1, "dare", "w", 2, 3).key == 0xBC8828650479A9B4
    assert Stream.derive(2**200, "noise", "größe", 1).key == 0xB67F2C3CD20C9B97


def test_a_key_is_the_hash_of_length_prefixed_fields() -> None:
    fields = [b"daremerge stream 1", b"-ff", b"dare", "größe".encode(), b"a", b"0"]
    data = b"".join(len(field).to_bytes(8, "little") + field for field in fields)
    expected = int.from_bytes(hashlib.blake2b(data).digest()[:8], "little")
    assert Stream.derive(-255, "dare", "größe", model=10).key == expected


def test_distinct_streams_have_distinct_keys() -> None:
    seeds = [0, 1, -1, 2**31, 2**32, 2**64, -(2**64), 10**30]
    names = ["", "a", "ab", "b", "a\0b", "conv.weight", "conv.bias", "\ud800"]
    derived = [
        Stream.derive(seed, component, tensor, model, draw).key
        for seed in seeds
        for component in names
        for tensor in names
        for model in (0, 1, -1, 16)
        for draw in (0, 1, 16)
    ]
    assert len(set(derived)) == len(derived) == 8 * 8 * 8 * 4 * 3


def test_fields_do_not_run_into_each_other() -> None:
    assert Stream.derive(1, "ab", "c") != Stream.derive(1, "a", "bc")
    assert Stream.derive(1, "a", "b", 1, 0) != Stream.derive(1, "a", "b", 0, 1)
    assert Stream.derive(1, "a", "b") != Stream.derive(1, "b", "a")


@pytest.mark.parametrize("seed", [1.0, "1", None])
def test_a_seed_is_an_integer(seed: Any) -> None:
    with pytest.raises(TypeError):
        Stream.derive(seed, "dare", "w")


def test_any_kind_of_integer_is_a_seed() -> None:
    assert Stream.derive(np.int64(7), "dare", "w") == Stream.derive(7, "dare", "w")


def test_neighbouring_streams_are_uncorrelated() -> None:
    numel = 20_000
    fields = [(0, "dare", "w"), (1, "dare", "w"), (0, "della", "w"), (0, "dare", "v"), (0, "dare", "w", 1)]
    streams = [Stream.derive(*field) for field in fields] + [Stream(0), Stream(1), Stream(1 << 32)]  # type: ignore[arg-type]
    correlation = torch.corrcoef(torch.stack([stream.uniform(Span(0, numel)) for stream in streams]).double())
    assert (correlation - torch.eye(len(streams))).abs().max() < 5 / math.sqrt(numel)


# The distributions


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.9])
def test_the_share_kept_is_the_density(backend: str, density: float) -> None:
    numel = 200_000
    kept = int(Stream.derive(2, "test", "share").keep(Span(0, numel), density).sum())
    assert abs(kept - numel * density) < 5 * math.sqrt(numel * density * (1 - density))


@pytest.mark.parametrize("density", [0, 0.0, -0.0, 1e-12, 1, 1.0, 1 - 1e-12])
def test_the_ends_of_density_are_exact(backend: str, density: float) -> None:
    assert Stream(9).keep(Span(0, 5000), density).tolist() == [density > 0.5] * 5000


def test_the_threshold_itself_is_not_kept(backend: str) -> None:
    stream, span = Stream(12), Span(0, 600)
    for i in (0, 5, 511, 599):
        bits = int(stream.bits(span)[i])
        assert not stream.keep(span, bits / 2**32)[i]
        assert stream.keep(span, (bits + 1) / 2**32)[i]


def test_masks_of_one_stream_are_nested(backend: str) -> None:
    few, many = (Stream(4).keep(Span(0, 5000), density) for density in (0.2, 0.21))
    assert torch.equal(few & many, few)
    assert not torch.equal(few, many)


def test_uniform_covers_the_unit_interval() -> None:
    values = Stream(11).uniform(Span(0, 200_000)).double()
    assert 0 <= values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    assert abs(values.mean() - 0.5) < 5 * math.sqrt(1 / 12 / len(values))
    assert torch.equal(values * 2**24, (values * 2**24).round())


def test_normals_have_the_moments_and_the_distribution_of_a_normal() -> None:
    n = 100_000
    x = np.sort(Stream.derive(5, "test", "normal").normal(Span(0, n)).double().numpy())
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - expected) < 5 * math.sqrt(variance / n), power
    cdf = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    steps = np.arange(n + 1) / n
    kolmogorov = max(np.abs(cdf - steps[:-1]).max(), np.abs(cdf - steps[1:]).max())
    assert kolmogorov < 1.95 / math.sqrt(n)  # exceeded once in a thousand


def test_normals_invert_the_distribution_function_to_float32() -> None:
    edges = [0, 1, 2, 3, 1000, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1000, 2**32 - 2, 2**32 - 1]
    joins = [round((0.5 + side * 0.425) * 2**32) + step for side in (-1, 1) for step in range(-3, 4)]
    bits = np.concatenate([np.array(edges + joins, dtype=np.int64), Stream(6).bits(Span(0, 20_000)).numpy()])
    expected = np.array([NormalDist().inv_cdf((int(b) + 0.5) / 2**32) for b in bits])
    np.testing.assert_allclose(normal_of_bits(bits).astype(np.float64), expected, rtol=6.1e-8, atol=0)


def test_quantiles_are_accurate_in_float64() -> None:
    q = np.concatenate([np.arange(1 - 2**20, 2**20, 521) * 2.0**-21, [2.0**-33, 0.5 - 2.0**-33, 2.0**-33 - 0.5]])
    expected = np.array([NormalDist().inv_cdf(0.5 + value) for value in q])
    np.testing.assert_allclose(quantile(q), expected, rtol=3e-15, atol=0)


def test_normals_are_symmetric_and_bounded() -> None:
    bits = np.arange(0, 2**32, 65_537, dtype=np.int64)
    assert np.array_equal(normal_of_bits(bits), -normal_of_bits(2**32 - 1 - bits))
    assert 6.33 < normal_of_bits(np.array([2**32 - 1]))[0] < 6.34


def digest(values: torch.Tensor) -> str:
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=16).hexdigest()


def test_the_numbers_are_frozen(backend: str) -> None:
    """Frozen: whoever changes these bytes changes every merge, and must change the definition's name in every key."""
    stream, span = Stream.derive(2024, "golden", "model.diffusion_model.out.2.weight"), Span(0, 10_000)
    assert digest(stream.keep(span, 0.1)) == "309bd9c4dea9335ee6730ee0f9eaedd3"
    assert digest(stream.uniform(span)) == "bb8fc80ecc27fc27dd88e1acde4b781a"
    assert digest(stream.normal(span)) == "280537f81ebc8640fcfeabb81713febc"


# Wrong input


@pytest.mark.parametrize("density", [-0.1, 1.1, math.nan, math.inf, -math.inf])
def test_a_density_outside_0_to_1_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match="density"):
        Stream(0).keep(Span(0, 1), density)


@pytest.mark.parametrize("span", [Span(-1, 1), Span(2, 1), Span(0, 2**63)])
def test_a_span_outside_a_tensor_is_refused(span: Span) -> None:
    for draw in (Stream(0).bits, Stream(0).uniform, Stream(0).normal, lambda span: Stream(0).keep(span, 0.5)):
        with pytest.raises(ValueError, match="span"):
            draw(span)


@pytest.mark.parametrize("key", [-1, 2**64])
def test_a_key_beyond_64_bits_is_refused(key: int) -> None:
    with pytest.raises(ValueError, match="key"):
        Stream(key)


# The compiled version


def test_the_package_imports_neither_torch_nor_numba() -> None:
    code = "import sys, daremerge_core.rng; sys.exit(bool({'torch', 'numba', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not HAS_NUMBA, reason="no numba")
class TestNumba:
    def test_a_function_is_compiled_once_for_good(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """When it is first called, also where several threads call it first."""
        import numba
        from numba import types

        from daremerge_core.compiled import compiled

        asked: list[dict[str, Any]] = []
        real = numba.njit

        def njit(*functions: Any, **options: Any) -> Any:
            if not functions:  # numba's own modules, imported meanwhile, give theirs
                asked.append(options)
            return real(*functions, **options)

        monkeypatch.setattr(numba, "njit", njit)

        @compiled(types.int64(types.int64))
        def double(x: int) -> int:
            return 2 * x

        assert asked == []
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(double, range(100))) == list(range(0, 200, 2))
        [options] = asked
        assert options["nogil"]
        assert not options["fastmath"]

    @pytest.mark.parametrize("start", [0, 1, 2, 3])
    def test_nothing_outside_the_output_is_written(self, start: int) -> None:
        from daremerge_core.rng import philox_numba

        bits = np.array([oracle_bits(1 + 2**33, i) for i in range(start, start + 1100)])
        for numel in (0, 1, *range(500, 520), *range(1020, 1030)):
            kept, words = np.full(numel + 32, 7, np.uint8), np.full(numel + 32, -7, np.int64)
            philox_numba.keep_into(kept[16:-16], 1, 2, start, 2**31)
            philox_numba.bits_into(words[16:-16], 1, 2, start)
            assert np.array_equal(kept[16:-16], bits[:numel] < 2**31)
            assert np.array_equal(words[16:-16], bits[:numel])
            assert set(kept[:16]) | set(kept[-16:]) == {7}
            assert set(words[:16]) | set(words[-16:]) == {-7}

    @pytest.mark.parametrize(
        ("method", "error"),
        [("__init__", RuntimeError("cannot cache function: no locator available")), ("save_overload", OSError(28, ""))],
        ids=["nowhere to write", "the disk is full"],
    )
    def test_it_compiles_where_it_cannot_keep_the_code(
        self, method: str, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from numba import types
        from numba.core.caching import FunctionCache

        from daremerge_core.compiled import compiled

        met = []

        def fail(*_: Any) -> None:
            met.append(error)
            raise error

        monkeypatch.setattr(FunctionCache, method, fail)

        @compiled(types.int64(types.int64))
        def half(x: int) -> int:
            return x // 2

        assert half(7) == 3
        assert met

    def test_a_number_is_taken_for_what_the_signature_says(self) -> None:
        from numba import types

        from daremerge_core.compiled import compiled

        @compiled(types.float32(types.float32))
        def same(x: float) -> float:
            return x

        assert float(same(0.1)) == float(np.float32(0.1)) != 0.1


def test_without_numba_the_torch_version_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    from daremerge_core.rng import stream

    expected = Stream(3).keep(Span(1, 99), 0.5)
    monkeypatch.setitem(sys.modules, "numba", None)
    stream._numba_kernel.cache_clear()
    try:
        assert not accelerated()
        assert torch.equal(Stream(3).keep(Span(1, 99), 0.5), expected)
    finally:
        stream._numba_kernel.cache_clear()


# The documentation


def test_the_documented_program_makes_the_same_numbers() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    made: dict[str, Any] = {}
    exec(program, made)
    stream, span = Stream.derive(7, "dare", "model.diffusion_model.out.2.weight"), Span(0, 1000)
    assert made["key"] == stream.key
    assert made["keep"] == stream.keep(span, 0.1).tolist()
    assert made["uniform"] == stream.uniform(span).tolist()
    torch.testing.assert_close(torch.tensor(made["normal"]), stream.normal(span), rtol=1.2e-7, atol=0)
