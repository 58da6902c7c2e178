"""Reports: made by a step like any other, read in a stream, rendered in every format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import Result
from daremerge_fixture.plugin import Positive, Sizes

from daremerge_core import MemoryModel, Report, view
from daremerge_core.engine import Pool, Quiet, Settings
from daremerge_core.errors import OutputError
from daremerge_core.rendering import check_report_path, write_report
from daremerge_core.rendering.text import cell, print_report, to_text
from daremerge_core.survey import Block, Survey
from daremerge_core.testing import tiny_model, tiny_tensors
from daremerge_core.views import MEASURE_BLOCK

Cli = Callable[..., Result]


def survey(threads: int = 2, memory: int = 1 << 30) -> Survey:
    import threading

    return Survey(Pool(threads, memory, threading.Event()), Quiet())


def totals(key: str, blocks: Iterator[Block]) -> tuple[str, list[list[float]]]:
    return key, [[float(one.double().sum()) for one in block] for block in blocks]


class TestSurvey:
    def test_blocks_hold_every_element_in_order(self) -> None:
        numel = 2 * MEASURE_BLOCK + 5
        model = MemoryModel({"w": torch.arange(numel, dtype=torch.float64), "empty": torch.empty(0, 3)})
        found = survey().each(["w", "empty"], [model], lambda key, blocks: [block[0].clone() for block in blocks])
        assert [len(block) for block in found[0]] == [MEASURE_BLOCK, MEASURE_BLOCK, 5]
        assert torch.equal(torch.cat(found[0]), model.read("w"))
        assert [len(block) for block in found[1]] == [0]

    def test_answers_come_in_the_order_asked_whatever_the_threads(self) -> None:
        model = tiny_model(1)
        keys = sorted(model.keys(), reverse=True)
        assert survey(1).each(keys, [model], totals) == survey(7, memory=1).each(keys, [model], totals)
        assert [key for key, _ in survey(5).each(keys, [model], totals)] == keys

    def test_models_of_several_dtypes_are_read_as_one(self) -> None:
        pair = [MemoryModel({"w": torch.ones(4, dtype=dtype)}) for dtype in (torch.bfloat16, torch.float64)]
        dtypes = survey().each(["w"], pair, lambda key, blocks: [one.dtype for block in blocks for one in block])
        assert dtypes == [[torch.float64, torch.float64]]

    def test_masks_come_as_bool(self) -> None:
        model = tiny_model(1)
        mask = view(Positive(model=model))
        keys = list(mask.keys())
        shares = survey().each(keys, [model, mask], lambda key, blocks: all(torch.equal(a > 0, m) for a, m in blocks))
        assert all(shares)

    def test_a_value_that_must_be_whole_is_computed_once(self) -> None:
        class Whole:
            metadata: dict[str, str] = {}
            reads = 0

            def keys(self) -> list[str]:
                return ["w"]

            def meta(self, key: str) -> Any:
                return MemoryModel({"w": torch.ones(3 * MEASURE_BLOCK)}).meta(key)

            def read(self, key: str, span: Any = None) -> torch.Tensor:
                assert span is None
                self.reads += 1
                return torch.ones(3 * MEASURE_BLOCK)

            def close(self) -> None: ...

            def needs_whole(self, key: str) -> bool:
                return True

            def working_bytes(self, key: str, numel: int) -> int:
                return 4 * numel

        whole = Whole()
        assert survey().each(["w"], [whole], totals) == [("w", [[MEASURE_BLOCK]] * 3)]
        assert whole.reads == 1

    def test_the_first_failure_ends_it(self) -> None:
        def fail(key: str, blocks: Iterator[Block]) -> None:
            raise OutputError(f"trouble at {key}")

        with pytest.raises(OutputError, match="trouble at"):
            survey().each(list(tiny_model().keys()), [tiny_model()], fail)


def example() -> Report:
    return Sizes(model=tiny_model(3)).report(survey())


class TestRendering:
    def test_text_has_the_whole_table(self) -> None:
        report = example()
        text = to_text(report)
        for row in report.rows:
            assert re.search(rf"^{re.escape(row['tensor'])} +{row['numel']:,} ", text, flags=re.MULTILINE)

    def test_json_has_all_the_numbers(self, tmp_path: Path) -> None:
        report = example()
        write_report(report, tmp_path / "r.json")
        found = json.loads((tmp_path / "r.json").read_text())
        assert found["data"] == report.data
        assert found["rows"] == report.rows

    def test_json_knows_no_nan(self, tmp_path: Path) -> None:
        write_report(Report("Odd", data={"a": float("nan"), "b": [float("inf")]}), tmp_path / "r.json")
        assert json.loads((tmp_path / "r.json").read_text())["data"] == {"a": "nan", "b": ["inf"]}

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_a_png_holds_every_figure(self, tmp_path: Path, theme: Any) -> None:
        from matplotlib import image

        report = example()
        one = Report("One", figures={"Sums": report.figures["Sums"]})
        for name, which in (("one", one), ("two", report)):
            write_report(which, tmp_path / f"{name}.png", theme=theme)
        single, double = (image.imread(tmp_path / f"{name}.png") for name in ("one", "two"))
        assert double.shape[0] == pytest.approx(2 * single.shape[0], rel=0.1)  # the title stands above the first alone
        assert (single[0, 0, :3].mean() > 0.5) == (theme == "light")

    def test_a_page_needs_nothing_beside_itself(self, tmp_path: Path) -> None:
        write_report(example(), tmp_path / "r.html")
        page = (tmp_path / "r.html").read_text()
        assert "The &lt;b&gt;tags&lt;/b&gt; &amp; more." in page
        assert page.count("<picture>") == 2
        assert page.count("data:image/png;base64,") == 4
        assert not re.search(r'(?:src|href|srcset)="(?!data:)', page)
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
        assert data is not None
        assert json.loads(data[1]) == example().data

    @pytest.mark.parametrize("suffix", ["html", "png", "txt", "json"])
    def test_the_same_report_is_the_same_bytes(self, tmp_path: Path, suffix: str) -> None:
        for name in "ab":
            write_report(example(), tmp_path / f"{name}.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()

    def test_what_a_file_says_cannot_drive_the_terminal(self) -> None:
        text = to_text(Report("A\x1b[2J", "x\x07\ny", [{"n\x1b": "v\x1b"}]))
        assert "\x1b" not in text
        assert "\x07" not in text

    def test_a_terminal_gets_columns_and_a_pipe_plain_text(self) -> None:
        class Terminal(StringIO):
            def isatty(self) -> bool:
                return True

        terminal, pipe = Terminal(), StringIO()
        print_report(example(), terminal)
        print_report(example(), pipe)
        assert pipe.getvalue() == to_text(example())
        assert "All together" in terminal.getvalue()
        assert terminal.getvalue() != pipe.getvalue()

    @pytest.mark.parametrize(
        ("value", "shown"), [(None, ""), (12345, "12,345"), (0.00012345, "0.0001234"), ("a", "a"), (True, "True")]
    )
    def test_cells(self, value: object, shown: str) -> None:
        assert cell(value) == shown

    def test_unknown_formats_are_refused_before_the_work(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match=r"cannot tell the format of .*r\.pdf") as caught:
            check_report_path(tmp_path / "r.pdf", overwrite=False)
        assert ".html (one web page" in str(caught.value.hint)
        (tmp_path / "r.txt").touch()
        with pytest.raises(OutputError, match="already exists"):
            check_report_path(tmp_path / "r.txt", overwrite=False)

    def test_without_pictures_there_is_no_png(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="nothing to draw"):
            write_report(Report("Words"), tmp_path / "r.png")
        assert not list(tmp_path.iterdir())

    def test_without_matplotlib_it_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("daremerge_core.rendering.pictures.find_spec", lambda name: None)
        with pytest.raises(OutputError, match="pip install matplotlib"):
            check_report_path(tmp_path / "r.html", overwrite=False)
        check_report_path(tmp_path / "r.txt", overwrite=False)


class TestCommand:
    def test_it_is_shown_without_an_output(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli("report", "sizes", "a.safetensors")
        assert done.exit_code == 0, done.output
        assert "All together" in done.output

    @pytest.mark.parametrize("suffix", ["html", "png", "txt", "json"])
    def test_every_format_is_written(self, cli: Cli, models: SimpleNamespace, suffix: str) -> None:
        done = cli("report", "sizes", "a.safetensors", "-o", f"r.{suffix}", "--theme", "dark")
        assert done.exit_code == 0, done.output
        assert (models.folder / f"r.{suffix}").stat().st_size > 100

    def test_mistakes_come_before_work(self, cli: Cli, models: SimpleNamespace) -> None:
        assert "cannot tell the format" in cli("report", "sizes", "a.safetensors", "-o", "r.pdf").output
        assert "no such model file" in cli("report", "sizes", "nowhere.safetensors").output

    def test_a_recipe_may_end_in_a_report_on_a_lazy_step(self, cli: Cli, models: SimpleNamespace) -> None:
        (models.folder / "r.yaml").write_text(
            "models: {a: a.safetensors, b: b.safetensors}\n"
            "steps:\n  m: {op: merge.halfway, a: a, b: b, ratio: 0}\n  s: {op: report.sizes, model: m}\n"
            "output: {step: s, path: out.json}\n"
        )
        done = cli("run", "r.yaml")
        assert done.exit_code == 0, done.output
        sums = json.loads((models.folder / "out.json").read_text())["data"]["sums"]
        direct = json.loads(cli_json(cli, models, "b"))["data"]["sums"]
        assert sums.keys() == direct.keys()
        assert all(sums[key] == direct[key] for key in sums)

    def test_nothing_takes_a_report(self, cli: Cli, models: SimpleNamespace) -> None:
        (models.folder / "r.yaml").write_text(
            "models: {a: a.safetensors}\n"
            "steps:\n  s: {op: report.sizes, model: a}\n  e: {op: edit.negate, model: s}\noutput: e\n"
        )
        assert "'s' is a report, where a model is wanted" in cli("plan", "r.yaml").output

    def test_a_report_on_a_recipe(self, cli: Cli, models: SimpleNamespace) -> None:
        assert cli("merge", "halfway", "a.safetensors", "b.safetensors", "-o", "m.safetensors").exit_code == 0
        (models.folder / "r.yaml").write_text(
            "models: {a: a.safetensors}\nsteps: {e: {op: edit.negate, model: a}}\noutput: e\n"
        )
        count = len(tiny_tensors())
        assert f"{count} tensors, written: True." in cli("report", "made", "m.safetensors").output
        assert f"{count} tensors, written: False." in cli("report", "made", "r.yaml").output
        assert "holds no recipe" in cli("report", "made", "a.safetensors").output

    def test_a_dry_run_reads_nothing(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli("report", "sizes", "a.safetensors", "--dry-run", "-o", "r.json")
        assert done.exit_code == 0, done.output
        assert "report.sizes" in done.output
        assert not (models.folder / "r.json").exists()


class TestBesideARun:
    """``--report``: the report of what was done, beside what was made."""

    def test_it_tells_of_the_finished_file(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli("merge", "halfway", "a.safetensors", "b.safetensors", "-o", "m.safetensors", "--report", "m.json")
        assert done.exit_code == 0, done.output
        told = json.loads((models.folder / "m.json").read_text())
        assert told["data"]["finished"]
        again = cli("report", "merge", "m.safetensors", "-o", "again.json")
        assert again.exit_code == 0, again.output
        assert json.loads((models.folder / "again.json").read_text()) == told

    @pytest.mark.parametrize("step", ["{op: mask.positive, model: a}", "{op: lora.longest, model: a}"])
    def test_where_there_is_nothing_to_tell_nothing_is_made(self, cli: Cli, models: SimpleNamespace, step: str) -> None:
        (models.folder / "r.yaml").write_text(f"models: {{a: a.safetensors}}\nsteps: {{s: {step}}}\noutput: s\n")
        done = cli("run", "r.yaml", "-o", "o.safetensors", "--report", "r.html")
        assert done.exit_code == 2
        assert "what a merge or an edit did" in done.output
        assert not (models.folder / "o.safetensors").exists()

    def test_it_never_replaces_an_input(self, cli: Cli, models: SimpleNamespace) -> None:
        assert cli("gradient", "flat", "a.safetensors", "-o", "g.json").exit_code == 0
        before = (models.folder / "g.json").read_bytes()
        words = ["merge", "halfway", "a.safetensors", "b.safetensors", "--gradient", "g.json", "-o", "m.safetensors"]
        done = cli(*words, "--report", "g.json", "--overwrite")
        assert done.exit_code == 2
        assert "is the input" in done.output
        assert (models.folder / "g.json").read_bytes() == before
        assert not (models.folder / "m.safetensors").exists()

    def test_an_unknown_format_is_seen_first(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli("merge", "halfway", "a.safetensors", "b.safetensors", "-o", "m.safetensors", "--report", "m.pdf")
        assert "cannot tell the format" in done.output
        assert not (models.folder / "m.safetensors").exists()


def cli_json(cli: Cli, models: SimpleNamespace, name: str) -> str:
    done = cli("report", "sizes", f"{name}.safetensors", "-o", f"{name}.json")
    assert done.exit_code == 0, done.output
    return str((models.folder / f"{name}.json").read_text())


def test_settings_do_not_change_a_report(models: SimpleNamespace) -> None:
    from daremerge_core.api import make_report, plan_recipe

    recipe = {
        "models": {"a": str(models.a), "b": str(models.b)},
        "steps": {
            "m": {"op": "merge.to-norm", "a": "a", "b": "b", "over": "model"},
            "s": {"op": "report.sizes", "model": "m"},
        },
        "output": "s",
    }
    found = []
    for settings in (Settings(threads=1), Settings(threads=6, memory=1)):
        with plan_recipe(recipe) as plan:
            found.append(make_report(plan, settings=settings).data)
    assert found[0] == found[1]
