"""Whether nothing but recipe and inputs decides the bytes of what a job writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checkpoints import Checkpoints
from jobs import Job, prepare
from measure import CommandFailed, measure
from tables import markdown

from daremerge_core.stores import sha256_file

__all__ = ["VARIANTS", "Check", "Variant", "check", "check_table"]


@dataclass(frozen=True)
class Variant:
    """One way to run that may not change a byte."""

    name: str
    threads: int = 2
    memory: str = "1GiB"
    env: Mapping[str, str] = field(default_factory=dict)


VARIANTS: tuple[Variant, ...] = (
    Variant("2 threads, 1 GiB"),
    Variant("again"),
    Variant("1 thread", threads=1),
    Variant("4 threads", threads=4),
    Variant("256 MiB", memory="256MiB"),
    Variant("4 GiB", memory="4GiB"),
    Variant("PYTHONHASHSEED=1", env={"PYTHONHASHSEED": "1"}),
    Variant("PYTHONHASHSEED=2", env={"PYTHONHASHSEED": "2"}),
    Variant("DAREMERGE_FAST=0 (no numba)", env={"DAREMERGE_FAST": "0"}),
)
"""The first is what the others are compared with."""


@dataclass(frozen=True)
class Check:
    """One job run one way: ``problem`` is empty where it gave the bytes of the first variant."""

    job: str
    variant: str
    sha256: str
    problem: str = ""


def check(jobs: Sequence[Job], files: Checkpoints, scratch: Path, variants: Sequence[Variant]) -> list[Check]:
    """Run every job every way. All write to the same path in turn, so that nothing but the way differs."""
    found: list[Check] = []
    for job in jobs:
        prepare(job, files, scratch)
        expected = ""
        for variant in variants:
            one = _checked(job, variant, files, job.output(scratch), expected)
            expected = expected or one.sha256
            found.append(one)
    return found


def _checked(job: Job, variant: Variant, files: Checkpoints, out: Path, expected: str) -> Check:
    try:
        measure(job.argv(files, out, threads=variant.threads, memory=variant.memory), env=variant.env)
        found = sha256_file(out)
    except (CommandFailed, OSError) as error:
        return Check(job.name, variant.name, "", str(error).strip().splitlines()[-1])
    finally:
        out.unlink(missing_ok=True)
    return Check(job.name, variant.name, found, "other bytes" if expected not in ("", found) else "")


def check_table(checks: Sequence[Check]) -> str:
    """Markdown."""
    rows = [("job", "run with", "sha256", "")]
    rows += [(one.job, one.variant, one.sha256[:16], f"FAIL: {one.problem}" if one.problem else "ok") for one in checks]
    return markdown(rows)
