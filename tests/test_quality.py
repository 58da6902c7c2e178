"""What merging is for, as numbers: the digits experiment in its fast form, and what its full form writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

QUALITY = Path(__file__).parent.parent / "benchmarks" / "quality"
FAST = ("dare", "drop-only", "average", "dare-ties", "sum", "wudi")


def test_the_digits_experiment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(QUALITY))
    import digits

    found, chosen = digits.experiment(0, FAST)
    assert set(found) == {"base", "fine-tuned", *FAST}
    assert found["dare"] >= 95
    assert found["drop-only"] <= 35
    assert found["dare-ties"] - found["average"] >= 20
    assert found["wudi"] >= 90
    assert chosen == {"average": {}, "dare-ties": {}, "sum": {}, "wudi": {}}  # nothing tuned


def test_the_published_table_is_of_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(QUALITY))
    import digits
    import methods

    report = json.loads((QUALITY / "digits.json").read_text(encoding="utf-8"))
    names = {"base", "fine-tuned", *(row.name for row in (*methods.ALONE, *methods.TOGETHER))}
    assert len(report["accuracy"]) == report["seeds"] >= 5
    assert all(set(one) == names for one in report["accuracy"])
    assert (QUALITY / "digits.md").read_text(encoding="utf-8") == digits.table(report["accuracy"])


@pytest.mark.parametrize("experiment", ["digits", "minilm"])
def test_the_docs_show_the_last_results(experiment: str) -> None:
    docs = (QUALITY.parent.parent / "docs" / "quality.md").read_text(encoding="utf-8")
    assert (QUALITY / f"{experiment}.md").read_text(encoding="utf-8") in docs


def test_the_table_of_the_language_model_is_of_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(QUALITY))
    import methods

    report = json.loads((QUALITY / "minilm.json").read_text(encoding="utf-8"))
    assert set(report["accuracy"]) == {"base", "fine-tuned", *(row.name for row in (*methods.ALONE, *methods.TOGETHER))}
