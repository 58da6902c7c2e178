"""Who may import what, where a static check cannot tell: nothing loads torch before a tensor is needed."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import daremerge_core

MAY_IMPORT_MORE = (
    "daremerge_core.demo.digits",
    "daremerge_core.kernels",
    "daremerge_core.quantile",
    "daremerge_core.ranks",
    "daremerge_core.reach_numba",
    "daremerge_core.rng.normal",
    "daremerge_core.rng.philox_numba",
    "daremerge_core.rng.philox_torch",
    "daremerge_core.storage_numba",
    "daremerge_core.stores.kernels",
    "daremerge_core.tally_numba",
    "daremerge_core.task_sum_numba",
    "daremerge_core.tiles_numba",
)
NEEDS_PYTEST = ("daremerge_core.testing",)
RUNS = ("daremerge_core.cli.__main__",)


def modules() -> list[str]:
    found = pkgutil.walk_packages(daremerge_core.__path__, "daremerge_core.", onerror=lambda name: None)
    return [one.name for one in found if not one.name.startswith((*MAY_IMPORT_MORE, *NEEDS_PYTEST, *RUNS))]


def test_importing_the_core_loads_nothing_heavy() -> None:
    names = modules()
    assert {"daremerge_core.plan", "daremerge_core.engine", "daremerge_core.views", "daremerge_core.api"} <= set(names)
    code = f"import sys, importlib; [importlib.import_module(name) for name in {names!r}]; " + (
        "print(sorted({'torch', 'numpy', 'numba', 'matplotlib', 'rich', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", daremerge_core.__all__)
def test_the_authors_api_is_there_by_name(name: str) -> None:
    assert getattr(daremerge_core, name) is not None
    assert name in dir(daremerge_core)
