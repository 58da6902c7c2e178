"""A reporter's report, without a plan or files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..engine import Pool, Quiet, one_thread_per_op
from ..survey import Survey

if TYPE_CHECKING:
    from ..components import Reporter
    from ..layout import LayoutSpec
    from ..values import Report

__all__ = ["report_of"]


def report_of(
    reporter: Reporter, *, threads: int = 1, memory: int = 1 << 30, layouts: Sequence[LayoutSpec] = ()
) -> Report:
    """What a reporter, its ports filled with live values, answers to a survey with these settings."""
    with one_thread_per_op():
        return reporter.report(Survey(Pool(threads, memory, threading.Event()), Quiet(), layouts))
