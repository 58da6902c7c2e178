"""The command line as a new user meets it: what it prints, its exit codes, and how it speaks of mistakes."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import Result
from support import FIXTURES

from daremerge_core import open_model
from daremerge_core.testing import tiny_tensors
from daremerge_core.testing.fixtures import save

Cli = Callable[..., Result]
DARE = ("merge", "dare", "a.safetensors", "b.safetensors", "--base", "base.safetensors")


def identical(folder: Path, one: str, other: str) -> bool:
    return (folder / one).read_bytes() == (folder / other).read_bytes()


class TestMerge:
    def test_dare_end_to_end(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli(*DARE, "-o", "out.safetensors", "--drop-rate", "0.5", "--seed", "3", "--sha256")
        assert done.exit_code == 0, done.output
        digest = hashlib.sha256((models.folder / "out.safetensors").read_bytes()).hexdigest()
        assert f"sha256 {digest}  out.safetensors" in done.output
        assert "wrote out.safetensors: 11 tensors" in done.output
        assert "1 I64 tensors pass through" in done.output

    def test_the_embedded_recipe_gives_the_same_bytes(self, cli: Cli, models: SimpleNamespace) -> None:
        assert cli(*DARE, "-o", "out.safetensors").exit_code == 0
        again = cli("run", "out.safetensors", "-o", "again.safetensors")
        assert again.exit_code == 0, again.output
        assert identical(models.folder, "out.safetensors", "again.safetensors")

    def test_the_embedded_recipe_finds_files_that_moved(self, cli: Cli, models: SimpleNamespace) -> None:
        assert cli(*DARE, "-o", "out.safetensors").exit_code == 0
        moved = models.folder / "moved"
        moved.mkdir()
        for path in (models.a, models.b, models.base):
            path.rename(moved / path.name)
        again = cli("run", "out.safetensors", "-o", "again.safetensors", "--models", "moved")
        assert again.exit_code == 0, again.output
        assert identical(models.folder, "out.safetensors", "again.safetensors")

    def test_changed_inputs_are_refused_unless_accepted(self, cli: Cli, models: SimpleNamespace) -> None:
        assert cli(*DARE, "-o", "out.safetensors").exit_code == 0
        save(models.b, tiny_tensors(9, torch.float16))
        refused = cli("run", "out.safetensors", "-o", "again.safetensors")
        assert refused.exit_code == 2
        assert "inputs have changed" in refused.output
        assert "b.safetensors" in refused.output
        assert not (models.folder / "again.safetensors").exists()
        assert cli("run", "out.safetensors", "-o", "again.safetensors", "--changed-inputs").exit_code == 0

    def test_a_recipe_file_is_the_same_as_the_flags(self, cli: Cli, models: SimpleNamespace) -> None:
        flags = cli(*DARE, "-o", "flags.safetensors", "--drop-rate", "0.7", "--parts", "unet", "--dtype", "fp32")
        assert flags.exit_code == 0, flags.output
        (models.folder / "r.yaml").write_text(
            "models: {a: a.safetensors, b: b.safetensors, base: base.safetensors}\n"
            "steps:\n  merged: {op: merge.dare, a: a, b: b, base: base, drop_rate: 0.1, parts: [unet]}\n"
            "output: {step: merged, path: recipe.safetensors}\n"
        )
        done = cli("run", "r.yaml", "--set", "merged.drop_rate=0.7", "--dtype", "fp32")
        assert done.exit_code == 0, done.output
        assert identical(models.folder, "flags.safetensors", "recipe.safetensors")

    def test_several_models_by_position(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli("merge", "fixture-mean", "a.safetensors", "b.safetensors", "base.safetensors", "-o", "m.safetensors")
        assert done.exit_code == 0, done.output
        key = "first_stage_model.decoder.conv_in.weight"
        mean = sum(open_model(path).read(key).float() for path in (models.a, models.b, models.base)) / 3
        assert torch.equal(open_model(models.folder / "m.safetensors").read(key), mean.half())

    def test_mask_and_gradient_files(self, cli: Cli, models: SimpleNamespace) -> None:
        from daremerge_fixture.plugin import Positive

        from daremerge_core import MemoryModel, view
        from daremerge_core.stores import write_gradient, write_mask

        a = open_model(models.a)
        key = "first_stage_model.decoder.conv_in.weight"
        other = "model.diffusion_model.out.2.weight"
        write_gradient(models.folder / "g.json", {key: 0.0, other: 0.0})
        write_mask(models.folder / "m.safetensors", view(Positive(model=MemoryModel({key: a.read(key)}))))
        done = cli(
            "merge", "lerp", "a.safetensors", "b.safetensors", "--gradient", "g.json", "--mask", "m.safetensors",
            "-o", "out.safetensors",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        out, b = open_model(models.folder / "out.safetensors"), open_model(models.b)
        assert torch.equal(out.read(key), torch.where(a.read(key) > 0, b.read(key), a.read(key)))
        assert torch.equal(out.read(other), a.read(other))
        again = cli("run", "out.safetensors", "-o", "again.safetensors")
        assert again.exit_code == 0, again.output
        assert identical(models.folder, "out.safetensors", "again.safetensors")

    def test_a_dry_run_shows_the_plan_and_writes_nothing(self, cli: Cli, models: SimpleNamespace) -> None:
        before = sorted(models.folder.iterdir())
        done = cli(*DARE, "-o", "out.safetensors", "--dry-run")
        assert done.exit_code == 0, done.output
        assert "merge.dare" in done.output
        assert "merged 10 of 11 tensors" in done.output
        assert sorted(models.folder.iterdir()) == before

    def test_sharded_output_runs_again(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli(*DARE, "-o", "folder", "--shard-size", "600")
        assert done.exit_code == 0, done.output
        again = cli("run", "folder", "-o", "again")
        assert again.exit_code == 0, again.output
        first = sorted(path.name for path in (models.folder / "folder").iterdir())
        assert first == sorted(path.name for path in (models.folder / "again").iterdir())
        assert all(identical(models.folder, f"folder/{name}", f"again/{name}") for name in first)

    def test_pickled_checkpoints_merge(self, cli: Cli, models: SimpleNamespace) -> None:
        torch.save({"state_dict": tiny_tensors(1, torch.float16), "epoch": 3}, models.folder / "old.ckpt")
        done = cli("merge", "lerp", "a.safetensors", "old.ckpt", "--ratio", "0", "-o", "out.safetensors")
        assert done.exit_code == 0, done.output

    def test_hooks_observe(self, cli: Cli, models: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DAREMERGE_FIXTURE_NOTE", str(models.folder / "note"))
        done = cli("merge", "to-norm", "a.safetensors", "b.safetensors", "-o", "out.safetensors")
        assert "warning: the fixture plugin says hello" in done.output
        assert (models.folder / "note").read_text() == str(models.folder / "out.safetensors")

    def test_nonfinite_weights_are_warned_of(self, cli: Cli, models: SimpleNamespace) -> None:
        tensors = tiny_tensors(5, torch.float16)
        tensors[next(iter(tensors))][0, 0] = float("nan")
        save(models.b, tensors)
        done = cli("merge", "lerp", "a.safetensors", "b.safetensors", "-o", "out.safetensors")
        assert done.exit_code == 0
        assert "warning: 1 values are NaN or infinite, in 1 tensors" in done.output


LERP = ("merge", "lerp", "a.safetensors")
MISTAKES: list[tuple[str, tuple[str, ...], list[str]]] = [
    ("no output", DARE, ["-o OUT.safetensors"]),
    ("out of range", (*DARE, "-o", "o.safetensors", "--drop-rate", "1.5"), ["--drop-rate", "1.5", "0<=x<=1"]),
    ("not a number", (*DARE, "-o", "o.safetensors", "--drop-rate", "nan"), ["--drop-rate"]),
    ("ratio is nan", (*DARE, "-o", "o.safetensors", "--ratio", "nan"), ["--ratio", "finite"]),
    ("unknown option", (*DARE, "-o", "o.safetensors", "--drop", "1"), ["--drop"]),
    ("a model is missing", ("merge", "lerp", "a.safetensors", "-o", "o.safetensors"), ["Missing argument 'B'"]),
    ("a base is missing", ("merge", "add-difference", "a", "b", "-o", "o.safetensors"), ["Missing option '--base'"]),
    ("impossible ratio", (*LERP[:1], "scaled-add", "a", "b", "-o", "o.safetensors", "--ratio", "2"), ["adds up to"]),
    ("unknown method", ("merge", "darre", "a", "b"), ["darre", "Did you mean dare"]),
    ("unknown blend", (*DARE, "-o", "o.safetensors", "--blend", "slurp"), ["--blend", "Did you mean slerp"]),
    ("unknown command", ("mrge",), ["mrge"]),
    ("unknown part", (*DARE, "-o", "o.safetensors", "--parts", "unett"), ["--parts", "unet"]),
    ("unknown selector", (*DARE, "-o", "o.safetensors", "--include", "*.attn9.*"), ["attn9"]),
    ("missing file", (*LERP, "bb.safetensors", "-o", "o.safetensors"), ["bb.safetensors"]),
    ("output is input", (*DARE, "-o", "a.safetensors", "--overwrite"), ["is the input", "'a'"]),
    ("existing output", (*DARE, "-o", "there.safetensors"), ["there.safetensors", "--overwrite"]),
    ("no such folder", (*DARE, "-o", "no/where/o.safetensors"), ["no/where"]),
    ("unknown format", (*DARE, "-o", "o.gguf"), ["o.gguf", ".safetensors"]),
    ("bad memory", (*DARE, "-o", "o.safetensors", "--memory", "lots"), ["--memory", "lots"]),
    ("bad device", (*DARE, "-o", "o.safetensors", "--device", "cuda:77"), ["cuda:77", "--device"]),
    ("shapes differ", (*LERP, "odd.safetensors", "-o", "o.safetensors"), ["[8, 8]", "[9, 8]", "--on-mismatch"]),
    ("truncated", (*LERP, "short.safetensors", "-o", "o.safetensors"), ["short.safetensors", "truncated"]),
    ("empty model", ("merge", "lerp", "empty.safetensors", "b.safetensors", "-o", "o.safetensors"), ["no tensors"]),
    ("code in a pickle", (*LERP, "evil.ckpt", "-o", "o.safetensors"), ["evil.ckpt", "code"]),
    ("no recipe inside", ("run", "a.safetensors", "-o", "o.safetensors"), ["a.safetensors", "no recipe"]),
    ("recipe with a typo", ("run", "typo.yaml", "-o", "o.safetensors"), ["drop_rat", "Did you mean drop_rate"]),
    ("recipe with a cycle", ("plan", "cycle.yaml"), ["cycle"]),
    ("no such recipe", ("run", "nothing.yaml", "-o", "o.safetensors"), ["nothing.yaml"]),
]  # fmt: skip


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran-code",)


@pytest.fixture
def mistakes(models: SimpleNamespace) -> SimpleNamespace:
    """Files for every mistake."""
    folder = models.folder
    (folder / "there.safetensors").write_bytes(b"precious")
    odd = tiny_tensors(3, torch.float16)
    odd["cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"] = torch.zeros(9, 8).half()
    save(folder / "odd.safetensors", odd)
    (folder / "short.safetensors").write_bytes(models.b.read_bytes()[:-10])
    save(folder / "empty.safetensors", {})
    torch.save({"x": Evil()}, folder / "evil.ckpt")
    step = "{op: merge.dare, a: a.safetensors, b: %s, drop_rat: 0.5}"
    (folder / "typo.yaml").write_text(f"steps: {{m: {step % 'b.safetensors'}}}\noutput: m\n")
    (folder / "cycle.yaml").write_text("steps: {m: {op: merge.lerp, a: m, b: m}}\noutput: m\n")
    return models


@pytest.mark.parametrize(("args", "words"), [pytest.param(a, w, id=name) for name, a, w in MISTAKES])
def test_a_mistake_exits_2_says_what_to_do_and_writes_nothing(
    cli: Cli, mistakes: SimpleNamespace, args: tuple[str, ...], words: list[str]
) -> None:
    before = {path: path.read_bytes() for path in mistakes.folder.iterdir()}
    done = cli(*args)
    assert done.exit_code == 2, done.output
    for word in words:
        assert word in done.output
    assert "Traceback" not in done.output
    assert {path: path.read_bytes() for path in mistakes.folder.iterdir()} == before


class TestLooking:
    def test_inspect(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli("inspect", "a.safetensors", "--keys")
        assert done.exit_code == 0, done.output
        for word in ["unet", "vae", "clip", "F16", "I64", "modelspec.title", "attn.q", "input_blocks.10"]:
            assert word in done.output

    def test_inspect_as_json(self, cli: Cli, models: SimpleNamespace) -> None:
        facts = json.loads(cli("inspect", "a.safetensors", "--json").output)
        assert facts["tensors"] == 11
        assert facts["parts"]["vae"]["tensors"] == 1

    def test_control_characters_from_files_never_reach_the_terminal(self, cli: Cli, tmp_path: Path) -> None:
        save(tmp_path / "x.safetensors", {"a\x1b[31mred": torch.zeros(2)}, {"title": "\x1b]0;owned\x07"})
        done = cli("inspect", "x.safetensors", "--keys")
        assert "\x1b" not in done.output
        assert "\\x1b" in done.output

    def test_methods(self, cli: Cli) -> None:
        done = cli("methods")
        assert "merge.power-lerp" in done.output
        assert "daremerge-fixture" in done.output
        assert "merge.dare" in cli("methods", "--kind", "merge").output
        schema = json.loads(cli("methods", "--json").output)
        assert schema["merge.dare"]["properties"]["drop_rate"]["maximum"] == 1

    def test_plugins(self, cli: Cli) -> None:
        done = cli("plugins")
        assert done.exit_code == 0, done.output
        assert "daremerge-fixture 1.0" in done.output

    def test_a_failed_plugin_exits_1_and_says_why(self, process: Any) -> None:
        path = os.pathsep.join([str(FIXTURES / "broken"), os.environ.get("PYTHONPATH", "")])
        done = process("plugins", "--verbose", PYTHONPATH=path)
        assert done.returncode == 1
        assert "a_module_that_is_not_installed" in done.stdout
        assert "daremerge-broken 2.0" in done.stdout

    def test_a_plugins_own_command(self, cli: Cli) -> None:
        assert "hello from the fixture plugin" in cli("fixture-hello").output
        assert "fixture-hello" in cli("--help").output


class TestHelp:
    def test_every_option_of_dare_has_help_range_and_default(self, cli: Cli) -> None:
        text = cli("merge", "dare", "--help").output
        for word in [
            "--drop-rate", "0<=x<=1", "0.9", "--rescale / --no-rescale", "--seed", "--ties [off|sum|count]",
            "--blend", "--iterations", "--ratio", "--base", "--mask", "--gradient", "--parts", "--include",
            "--exclude", "--on-mismatch [error|keep-a|skip|common-rows]", "--dtype", "--device", "--threads",
            "--memory", "--overwrite", "--dry-run", "A B",
        ]:  # fmt: skip
            assert word in text, word

    def test_a_third_partys_method_has_help(self, cli: Cli) -> None:
        text = cli("merge", "power-lerp", "--help").output
        assert "0 is plain lerp; higher favours large moves." in text
        assert "0<=x<=8" in text

    @pytest.mark.parametrize("args", [["--help"], ["merge", "--help"], ["merge", "dare", "--help"], ["methods"]])
    def test_help_imports_neither_torch_nor_matplotlib(self, args: list[str]) -> None:
        code = (
            "import sys; from daremerge_core.cli import main; sys.argv = ['daremerge', *sys.argv[1:]]\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'matplotlib', 'numpy', 'numba', 'rich', 'yaml'} & set(sys.modules)\n"
            "sys.exit(f'imported {heavy}' if heavy - {'yaml'} else 0)"
        )
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("args", [["--help"], ["--version"], ["demo", "--help"]])
    def test_the_first_help_imports_no_plugin_and_nothing_that_is_slow(self, args: list[str]) -> None:
        code = (
            "import sys; from daremerge_core.cli import main; sys.argv = ['daremerge', *sys.argv[1:]]\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "mine = {'daremerge_core', 'daremerge_lora', 'daremerge_lora.commands'}\n"
            "plugins = {name for name in sys.modules if name.startswith('daremerge_') and '_core' not in name} - mine\n"
            "heavy = {'pydantic', 'pluggy', 'yaml', 'daremerge_core.catalog'} & set(sys.modules)\n"
            "sys.exit(f'imported {plugins | heavy}' if plugins | heavy else 0)"
        )
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class TestProcess:
    def test_the_hash_seed_does_not_matter(self, process: Any, models: SimpleNamespace) -> None:
        for seed in ("0", "1"):
            done = process(*DARE, "-o", f"out{seed}.safetensors", PYTHONHASHSEED=seed)
            assert done.returncode == 0, done.stderr
        assert identical(models.folder, "out0.safetensors", "out1.safetensors")

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_stopping_it_leaves_nothing_behind(self, models: SimpleNamespace, sent: signal.Signals) -> None:
        before = sorted(models.folder.iterdir())
        command = [sys.executable, "-m", "daremerge_core.cli", "merge", "slow", "a.safetensors", "b.safetensors"]
        path = os.pathsep.join([str(FIXTURES / "site"), os.environ.get("PYTHONPATH", "")])
        running = subprocess.Popen(
            [*command, "-o", "out.safetensors", "--threads", "1"],
            cwd=models.folder,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A background shell, as some CI runners are, has its children ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while running.poll() is None and not list(models.folder.glob(".out*")):
            time.sleep(0.01)
        running.send_signal(sent)
        _, errors = running.communicate(timeout=60)
        assert running.returncode == 130, errors
        assert "nothing was written" in errors
        assert "Traceback" not in errors
        assert sorted(models.folder.iterdir()) == before

    def test_what_is_loaded_is_not_looked_through_for_garbage_and_the_rest_is(self) -> None:
        code = "import gc, sys; from daremerge_core.cli import main; sys.argv[1:] = ['merge', 'lerp', '--help']\n"
        code += "try: main()\nexcept SystemExit as done: print(done.code, gc.isenabled(), gc.get_freeze_count() > 9999)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "0 True True"

    def test_in_a_process_of_somebody_elses_garbage_is_left_to_him(self, cli: Cli) -> None:
        before = gc.get_freeze_count()
        assert cli("merge", "lerp", "--help").exit_code == 0
        assert (gc.get_freeze_count(), gc.isenabled()) == (before, True)

    def test_without_numba_the_bytes_are_the_same(self, process: Any, models: SimpleNamespace) -> None:
        for fast in ("0", "1"):
            done = process(*DARE, "-o", f"out{fast}.safetensors", DAREMERGE_FAST=fast)
            assert done.returncode == 0, done.stderr
        assert identical(models.folder, "out0.safetensors", "out1.safetensors")
