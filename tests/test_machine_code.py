"""Machine code of loops is made once, kept, and loaded without numba; what becomes of it changes no result."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from daremerge_core import loops, machine_code
from daremerge_core.machine_code import MachineCode

pytestmark = pytest.mark.skipif(not loops.available(), reason="numba is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where machine code is kept; nothing is there yet."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


def count_full() -> MachineCode:
    """A loop as a process has it that has called none."""
    return MachineCode("kernels_numba", "count_full", "uint16* int64 uint16", "int64")


def counts(loop: MachineCode) -> bool:
    """Whether the loop does what it is for."""
    bits = (ctypes.c_uint16 * 5)(0, 0x7C00, 1, 0xFC01, 0x3C00)
    return bool(loop(bits, 5, 0x7C00) == 2)


def without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: MachineCode) -> None:
        raise AssertionError("there is machine code")

    monkeypatch.setattr(MachineCode, "_compile", fail)


def test_it_is_compiled_once_and_loaded_from_then_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = count_full()
    assert not first.kept
    assert counts(first)
    assert first.kept
    [kept] = folder.iterdir()
    assert kept.name.startswith("kernels_numba.count_full-")
    without_compiling(monkeypatch)
    assert count_full().kept
    assert counts(count_full())


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda code: b"",
    "cut off": lambda code: code[:-1],
    "changed": lambda code: code[:200] + bytes([code[200] ^ 1]) + code[201:],
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_what_is_damaged_is_made_anew(
    folder: Path, spoil: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts(count_full())
    [kept] = folder.iterdir()
    kept.write_bytes(spoil(kept.read_bytes()))
    assert counts(count_full())
    assert list(folder.iterdir()) == [kept]
    without_compiling(monkeypatch)
    assert counts(count_full())


def test_code_of_other_sources_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts(count_full())
    monkeypatch.setattr(machine_code, "_made_of", lambda: "other sources, versions, or another processor")
    assert not count_full().kept


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "a file" / "below"))
    assert counts(count_full())
    assert not count_full().kept


def test_beside_a_package_that_is_not_ours_it_is_kept_in_the_users_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "__pycache__").touch()  # in the way
    machine_code._made_of()  # of the package as it is
    monkeypatch.setattr(machine_code, "_HERE", tmp_path)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert counts(count_full())
    assert len(list((tmp_path / "caches" / "daremerge").iterdir())) == 1


def test_threads_that_call_it_first_wait_for_one_of_them(folder: Path) -> None:
    loop = count_full()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(counts, [loop] * 64))
    assert len(list(folder.iterdir())) == 1


def test_a_merge_by_kept_code_imports_neither_numba_nor_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from daremerge_core.cli import main; sys.argv[1:] = {args!r}\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({{'numba', 'torch', 'llvmlite'}} & set(sys.modules)))"
    )
    for name in "ab":
        weight = torch.full((300, 7), float(ord(name)), dtype=torch.float16)
        save_file({"model.weight": weight}, tmp_path / f"{name}.safetensors")

    def merge(output: str) -> str:
        args = ["merge", "lerp", "a.safetensors", "b.safetensors", "-o", output]
        done = subprocess.run(
            [sys.executable, "-c", code.format(args=args)], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()[-1]

    assert merge("first.safetensors") == "['llvmlite', 'numba']"
    assert merge("again.safetensors") == "['llvmlite']"
    assert (tmp_path / "first.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
