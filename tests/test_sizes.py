from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daremerge_core.errors import DaremergeError
from daremerge_core.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("4096", 4096),
        ("10B", 10),
        ("1GiB", 2**30),
        ("500MB", 500 * 10**6),
        ("5G", 5 * 2**30),
        ("5gb", 5 * 10**9),
        (" 1.5 GiB ", 3 * 2**29),
        ("0.1kb", 100),
        ("2TiB", 2**41),
        ("1TB", 10**12),
        ("9007199254740993", 9007199254740993),  # not through a float
    ],
)
def test_parse(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1GiB", "1 G B", "1PB", "nan", "inf", "1e9", "٣MB", "1,5GiB", "0", "0.5B", "1GiB\n2"]
)
def test_refuses(text: str) -> None:
    with pytest.raises(DaremergeError) as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)
    assert isinstance(caught.value, ValueError)  # so that pydantic and click report it beside the field


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (3 * 2**29, "1.5 GiB"),
        (2_282_749_952, "2.126 GiB"),
        (2**41, "2 TiB"),
    ],
)
def test_format(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(1, 2**45))
def test_a_formatted_size_parses_to_nearly_itself(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= size / 1000
