"""The demo: its training, the numbers it promises, and what it does to the folder it is given.

The network is trained once, for fewer epochs than the demo does; the merges are the real commands, run in this
process. What a process of its own adds is tested on one command.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("sklearn")

from daremerge_core.cli import make_cli
from daremerge_core.demo import digits, run, run_demo
from daremerge_core.errors import CatalogError, DaremergeError, OutputError

Trained = dict[str, digits.Weights]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """The base and its fine-tunes by name."""
    data = digits.load_digits(0)
    base = digits.pretrain(data, seed=0, epochs=10)
    return {"base": base} | {task: digits.fine_tune(base, data, task, seed=0, epochs=5) for task in digits.TASKS}


@pytest.fixture
def quick(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The demo with its training done and its commands run in this process; the list of those commands."""
    ran: list[list[str]] = []
    lock = threading.Lock()  # the runner borrows this process's standard output

    def in_process(arguments: list[str]) -> str:
        with lock:
            done = CliRunner().invoke(make_cli(), [*arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        ran.append(list(arguments))
        return shlex.join(["daremerge", *arguments])

    monkeypatch.setattr(digits, "pretrain", lambda data, seed: trained["base"])
    monkeypatch.setattr(digits, "fine_tune", lambda base, data, task, seed: trained[task])
    monkeypatch.setattr(run, "_run", in_process)
    return ran


def test_the_story_holds(tmp_path: Path, quick: list[list[str]]) -> None:
    lines: list[str] = []
    result = run_demo(tmp_path / "demo", echo=lines.append)
    assert result.mean("base") <= 30
    assert result.mean("fine-tuned") >= 95
    assert result.mean("dare") >= 95
    assert result.mean("drop-only") <= 35
    assert result.mean("linear") + 10 <= result.mean("dare-ties") <= result.mean("task-arithmetic") + 5
    assert result.mean("wudi") >= max(result.mean("task-arithmetic"), 75)
    text = "\n".join(lines)
    assert all(shlex.join(["daremerge", *command]) in text for command in quick)
    assert all(row.title in text and row.reading in text for row in result.rows.values())


def test_every_file_is_made_by_a_printed_command_and_a_second_run_replaces_it(
    tmp_path: Path, quick: list[list[str]], trained: Trained
) -> None:
    folder = tmp_path / "with space"
    run_demo(folder, echo=lambda line: None)
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    outputs = {Path(command[command.index("-o") + 1]).name for command in quick}
    assert set(made) == outputs | {f"{name}.safetensors" for name in trained} | {
        "three.yaml",
        "accuracy.png",
    }
    run_demo(folder, echo=lambda line: None)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, quick: list[list[str]]) -> None:
    model = tmp_path / "base.safetensors"
    model.write_bytes(b"someone's model")
    with pytest.raises(OutputError, match="not the demo's"):
        run_demo(tmp_path, echo=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["base.safetensors"]
    assert model.read_bytes() == b"someone's model"


def test_a_folder_that_cannot_be_made_is_a_plain_error(tmp_path: Path, quick: list[list[str]]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        run_demo(tmp_path / "file" / "demo", echo=lambda line: None)


def test_without_scikit_learn_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DaremergeError, match=r"pip install \"daremerge-core\[demo\]\""):
        run_demo(tmp_path / "demo", echo=lambda line: None)
    assert not (tmp_path / "demo").exists()


def test_without_a_method_it_stops_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from daremerge_core.catalog import Catalog

    monkeypatch.setattr(run, "discover", Catalog)
    monkeypatch.setattr(digits, "pretrain", lambda *_: pytest.fail("trained"))
    with pytest.raises(CatalogError, match="daremerge-merge-dare"):
        run_demo(tmp_path / "demo", echo=lambda line: None)


def test_a_command_runs_as_a_process_and_its_error_is_passed_on() -> None:
    assert run._run(["methods", "--kind", "merge"]) == "daremerge methods --kind merge"
    with pytest.raises(DaremergeError, match=r"daremerge inspect 'not there'\n.*not there"):
        run._run(["inspect", "not there"])


def test_training_is_a_function_of_its_arguments() -> None:
    data = digits.load_digits(3)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = digits.pretrain(data, seed=5, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second = digits.pretrain(data, seed=5, epochs=1)
    other = digits.pretrain(data, seed=6, epochs=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    kept = {name: tensor.clone() for name, tensor in first.items()}
    digits.fine_tune(first, data, "negative", seed=5, epochs=1)
    assert all(torch.equal(first[name], kept[name]) for name in first)


def test_splits_share_no_image_and_lose_none() -> None:
    data = digits.load_digits(0)
    parts = (data.train, data.validation, data.test)
    assert [len(part.labels) for part in parts] == [1078, 360, 359]
    images = torch.cat([part.images for part in parts]).flatten(1)
    whole = torch.cat([part.images for part in vars(digits.load_digits(1)).values()]).flatten(1)
    assert sorted(map(tuple, images.tolist())) == sorted(map(tuple, whole.tolist()))
    assert images.min() == -1
    assert images.max() == 1


def test_jitter_moves_by_at_most_a_pixel() -> None:
    spot = torch.full((200, 8, 8), -1.0)
    spot[:, 4, 4] = 20.0
    moved = digits._jitter(spot, torch.Generator().manual_seed(0))
    found = {divmod(int(where), 8) for where in moved.flatten(1).argmax(dim=1)}
    assert found == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}


def test_importing_the_demo_loads_neither_torch_nor_scikit_learn() -> None:
    code = "import sys, daremerge_core.demo; print(sorted({'torch', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
