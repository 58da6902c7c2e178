"""The benchmarks' machinery, on tiny checkpoints and commands that take no time."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from daremerge_core.stores import open_model
from daremerge_core.testing.tiny import SHAPES

FOLDER = Path(__file__).parent.parent / "benchmarks"
PYTHON = (sys.executable, "-c")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of ``benchmarks/``, imported as its scripts import one another."""
    names = ("checkpoints", "checks", "jobs", "machine", "measure", "peers", "run", "scaling", "tables")
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    modules = {name: __import__(name) for name in names}
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(modules["run"], "PAUSE", 0.0)
    return SimpleNamespace(**modules)


def test_fine_tunes_are_the_base_and_a_little_more(bench: SimpleNamespace, tmp_path: Path) -> None:
    files = bench.checkpoints.checkpoints("tiny", tmp_path)
    base, a, b = (open_model(files[name]) for name in ("base", "a", "b"))
    assert list(base.keys()) == list(a.keys()) == list(b.keys())
    for key in base.keys():
        assert base.meta(key) == a.meta(key) == b.meta(key)
        if key not in SHAPES:
            assert base.meta(key).dtype == "I64"
            assert torch.equal(base.read(key), a.read(key))
            continue
        assert base.meta(key).shape == SHAPES[key]
        if base.meta(key).numel < 100:
            continue
        moved = [model.read(key).float() - base.read(key).float() for model in (a, b)]
        assert 0.02 < base.read(key).float().std() < 0.04
        assert all(0.001 < one.std() < 0.003 for one in moved)
        assert not torch.equal(*moved)
    for model in (base, a, b):
        model.close()


def test_checkpoints_are_made_once_and_the_same_each_time(bench: SimpleNamespace, tmp_path: Path) -> None:
    first, second = (bench.checkpoints.checkpoints("tiny", tmp_path / name) for name in ("one", "two"))
    assert first["a"].read_bytes() == second["a"].read_bytes()
    first["a"].write_bytes(b"kept")
    assert bench.checkpoints.checkpoints("tiny", tmp_path / "one")["a"].read_bytes() == b"kept"
    first["a"].unlink()
    assert bench.checkpoints.checkpoints("tiny", tmp_path / "one")["a"].read_bytes() == second["a"].read_bytes()


def test_a_tensor_larger_than_a_chunk_is_made_in_pieces(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.checkpoints, "CHUNK", 50)
    files = bench.checkpoints.checkpoints("tiny", tmp_path)
    model = open_model(files["base"])
    large = model.read("model.diffusion_model.input_blocks.10.0.in_layers.2.weight").flatten()
    assert len(large) > 100
    assert (large != 0).all()
    assert not torch.equal(large[:50], large[50:100])
    model.close()


@pytest.mark.parametrize(("layout", "count", "gigabytes"), [("sd15", 1131, 2.13), ("sdxl", 2481, 6.88)])
def test_real_layouts_have_real_sizes_and_integer_positions(
    bench: SimpleNamespace, layout: str, count: int, gigabytes: float
) -> None:
    tensors = bench.checkpoints.tensors_of(layout)
    assert len(tensors) == count
    size = sum(meta.numel * (2 if meta.dtype == "F16" else 8) for meta in tensors.values())
    assert size / 1e9 == pytest.approx(gigabytes, abs=0.005)
    positions = [meta for meta in tensors.values() if meta.key.endswith(".position_ids")]
    assert {(meta.dtype, meta.shape) for meta in positions} == {("I64", (1, 77))}


def test_measure_tells_time_and_memory(bench: SimpleNamespace) -> None:
    hungry = "import time; held = bytearray(b'x') * (64 << 20); time.sleep(0.3)"
    run = bench.measure.measure([*PYTHON, hungry])
    assert run.wall >= 0.3
    for told in (run.anonymous, run.resident):
        assert told is None or told >= 64 << 20
    if sys.platform == "linux":
        assert run.anonymous is not None
        assert run.cpu is not None


def test_measure_passes_on_what_a_failed_command_printed(bench: SimpleNamespace) -> None:
    with pytest.raises(bench.measure.CommandFailed, match=r"ended with 3:\nwhat went wrong"):
        bench.measure.measure([*PYTHON, "print('what went wrong'); raise SystemExit(3)"])
    with pytest.raises(bench.measure.CommandFailed, match="not-a-program"):
        bench.measure.measure(["not-a-program"])


def test_a_bench_leaves_no_output_and_a_ratio_is_of_the_same_round(bench: SimpleNamespace, tmp_path: Path) -> None:
    files = bench.checkpoints.checkpoints("tiny", tmp_path)
    code = "import sys, shutil; shutil.copy(*sys.argv[1:])"
    copy = bench.jobs.Job("copy", ("a", "b"), (*PYTHON, code, "{a}", "{out}"))
    [result] = bench.run.bench([copy], files, tmp_path, bench.run.Conditions(2, 1, "1GiB", warm_up=False))
    assert not (tmp_path / "merged.safetensors").exists()
    assert len(result.runs) == len(result.floors) == 2
    assert result.nbytes == 3 * files["a"].stat().st_size
    assert f"{result.ratio:.1f}" in bench.tables.time_table({"results": [result.report()]})


def test_the_median_ratio_pairs_each_run_with_its_own_floor(bench: SimpleNamespace) -> None:
    def runs(*walls: float) -> list[object]:
        return [bench.measure.Measurement(wall, None, None, None) for wall in walls]

    result = bench.run.Result("job", "daremerge", ("a",), 10**9, runs(4.0, 9.0, 30.0), runs(2.0, 3.0, 15.0))
    assert result.ratio == 2.0
    assert "n/a" in bench.tables.time_table({"results": [result.report()]})


