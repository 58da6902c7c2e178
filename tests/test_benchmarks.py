"""The benchmarks' machinery, on tiny checkpoints and commands that take no time."""

from __future__ import annotations

import hashlib
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
    names = ("checkpoints", "jobs", "measure", "run")
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
    assert first.a.read_bytes() == second.a.read_bytes()
    first.a.write_bytes(b"kept")
    assert bench.checkpoints.checkpoints("tiny", tmp_path / "one").a.read_bytes() == b"kept"
    first.a.unlink()
    assert bench.checkpoints.checkpoints("tiny", tmp_path / "one").a.read_bytes() == second.a.read_bytes()


def test_a_tensor_larger_than_a_chunk_is_made_in_pieces(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.checkpoints, "CHUNK", 50)
    files = bench.checkpoints.checkpoints("tiny", tmp_path)
    model = open_model(files.base)
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
    [result] = bench.run.bench([copy], files, tmp_path, rounds=2, threads=1, memory="1GiB", warm_up=False)
    assert not (tmp_path / "merged.safetensors").exists()
    assert len(result.runs) == len(result.floors) == 2
    assert result.nbytes == 3 * files.a.stat().st_size
    text = bench.run.time_table([result])
    assert "floor: read a + b, copy one" in text
    assert f"{result.ratio:.2f}" in text


def test_the_median_ratio_pairs_each_run_with_its_own_floor(bench: SimpleNamespace) -> None:
    def runs(*walls: float) -> list[object]:
        return [bench.measure.Measurement(wall, None, None, None) for wall in walls]

    result = bench.run.Result(bench.jobs.JOBS[0], 10**9, runs(4.0, 9.0, 30.0), runs(2.0, 3.0, 15.0))
    assert result.ratio == 2.0
    assert "n/a" in bench.run.time_table([result])


def test_check_passes_what_is_constant_and_fails_what_is_not(bench: SimpleNamespace, tmp_path: Path) -> None:
    files = bench.checkpoints.checkpoints("tiny", tmp_path)
    write = "import sys; open(sys.argv[1], 'w').write("
    variants = bench.run.VARIANTS[:3]
    jobs = [
        bench.jobs.Job("steady", ("a",), (*PYTHON, write + "'x')", "{out}")),
        bench.jobs.Job("by-threads", ("a",), (*PYTHON, write + "sys.argv[2])", "{out}", "{threads}")),
        bench.jobs.Job("broken", ("a",), (*PYTHON, "raise SystemExit('no luck')")),
    ]
    found = bench.run.check(jobs, files, tmp_path, variants)
    assert [one.problem for one in found] == ["", "", "", "", "", "other bytes", "no luck", "no luck", "no luck"]
    assert found[0].sha256 == hashlib.sha256(b"x").hexdigest()
    assert bench.run.check_table(found).count("FAIL") == 4
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
