"""Layer selectors: the language against a naive reading of it, the errors, and the documentation's own examples."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daremerge_core.errors import SelectorError
from daremerge_core.select import Selector, select
from daremerge_core.testing.layouts import load

SD15 = list(load("sd15"))
SDXL = list(load("sdxl"))


# A generated pattern is its text and, as an oracle, every text it stands for with the braces written out.
Written = tuple[str, list[str]]


def _joined(pieces: list[Written]) -> Written:
    text = "".join(text for text, _ in pieces)
    return text, ["".join(choice) for choice in itertools.product(*(texts for _, texts in pieces))]


def _braces(options: list[Written]) -> Written:
    return "{" + ",".join(text for text, _ in options) + "}", [text for _, texts in options for text in texts]


def _range(low: int, more: int) -> Written:
    return f"{{{low}-{low + more}}}", [str(number) for number in range(low, low + more + 1)]


def _atom(text: str) -> Written:
    return text, [text]


ATOMS = st.one_of(
    st.text("ab.01", min_size=1, max_size=3).map(_atom),
    st.sampled_from(["*", "?", "[ab]", "[!a.]", "[0-1]", "[]a]"]).map(_atom),
    st.builds(_range, st.integers(0, 11), st.integers(0, 3)),
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.lists(
        st.one_of(inner, st.lists(st.one_of(st.just(("", [""])), inner), min_size=2, max_size=3).map(_braces)),
        min_size=1,
        max_size=3,
    ).map(_joined),
    max_leaves=6,
)
NAMES = st.text("ab.01", max_size=8)


def naive(texts: list[str], name: str) -> bool:
    segments = name.split(".")

    def one(text: str) -> bool:
        if any(wildcard in text for wildcard in "*?["):
            return fnmatch.fnmatchcase(name, text)
        run = text.split(".")
        return any(segments[i : i + len(run)] == run for i in range(len(segments)))

    return any(one(text) for text in texts)


@given(PATTERNS, NAMES)
@example(("{0-11}", [str(i) for i in range(12)]), "a.10.b")
@example(("{*a,b}", ["*a", "b"]), "a.b")
@example(("a{,.b}", ["a", "a.b"]), "0.a.b")
def test_a_pattern_means_what_it_means_written_out(pattern: Written, name: str) -> None:
    text, texts = pattern
    assert Selector.parse(text).matches(name) == naive(texts, name)


@given(
    st.lists(st.tuples(PATTERNS, st.booleans()), min_size=1, max_size=4), NAMES, st.sampled_from([",", "\n", " ,\n "])
)
def test_a_list_selects_by_any_pattern_and_no_negated_one(
    patterns: list[tuple[Written, bool]], name: str, separator: str
) -> None:
    wanted = [texts for (_, texts), negated in patterns if not negated]
    unwanted = [texts for (_, texts), negated in patterns if negated]
    expected = (not wanted or any(naive(texts, name) for texts in wanted)) and not any(
        naive(texts, name) for texts in unwanted
    )
    items = [f"!{text}" if negated else text for (text, _), negated in patterns]
    assert Selector.parse(separator.join(items)).matches(name) == expected
    assert Selector.parse(items) == Selector.parse(separator.join(items))
    assert Selector.parse(str(Selector.parse(items))) == Selector.parse(items)


@given(st.text("ab{},[]*?!-01#. \n", max_size=20))
def test_any_text_parses_or_is_a_selector_error(text: str) -> None:
    with contextlib.suppress(SelectorError):
        Selector.parse(text).matches("a.0.b")


@pytest.mark.parametrize(
    "pattern",
    ["*a" * 60 + "b", "{*a,*a}" * 13 + "b", "*{a,aa}" * 13 + "b", "*?" * 200 + "b", "[a]*" * 60 + "b"],
)
def test_hostile_patterns_end(pattern: str) -> None:
    """Each of these keeps a backtracking matcher busy for ages."""
    assert not Selector.parse(pattern).matches("a" * 1000)
    assert Selector.parse(pattern).matches("a" * 1000 + "b")


def test_what_failed_in_the_original() -> None:
    """Exact names and ``*.weight`` matched nothing, lists by line were joined, braces never expanded."""
    name = "model.diffusion_model.out.0.bias"
    assert select(SD15, name) == [name]
    assert select(SD15, "*.weight") == [key for key in SD15 if key.endswith(".weight")]
    by_line = select(SD15, "*.to_q.weight\n*.to_k.weight")
    assert by_line == [key for key in SD15 if key.endswith((".to_q.weight", ".to_k.weight"))]
    assert select(SD15, "*.to_{q,k}.weight") == by_line
    assert select(SD15, "*.to_v*") == [key for key in SD15 if ".to_v" in key]


def test_whole_segments_only() -> None:
    first = select(SD15, "input_blocks.1")
    assert first == [key for key in SD15 if key.startswith("model.diffusion_model.input_blocks.1.")]
    assert len(first) > 0
    assert not set(first) & set(select(SD15, "input_blocks.{10,11}"))
    assert not set(select(SD15, "out")) & set(select(SD15, "to_out"))


def test_blanks_comments_and_lists() -> None:
    text = """
        # the queries and keys
        *.to_{q, k}.weight,   # not the values
        !middle_block
    """
    expected = [key for key in SD15 if re.search(r"\.to_[qk]\.weight$", key) and "middle_block" not in key]
    assert select(SD15, text) == expected
    assert select(SD15, ["*.to_{q,k}.weight", "!middle_block"]) == expected
    assert str(Selector.parse(text)) == "*.to_{q, k}.weight, !middle_block"


def test_a_negated_pattern_works_in_any_order() -> None:
    assert select(["a.x", "b.x"], "!a, *.x") == select(["a.x", "b.x"], "*.x, !a") == ["b.x"]
    assert select(["a.x", "b.x"], "!a") == ["b.x"]


def test_padded_ranges_keep_their_width() -> None:
    keys = [f"IN{i:02}" for i in range(12)]
    assert select(keys, "IN{08-11}") == keys[8:]
    assert select([*keys, "IN8"], "IN{8-9}") == ["IN8"]
    assert select(["a.01", "a.1"], "a.{0-11}") == ["a.1"]


def test_a_wildcard_in_brackets_is_plain_text() -> None:
    assert select(["a*b", "axb"], "a[*]b") == ["a*b"]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a{b", 1, 2),
        ("a{b\n}", 1, 2),
        ("a, b}", 1, 5),
        ("a\n  b{}", 2, 4),
        ("x{3-1}", 1, 3),
        ("x{0-}", 1, 3),
        ("x{1,-3}", 1, 5),
        ("x{0-99999999999}", 1, 3),
        ("[b-a]", 1, 1),
        ("a[]", 1, 2),
        ("a[b", 1, 2),
        ("a, !", 1, 4),
        ("a, !, b", 1, 4),
        ("a{0-99}{0-99}{0-9}", 1, 1),
        ("{" * 33 + "}" * 33, 1, 33),
    ],
)
def test_malformed_selectors_say_where(text: str, line: int, column: int) -> None:
    with pytest.raises(SelectorError, match=f"line {line}, column {column}:") as caught:
        Selector.parse(text)
    assert caught.value.hint
    caret = caught.value.message.splitlines()[-1]
    assert caret.index("^") == column + 1  # two blanks of margin


@pytest.mark.parametrize("text", ["", "  \n", "# all of it", ",,"])
def test_an_empty_selector_is_an_error(text: str) -> None:
    with pytest.raises(SelectorError, match="empty"):
        Selector.parse(text)


def test_as_many_names_as_allowed() -> None:
    assert Selector.parse("{0-99}.{0-99}").matches("a.99.99.b")


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("input_block.1", "input_blocks"),
        ("input_blocks.9", "input_blocks.8"),
        ("model.diffusion_model.out.0.wieght", "model.diffusion_model.out.0.weight"),
        ("*.to_w*", "to_v"),
        ("input_blocks.1.*", "'*input_blocks.1.*' would match 10 tensors"),
        ("to_", "'*to_*' would match"),
        ("input_blocks.{9-11}", "Names look like 'model.diffusion_model.input_blocks."),
        ("zzz", "Names look like"),
    ],
)
def test_what_matches_nothing_is_an_error_with_near_names(pattern: str, hint: str) -> None:
    with pytest.raises(SelectorError) as caught:
        select(SDXL, f"label_emb, {pattern}", what="layers")
    assert caught.value.message == f"layers: {pattern!r} matches none of the {len(SDXL)} tensors."
    assert hint in (caught.value.hint or "")


def test_a_misspelt_exception_is_an_error_too() -> None:
    with pytest.raises(SelectorError, match="'lable_emb' matches none"):
        select(SDXL, "!lable_emb")


def test_nothing_left_and_nothing_there() -> None:
    with pytest.raises(SelectorError, match="selects nothing"):
        select(SDXL, "label_emb, !label_emb")
    with pytest.raises(SelectorError, match="none of the 0 tensors"):
        select([], "*")


def test_the_documented_examples() -> None:
    """Each row of the table in docs/selectors.md says how many tensors of SDXL its selector selects."""
    text = (Path(__file__).parent.parent / "docs" / "selectors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|.*\| ([0-9,]+) \|$", text, flags=re.MULTILINE)
    assert len(rows) > 5
    for selector, count in rows:
        assert len(select(SDXL, selector)) == int(count.replace(",", "")), selector