def test_check_passes_what_is_constant_and_fails_what_is_not(bench: SimpleNamespace, tmp_path: Path) -> None:
    files = bench.checkpoints.checkpoints("tiny", tmp_path)
    write = "import sys; open(sys.argv[1], 'w').write("
    variants = bench.checks.VARIANTS[:3]
    jobs = [
        bench.jobs.Job("steady", ("a",), (*PYTHON, write + "'x')", "{out}")),
        bench.jobs.Job("by-threads", ("a",), (*PYTHON, write + "sys.argv[2])", "{out}", "{threads}")),
        bench.jobs.Job("broken", ("a",), (*PYTHON, "raise SystemExit('no luck')")),
    ]
    found = bench.checks.check(jobs, files, tmp_path, variants)
    assert [one.problem for one in found] == ["", "", "", "", "", "other bytes", "no luck", "no luck", "no luck"]
    assert found[0].sha256 == hashlib.sha256(b"x").hexdigest()
    assert bench.checks.check_table(found).count("FAIL") == 4
    assert not (tmp_path / "merged.safetensors").exists()


@pytest.mark.parametrize("wrong", [["--methods", "lerp,nothing"], ["--rounds", "0"], ["--layout", "sd99"]])
def test_wrong_options_are_told_before_anything_is_made(
    bench: SimpleNamespace, tmp_path: Path, wrong: list[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.run.main([*wrong, "--data", str(tmp_path / "data")])
    assert not (tmp_path / "data").exists()


def test_a_check_of_a_real_merge(bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.run, "VARIANTS", bench.run.VARIANTS[:2])
    arguments = [
        "--check",
        "--layout",
        "tiny",
        "--methods",
        "dare",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    assert bench.run.main(arguments) == 0
    assert len(list((tmp_path / "out").glob("check-tiny-*.json"))) == 1
    assert not (tmp_path / "scratch").exists()


def test_a_run_leaves_figures_and_a_picture(bench: SimpleNamespace, tmp_path: Path) -> None:
    arguments = ["--layout", "tiny", "--methods", "lerp", "--rounds", "1", "--no-warm-up", "--cold"]
    assert bench.run.main([*arguments, "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--name", "one"]) == 0
    report = json.loads((tmp_path / "out" / "one.json").read_text())
    assert [one["name"] for one in report["results"] if one["tool"] == "daremerge"] == ["lerp"]
    assert report["cold"]
    assert report["machine"]["cores"]
    assert (tmp_path / "out" / "one.png").read_bytes().startswith(b"\x89PNG")


def test_a_tool_that_writes_nothing_is_no_result(bench: SimpleNamespace, tmp_path: Path) -> None:
    files = bench.checkpoints.checkpoints("tiny", tmp_path)
    idle = bench.jobs.Job("idle", ("a",), (*PYTHON, "pass"))
    with pytest.raises(bench.measure.CommandFailed, match="wrote nothing"):
        bench.run.bench([idle], files, tmp_path, bench.run.Conditions(1, 1, "1GiB", warm_up=False))


def test_scaling_has_a_point_for_each_number_of_models(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list(bench.scaling.points(["threads", "models"], tmp_path, "tiny"))
    assert [point.at for point in found if point.series == "models"] == [2, 4, 8, 2, 4, 8]
    eight = found[-1]
    assert len(eight.job.inputs) == 9
    words = eight.job.argv(eight.files, tmp_path / "out", threads=1, memory="1GiB")
    assert sum(word.endswith(".safetensors") for word in words) == 9
    assert not any("{" in word for word in words)


def test_a_sparse_folder_is_a_model(bench: SimpleNamespace, tmp_path: Path) -> None:
    bench.checkpoints.sparse_folder(tmp_path / "model", layers=2, shards=2)
    assert len(bench.jobs.parts(tmp_path / "model")) == 2
    with open_model(tmp_path / "model") as model:
        assert sum(model.meta(key).numel for key in model.keys()) > 5e8
        assert not model.read("model.layers.1.self_attn.q_proj.weight").any()
    used = sum(path.stat().st_blocks * 512 for path in (tmp_path / "model").iterdir())
    assert used < 1 << 20


def test_peers_that_are_not_there_are_left_out(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.jobs.Job("merge", ("a",), ("{python}", "-c", "pass"), tool="pytest")
    absent = bench.jobs.Job("merge", ("a",), ("{python}", "-c", "pass"), tool="no-such-tool")
    monkeypatch.setattr(bench.peers, "PEERS", (absent, job))
    assert [(one.tool, one.command[0]) for one in bench.peers.installed(sys.executable)] == [
        (f"pytest {pytest.__version__}", sys.executable)
    ]


def test_the_docs_show_the_committed_results(bench: SimpleNamespace) -> None:
    """docs/benchmarks.md holds their tables, and no others."""
    docs = (FOLDER.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    shown = set()
    for path in (FOLDER / "results").glob("*.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        shown |= {bench.tables.time_table(report)} if "results" in report else set()
        shown |= {bench.tables.scaling_table(report, series) for series in report.get("scaling", ())}
        if path.name == "sd15.json":
            shown |= {bench.tables.machine_table(report), bench.tables.startup_table(report)}
    assert len(shown) == 8
    for table in shown:
        assert table in docs
    assert sum(line.startswith("|-") for line in docs.splitlines()) == len(shown)
