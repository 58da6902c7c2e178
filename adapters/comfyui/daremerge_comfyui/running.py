"""Running the graph below a node: on the canvas's device, with its progress and its cancel button."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import uuid4

from daremerge_core import Report, open_model
from daremerge_core.api import compute_plan, create_sink, make_report, plan_recipe, report_on
from daremerge_core.engine import Settings, execute, settle
from daremerge_core.errors import DaremergeError, DeviceMemoryError, Interrupted
from daremerge_core.plan import Plan
from daremerge_core.sizes import format_size

from .graph import Step, flatten
from .values import core_value
from .words import canvas_words

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CanvasCancel",
    "CanvasProgress",
    "Keep",
    "Stopped",
    "compute",
    "explained",
    "on_some_device",
    "plan_of",
    "report",
    "report_of_merge",
    "value_of",
]

Keep = Literal["auto", "memory", "disk"]
"""Where the tensors of a result are kept: in memory, or in a file of ComfyUI's temp folder that is mapped into it."""

T = TypeVar("T")


class Stopped(Exception):
    """What a node says when it cannot do what it was asked, in the canvas's words."""

    __module__ = "daremerge"  # the browser shows where an error's class lives, which is no news to its reader


# --- the graph, met with what is there now ---------------------------------------------------------------


def plan_of(step: Step, *, changed_only: bool = False) -> Plan:
    """The plan of a step: every header checked, nothing computed."""
    name, flat = flatten(step)
    live: dict[int, Any] = {}
    for source in flat.sources.values():
        live.setdefault(id(source.value), core_value(source))
    return plan_recipe(
        {"steps": flat.steps, "output": name},
        live={name: live[id(source.value)] for name, source in flat.sources.items()},
        changed_only=changed_only,
    )


def value_of(step: Step) -> Any:
    """A step's lazy value: a model, a mask or a gradient of the core."""
    with explained():
        return plan_of(step).value


# --- computing -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Computed:
    """The tensors of a result, and what to say of it."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    summary: str


def compute(step: Step, *, keep: Keep = "auto", changed_only: bool = True) -> Computed:
    """The tensors that a step changes, or all of them, in CPU memory or mapped from disk."""
    started = time.monotonic()
    with explained():
        plan = plan_of(step, changed_only=changed_only)
        to_disk = _goes_to_disk(keep, plan)
        tensors = on_some_device(lambda settings: _computed(plan, settings, to_disk=to_disk))
        where = f"{format_size(plan.bytes_out)} {'on disk' if to_disk else 'in memory'}"
        took = f"{time.monotonic() - started:.1f} s"
        merged, copied, _ = plan.counts()
        left = "".join(f"; left alone {count}: {reason}" for reason, count in sorted(copied.items()))
        of = f" of {merged + copied.total()}" if copied else ""
        summary = f"{step.op}: {len(tensors)}{of} tensors, {where}, in {took}{left}"
        for warning in plan.warnings:
            logging.warning("daremerge: %s", canvas_words(warning))
        logging.info("daremerge: %s", summary)
        return Computed(tensors, plan.result.metadata, summary)


def report(step: Step) -> Report:
    """The report that a step makes."""
    with explained():
        plan = plan_of(step)
        return on_some_device(lambda settings: _reported(plan, settings))


def report_of_merge(step: Step, name: str, options: Mapping[str, Any]) -> Report:
    """The report called ``name`` on the merge that a step is."""
    with explained():
        plan = report_on(plan_of(step), name, options=options)
        return on_some_device(lambda settings: _reported(plan, settings))


def _reported(plan: Plan, settings: Settings) -> Report:
    return make_report(plan, settings=settings, progress=CanvasProgress(), cancel=CanvasCancel())


def _computed(plan: Plan, settings: Settings, *, to_disk: bool) -> Mapping[str, Tensor]:
    if not to_disk:
        return compute_plan(plan, settings=settings, progress=CanvasProgress(), cancel=CanvasCancel())
    import folder_paths

    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"daremerge-{uuid4().hex}.safetensors"
    if plan.unsettled():
        settle(plan, settings, progress=CanvasProgress(), cancel=CanvasCancel())
    execute(plan, create_sink(plan, path), settings, progress=CanvasProgress(), cancel=CanvasCancel())
    model = open_model(path)
    tensors = {key: model.read(key) for key in model.keys()}
    with suppress(OSError):  # mapped already; where the system holds mapped files, ComfyUI empties the folder at exit
        path.unlink()
    return tensors


def _goes_to_disk(keep: Keep, plan: Plan) -> bool:
    if keep != "auto":
        return keep == "disk"
    import psutil

    return bool(plan.bytes_out > psutil.virtual_memory().available // 2)


def on_some_device(work: Callable[[Settings], T]) -> T:
    """The work on the canvas's device; with smaller spans, then on the CPU, where its memory does not do.

    The result is the same on all of them.
    """
    import comfy.model_management as management

    device = management.get_torch_device()
    on_cpu = Settings(memory=_memory())
    if device.type == "cpu":
        return work(on_cpu)
    management.free_memory(Settings().memory, device)
    for memory in (Settings().memory, Settings().memory // 8):
        found = _unless_full(partial(work, Settings(device=str(device), memory=memory)))
        if found is not None:
            return found
        management.soft_empty_cache()
    return work(on_cpu)


def _memory() -> int:
    """Bytes for the work: a method that needs whole tensors may need more than the core's usual budget."""
    import psutil

    return max(Settings().memory, int(psutil.virtual_memory().available) // 4)


def _unless_full(work: Callable[[], T]) -> T | None:
    try:
        return work()
    except DeviceMemoryError as error:
        logging.info("daremerge: %s; trying with less", error.message)
        return None


# --- progress and cancel -------------------------------------------------------------------------------------


class CanvasCancel(threading.Event):
    """Set by the canvas's cancel button. Workers look at it between spans, so within a fraction of a second."""

    def is_set(self) -> bool:
        import comfy.model_management

        return super().is_set() or bool(comfy.model_management.processing_interrupted())


class CanvasProgress:
    """The green bar of the node that runs."""

    EVERY = 0.1
    """Seconds between two messages to the browser."""

    def __init__(self) -> None:
        from comfy_execution.utils import get_executing_context

        context = get_executing_context()  # of this thread; the workers have none
        self._node = context.node_id if context else None
        self._lock = threading.Lock()
        self._bar: Any = None
        self._total = self._done = 0
        self._shown = 0.0

    def start(self, total: int, what: str) -> None:
        import comfy.utils

        self._total, self._done, self._shown = max(total, 1), 0, time.monotonic()
        self._bar = comfy.utils.ProgressBar(self._total, node_id=self._node)

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._shown < self.EVERY:
                return
            self._shown = now
            done = self._done
        self._bar.update_absolute(min(done, self._total))

    def finish(self) -> None:
        if self._bar is not None and self._done >= self._total:
            self._bar.update_absolute(self._total)


# --- errors --------------------------------------------------------------------------------------------------


@contextmanager
def explained() -> Iterator[None]:
    """Errors as the canvas shows them: what is wrong, where, what to do. A cancelled run ends as ComfyUI expects it."""
    import comfy.model_management

    try:
        yield
    except Interrupted:
        comfy.model_management.throw_exception_if_processing_interrupted()
        raise comfy.model_management.InterruptProcessingException() from None
    except DaremergeError as error:
        raise Stopped(canvas_words(str(error))) from None
