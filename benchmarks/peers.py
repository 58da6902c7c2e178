"""Other tools that merge the same files, where they are installed: rows of :data:`PEERS`.

They have dependencies of their own, so they are best installed in an environment of their own::

    python -m venv peers && peers/bin/pip install mergekit sd-mecha
    python benchmarks/run.py --peers peers/bin/python
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

from jobs import Job

__all__ = ["PEERS", "installed"]

PYTHON = "{python}"
MAIN = "from mergekit.scripts.merge_raw_pytorch import main; main()"
MERGEKIT = (PYTHON, "-W", "ignore", "-c", MAIN, "{config}", "{out}")
MECHA = (PYTHON, "-W", "ignore", str(Path(__file__).parent / "peer_sd_mecha.py"))


def _mergekit(name: str, method: str, *models: str, base: str | None = None, **parameters: float) -> Job:
    """``mergekit-pytorch``, which merges bare state dicts, in one process as it does by default; into a folder."""
    weights = {name: {"weight": 0.5, **parameters} for name in models}
    config = {
        "merge_method": method,
        "models": [{"model": f"{{{name}}}", "parameters": found} for name, found in weights.items()],
        **({"base_model": f"{{{base}}}"} if base else {}),
        "dtype": "float16",
    }
    inputs = (*models, *([base] if base else []))
    return Job(name, inputs, MERGEKIT, tool="mergekit", ending="", texts={"config": json.dumps(config)})


PEERS: tuple[Job, ...] = (
    _mergekit("linear", "linear", "a", "b"),
    _mergekit("dare_linear", "dare_linear", "a", "b", base="base", density=0.5),
    _mergekit("dare_ties", "dare_ties", "a", "b", base="base", density=0.5),
    _mergekit("ties", "ties", "a", "b", base="base", density=0.5),
    Job("weighted_sum", ("a", "b"), (*MECHA, "weighted_sum", "{out}", "{a}", "{b}"), tool="sd-mecha"),
    Job("DARE + TIES", ("a", "b", "base"), (*MECHA, "dare_ties", "{out}", "{base}", "{a}", "{b}"), tool="sd-mecha"),
)


def installed(python: str) -> list[Job]:
    """The peers' jobs with that interpreter; of tools that it does not have, none. Their names tell the versions."""
    found = []
    for tool in dict.fromkeys(job.tool for job in PEERS):
        code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
        asked = subprocess.run([python, "-c", code, tool], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            name = f"{tool} {asked.stdout.strip()}"
            found += [
                replace(job, tool=name, command=tuple(python if word == PYTHON else word for word in job.command))
                for job in PEERS
                if job.tool == tool
            ]
    return found
