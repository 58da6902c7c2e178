"""The engine: reads a plan's result tensor by tensor and streams it into a sink, or gives it to a reporter.

The result is a lazy model, so the engine knows nothing of merging. It cuts the tensors into tasks, runs them on
worker threads within a memory budget, counts what deserves a warning, and sees to it that a run either ends with
a complete output or leaves nothing behind. No choice made here (span size, threads, order) can change a byte.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from blake3 import blake3

from . import loops
from .allocator import freed_memory_kept
from .devices import in_order, resolve_device, span_on
from .dtypes import nbytes
from .errors import Interrupted, PlanError
from .nonfinite import Counted, Nonfinite
from .plan import Plan
from .sizes import format_size
from .stores.identity import IdentityBuilder, Leaf, file_identity
from .stores.journal import Finished, Journal, Piece, layout_digest
from .stores.sink import ResumableSink, Sink
from .stores.stamps import Stamps, changed, stamps
from .stores.tensors import stored_bytes
from .survey import Survey
from .values import Model, Report, Span, TensorMeta, Unsettled
from .views import TensorView, blocks_of, effort, granule, measures, needs_whole, without_torch, working_bytes

if TYPE_CHECKING:
    from .layout import LayoutSpec

__all__ = ["Pool", "Progress", "Quiet", "Settings", "Summary", "execute", "settle", "survey"]

R = TypeVar("R")
S = TypeVar("S")

SPAN = 1 << 18
"""Elements computed at a time: small enough that a span's scratch stays in a core's cache."""
LOOP_SPAN = 1 << 20
"""The same by loops, which cut a span into smaller pieces themselves: so many that the interpreter's share is small."""
TASK = 1 << 23
"""Elements of one tensor that one worker takes in a row."""
HASHED_AT_ONCE = 4 << 20
"""Bytes of the inputs that one job hashes, and up to a leaf more: most tensors of a model are tiny."""
AHEAD = 32
"""How many results of measuring may wait for an earlier one: a histogram is half a megabyte."""


class Progress(Protocol):
    """Told how far a run is. Methods are called from several threads."""

    def start(self, total: int, what: str) -> None: ...

    def advance(self, count: int) -> None: ...

    def finish(self) -> None: ...


class Quiet:
    """A progress that shows nothing."""

    def start(self, total: int, what: str) -> None: ...

    def advance(self, count: int) -> None: ...

    def finish(self) -> None: ...


@dataclass(frozen=True)
class Settings:
    """How to run. None of it can change the result."""

    threads: int = 0
    """Worker threads; 0 for one per core."""
    memory: int = 1 << 30
    """Bytes of anonymous memory the run may use for its work."""
    device: str = "cpu"
    """``cpu``, ``cuda``, ``mps`` …, or ``auto``."""
    sha256: bool = False
    """Whether to take the SHA-256 of what is written: a core is busy with it for half a second a gigabyte."""

    def worker_count(self) -> int:
        if self.threads > 0:
            return self.threads
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1


@dataclass
class Summary:
    """What a finished run did."""

    paths: list[Path]
    sha256: dict[Path, str]
    """SHA-256 of each model file written, in hex, if it was asked for."""
    merged: int
    copied: Counter[str]
    skipped: Counter[str]
    nonfinite: dict[str, int] = field(default_factory=dict)
    """Elements that came out NaN or infinite, by tensor."""
    overflowed: dict[str, int] = field(default_factory=dict)
    """Elements that were finite, and too large for the dtype they are stored in."""
    bytes_out: int = 0
    bytes_kept: int = 0
    """Of these: what an interrupted run had written."""
    seconds: float = 0.0
    identities: dict[str, str] = field(default_factory=dict)
    """Content identity of every input, by name."""


@dataclass(frozen=True)
class _Task:
    """A run of spans of one tensor, done in order by one worker."""

    meta: TensorMeta
    spans: Sequence[Span]
    cost: int
    """Bytes of scratch."""

    @property
    def piece(self) -> Piece:
        return Piece(self.meta.key, self.spans[0].start, self.spans[-1].stop)


def needs_torch(plan: Plan) -> bool:
    """Whether anything of the result is computed by torch; if not, what is written comes from loops and files alone."""
    return not all(without_torch(plan.result, meta.key) for meta in plan.tensors)


def execute(
    plan: Plan,
    sink: Sink,
    settings: Settings = Settings(),
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    expected: Mapping[str, str] | None = None,
    journal: Journal | None = None,
) -> Summary:
    """Compute the plan's result into ``sink`` and commit it.

    Args:
        cancel: set it from any thread to stop within a span.
        expected: content identities the inputs must have; a run that finds another one writes nothing.
        journal: says what of an interrupted run is in the sink, which is then a :class:`.ResumableSink`, and is told
            what else is. Removed at the end.

    Raises:
        Interrupted: cancelled or Ctrl-C; the sink is aborted.
        DaremergeError: anything the user can mend; the sink is aborted.
    """
    started = time.monotonic()
    opened = {one.name: stamps(one.path) for one in plan.inputs}
    shown: Progress = progress or Quiet()
    cancel = cancel or threading.Event()
    threads = settings.worker_count()
    nonfinite = Nonfinite(plan.result, plan.graph.recipe.output.on_nonfinite)
    try:
        with sink, freed_memory_kept():
            pool = Pool(threads, settings.memory, cancel)
            weighed = _Weighed(shown, plan)
            to_measure = _bytes_to_measure(plan)
            weighed.start(plan.bytes_in + to_measure, f"making the {plan.kind}")
            loaded: list[tuple[str, list[_Task]]] = []
            load = partial(_load, plan, settings, threads, loaded)
            inputs = _Identities(plan, weighed)
            # Where nothing waits for the identities, inputs are hashed a little ahead of where they are merged, as far
            # as that goes while what computes is loaded: each is read from the disk once, also when memory cannot hold
            # it.
            waits = bool(expected or journal) or settings.sha256 or to_measure > 0
            pool.run(chain([(0, load)], inputs.jobs(lambda: waits or not loaded)))
            if expected:
                check_identities(plan, inputs.found(), expected)
            if journal:
                journal.begin(plan.provenance(inputs.found()) | {"tensors": layout_digest(plan.tensors)})
            if waits:
                sink.describe(plan.metadata(inputs.found()), sha256=settings.sha256)
            with one_thread_per_op():
                [(device, tasks)] = loaded
                _make_ready(plan, device, pool, weighed)
                if journal:
                    tasks = _unfinished(tasks, journal, sink, pool, weighed, nonfinite)
                work = sum(nbytes(task.meta.dtype, task.piece.numel) for task in tasks)

                def job(task: _Task) -> tuple[int, Callable[[], object]]:
                    return task.cost, partial(_write, plan, sink, task, cancel, weighed, nonfinite, journal)

                pool.run(inputs.among(tasks, job))
            identities = inputs.found()
            if not waits:
                sink.describe(plan.metadata(identities))
            _check_unchanged(opened)
            paths = sink.commit()
            if journal:
                journal.remove()
    except (KeyboardInterrupt, Interrupted):
        if journal and journal.finished:
            what = "stopped; what is finished is kept"
            raise Interrupted(what, hint="To go on, run the same command again, with --resume.") from None
        raise Interrupted("stopped; nothing was written") from None
    finally:
        shown.finish()
    merged, copied, skipped = plan.counts()
    return Summary(
        paths,
        dict(sink.digests),
        merged,
        copied,
        skipped,
        nonfinite=nonfinite.found(),
        overflowed=nonfinite.overflowed(),
        bytes_out=plan.bytes_out,
        bytes_kept=plan.bytes_out - work,
        seconds=time.monotonic() - started,
        identities=identities,
    )


def settle(
    plan: Plan,
    settings: Settings = Settings(),
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> None:
    """Find every header that depends on data, such as ranks chosen by energy, so that a file can be begun.

    Raises:
        Interrupted: cancelled or Ctrl-C.
    """
    progress = progress or Quiet()
    import torch  # noqa: F401  # before one_thread_per_op, which is for it

    pool = Pool(settings.worker_count(), settings.memory, cancel or threading.Event())
    with one_thread_per_op():
        _measure(plan, settings, pool, progress)
        for value in plan.unsettled():
            scratch = value.to_settle()
            with _shown(progress, sum(scratch.values()), "finding the shapes"):
                pool.map(partial(_settle_one, value, scratch, progress), list(scratch), scratch.__getitem__)


def _settle_one(value: Unsettled, scratch: Mapping[str, int], progress: Progress, item: str) -> None:
    import torch

    with torch.inference_mode():
        value.settle(item)
    progress.advance(scratch[item])


def survey(
    plan: Plan,
    settings: Settings = Settings(),
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    layouts: Sequence[LayoutSpec] = (),
) -> Report:
    """The report that a plan is for.

    Args:
        layouts: architectures that plugins know.

    Raises:
        Interrupted: cancelled or Ctrl-C.
        DaremergeError: anything the user can mend.
    """
    progress = progress or Quiet()
    import torch  # noqa: F401  # before one_thread_per_op, which is for it

    pool = Pool(settings.worker_count(), settings.memory, cancel or threading.Event())
    with one_thread_per_op(), freed_memory_kept():
        _measure(plan, settings, pool, progress)
        report: Report = plan.value.report(Survey(pool, progress, layouts))
    return report


def _measure(plan: Plan, settings: Settings, pool: Pool, progress: Progress) -> None:
    """Make the views ready to be read, under a progress of its own."""
    total = _bytes_to_measure(plan)
    with _shown(progress, total, "measuring") if total else nullcontext():
        _make_ready(plan, settings.device, pool, progress)


def _make_ready(plan: Plan, device: str, pool: Pool, progress: Progress) -> None:
    """Views on their device, workers with it, and what is measured over several tensors measured."""
    device = resolve_device(device)
    pool.within = partial(in_order, device)
    for value in plan.lazy():
        if hasattr(value, "device"):
            value.device = device
    for value in plan.lazy():
        if isinstance(value, TensorView):
            value.measurements.prepare(pool.run_in_order, advance=partial(_advance_by, progress, value.anchor))


def _advance_by(progress: Progress, model: Model, key: str) -> None:
    meta = model.meta(key)
    progress.advance(nbytes(meta.dtype, meta.numel))


def _bytes_to_measure(plan: Plan) -> int:
    prepared = [value for value in plan.lazy() if isinstance(value, TensorView)]
    metas = (value.anchor.meta(key) for value in prepared for key in value.measurements.to_prepare())
    return sum(nbytes(meta.dtype, meta.numel) for meta in metas)


@contextmanager
def _shown(progress: Progress, total: int, what: str) -> Iterator[None]:
    progress.start(total, what)
    try:
        yield
    finally:
        progress.finish()


def _load(plan: Plan, settings: Settings, threads: int, loaded: list[tuple[str, list[_Task]]]) -> None:
    """Load what computes the result, and add the device to do it on and the tasks to do.

    A loop on the CPU is as fast as the data come, so a merge of loops alone has no use for another device by itself,
    nor for torch, which takes a second and a half to import.
    """
    wanted, device = settings.device, "cpu"
    if wanted not in ("cpu", "auto") or needs_torch(plan):
        import torch  # noqa: F401

        device = resolve_device(wanted)
    if device == "cpu" and loops.available():
        # The first loop that numba is to load has it look up all it knows: half a second, for which workers would wait.
        loops.count_nonfinite(memoryview(bytearray(2)), "F16")
        for value in plan.lazy():
            if isinstance(value, TensorView):
                value.load_loops()
    loaded.append((device, _tasks(plan, settings, threads, device)))


class _Identities:
    """The content identity of every input, taken leaf by leaf in the order in which the output is made."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._progress = progress
        self._files = {one.name: file_identity(one.path) for one in plan.inputs if one.kind != "model"}
        models = {one.name: one.value for one in plan.inputs if one.kind == "model"}
        self._builders = {name: IdentityBuilder.of(model) for name, model in models.items()}
        place = {meta.key: number for number, meta in enumerate(plan.tensors)}
        leaves = [
            (models[name], builder, leaf) for name, builder in self._builders.items() for leaf in builder.leaves()
        ]
        leaves.sort(key=lambda one: (place.get(one[2].key, len(place)), one[2].index))
        self._left = deque(
            (nbytes(model.meta(leaf.key).dtype, leaf.span.numel), model, builder, leaf)
            for model, builder, leaf in leaves
        )
        self._unhashed = sum(size for size, *_ in self._left)
        """Bytes for which no job has been given out."""

    def jobs(self, more: Callable[[], bool] = lambda: True) -> Iterator[tuple[int, Callable[[], object]]]:
        """The next jobs for a pool, for as long as more are wanted; all that are left by default."""
        while self._left and more():
            size, leaves = 0, []
            while self._left and size < HASHED_AT_ONCE:
                leaves.append(self._left.popleft())
                size += leaves[-1][0]
            self._unhashed -= size
            yield 0, partial(self._hash, size, leaves)

    def _more_than(self, rest: float) -> bool:
        return self._unhashed > rest

    def _hash(self, size: int, leaves: Sequence[tuple[int, Model, IdentityBuilder, Leaf]]) -> None:
        for _, model, builder, leaf in leaves:
            builder.hash_leaf(model, leaf)
        self._progress.advance(size)

    def among(
        self, tasks: Sequence[_Task], job: Callable[[_Task], tuple[int, Callable[[], object]]]
    ) -> Iterator[tuple[int, Callable[[], object]]]:
        """The tasks' jobs, with what is left to hash spread evenly among them."""
        left, work, done = self._unhashed, max(sum(task.piece.numel for task in tasks), 1), 0
        for task in tasks:
            done += task.piece.numel
            yield from self.jobs(partial(self._more_than, left * (1 - done / work)))
            yield job(task)
        yield from self.jobs()

    def found(self) -> dict[str, str]:
        """By name, once all jobs are done."""
        return self._files | {name: builder.identity() for name, builder in self._builders.items()}


def _check_unchanged(opened: Mapping[str, Stamps]) -> None:
    """Refuse what was made of files that were replaced, removed or written to meanwhile."""
    for name, before in opened.items():
        for path in changed(before):
            raise PlanError(
                f"input {name!r}: {path} was changed or removed while it was read; nothing was written.",
                hint="Run it again once the file is complete.",
            )


def check_identities(plan: Plan, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Refuse inputs whose content is not what a recipe was made with."""
    changed = [one for one in plan.inputs if expected.get(one.name, found[one.name]) != found[one.name]]
    if changed:
        lines = "\n".join(
            f"  {one.name} ({one.path}): was {expected[one.name]}, is {found[one.name]}" for one in changed
        )
        raise PlanError(
            f"inputs have changed since this file was merged, so the result would differ:\n{lines}",
            hint="Bring back the original files, or pass --changed-inputs to merge what is there now.",
        )


# --- tasks ---------------------------------------------------------------------------------------------


def _tasks(plan: Plan, settings: Settings, threads: int, device: str) -> list[_Task]:
    """Every output tensor cut into tasks, in the order of the file.

    On a device the memory budget is for what is on its way there and back, and its own memory bounds the spans too.

    Raises:
        PlanError: one tensor alone needs more than the memory budget.
    """
    result = plan.result
    tasks: list[_Task] = []
    for meta in plan.tensors:
        whole = needs_whole(result, meta.key)
        in_row = measures(result, meta.key)
        if whole:
            cost = working_bytes(result, meta.key, meta.numel)
            if cost > settings.memory:
                raise _too_large(meta, "whole", cost, settings)
            tasks.append(_Task(meta, [meta.whole], cost))
            continue
        per_element = max(working_bytes(result, meta.key, 1 << 10) >> 10, 1)
        row = max(granule(result, meta.key), 1)
        if device == "cpu":
            most = LOOP_SPAN if without_torch(result, meta.key) else SPAN
        else:
            most = span_on(device, per_element, threads)
        span = _rounded(min(most, max(settings.memory // (threads * per_element), 1 << 12)), row)
        if row * per_element > settings.memory:
            raise _too_large(meta, "by rows", row * per_element, settings)
        size = meta.numel if in_row else _rounded(TASK, row)
        for part in blocks_of(meta.numel, max(size, 1)):
            spans = [Span(part.start + s.start, part.start + s.stop) for s in blocks_of(part.numel, span)]
            tasks.append(_Task(meta, spans, min(span, part.numel) * per_element))
    return tasks


def _rounded(count: int, row: int) -> int:
    """So many elements in whole rows: at least one row."""
    return max(count // row, 1) * row


def _too_large(meta: TensorMeta, how: str, cost: int, settings: Settings) -> PlanError:
    return PlanError(
        f"tensor {meta.key!r} must be computed {how} and needs about {format_size(cost)}; "
        f"the memory budget is {format_size(settings.memory)}",
        hint=f"Give it room with --memory {-(-cost // (1 << 30))}GiB.",
    )


def _unfinished(
    tasks: Sequence[_Task], journal: Journal, sink: Sink, pool: Pool, progress: _Weighed, nonfinite: Nonfinite
) -> list[_Task]:
    """The tasks that are left to do: what an interrupted run wrote is kept where it stands as that run wrote it."""
    assert isinstance(sink, ResumableSink)
    kept: set[Piece] = set()

    def check(task: _Task) -> None:
        piece, found, digest = task.piece, journal.finished[task.piece], blake3()
        for block in sink.read_back(piece.key, piece.start, piece.numel):
            digest.update(block)
        if digest.hexdigest() == found.blake3:
            sink.keep(piece.key, piece.start, piece.numel)
            nonfinite.add(piece.key, Counted(found.nonfinite, found.overflowed))
            progress.advance_work(task.meta, piece.numel)
            kept.add(piece)

    pool.run((0, partial(check, task)) for task in tasks if task.piece in journal.finished)
    return [task for task in tasks if task.piece not in kept]


def _write(
    plan: Plan,
    sink: Sink,
    task: _Task,
    cancel: threading.Event,
    progress: _Weighed,
    nonfinite: Nonfinite,
    journal: Journal | None,
) -> None:
    """Compute and write one task."""
    counted = Counted()
    digest = blake3() if journal else None
    with _inference():
        for span in task.spans:
            if cancel.is_set():
                return
            data = nonfinite.check(task.meta, span, stored_bytes(plan.result, task.meta.key, span), counted)
            sink.write_raw(task.meta.key, span.start, data)
            if digest:
                digest.update(data)
            progress.advance_work(task.meta, span.numel)
    nonfinite.add(task.meta.key, counted)
    if journal and digest:
        journal.add(task.piece, Finished(digest.hexdigest(), counted.nonfinite, counted.overflowed))


def _inference() -> AbstractContextManager[object]:
    """torch's inference mode, where torch is there at all."""
    torch = sys.modules.get("torch")
    return torch.inference_mode() if torch is not None else nullcontext()


class _Weighed:
    """A progress in which elements count as much as they take, and that still ends at the bytes of the model.

    So the time left is honest where a decomposition takes a thousand times as long as copying.
    """

    def __init__(self, progress: Progress, plan: Plan) -> None:
        self._progress = progress
        self._plan = plan
        self._factor = 1.0
        self._done = 0.0
        self._lock = threading.Lock()

    def start(self, total: int, what: str) -> None:
        """``total``: bytes that are read before the first is written."""
        work = total + sum(self._work(meta, meta.numel) for meta in self._plan.tensors)
        shown = total + self._plan.bytes_out * (16 if self._plan.kind == "mask" else 1)
        self._factor = shown / work if work else 1.0
        self._progress.start(shown, what)

    def advance(self, count: float) -> None:
        with self._lock:
            before = int(self._done)
            self._done += count * self._factor
            whole = int(self._done) - before
        if whole:
            self._progress.advance(whole)

    def advance_work(self, meta: TensorMeta, numel: int) -> None:
        """Some elements of a tensor are written."""
        self.advance(self._work(meta, numel))

    def finish(self) -> None:
        self._progress.finish()

    def _work(self, meta: TensorMeta, numel: int) -> float:
        """A byte of a mask is 8 elements: as much work as 16 bytes of a model in fp16."""
        if self._plan.kind == "mask":
            return 16.0 * nbytes(meta.dtype, numel)
        return nbytes(meta.dtype, numel) * effort(self._plan.result, meta.key)


@contextmanager
def one_thread_per_op() -> Iterator[None]:
    """Keep torch from splitting single operations: the engine's own threads do that, and results stay the same.

    Where torch has not been needed it is not loaded for this.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- threads ---------------------------------------------------------------------------------------------


def _learn_thread_count() -> None:
    """Have a new thread take on :func:`one_thread_per_op`.

    Until torch has split an operation of its own, or is asked, its linear algebra uses all cores there, and how many of
    them are free shows in the last bits of a result.
    """
    # Where only bytes are read torch is not loaded, or a worker beside this one is loading it.
    ask = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if ask is not None:
        ask()


class Pool:
    """Worker threads that share a memory budget and stop at the first failure."""

    def __init__(self, threads: int, memory: int, cancel: threading.Event) -> None:
        self._threads = threads
        self._memory = memory
        self._cancel = cancel
        self.within: Callable[[], AbstractContextManager[object]] = nullcontext
        """What each worker does its jobs in."""

    def run(self, jobs: Iterable[tuple[int, Callable[[], object]]]) -> None:
        """Run (cost in bytes, job) pairs, started in order; raises the first failure."""
        queue = iter(jobs)
        ready = threading.Condition()
        state = {"used": 0, "running": 0}
        failures: list[BaseException] = []

        def worker() -> None:
            try:
                _learn_thread_count()
                with self.within():
                    work()
            except BaseException as error:
                failures.append(error)
                self._cancel.set()

        def work() -> None:
            while not self._cancel.is_set():
                with ready:
                    item = next(queue, None)
                    if item is None:
                        return
                    cost, job = item
                    # A job larger than what is left waits; alone, it always runs.
                    while state["running"] and state["used"] + cost > self._memory:
                        ready.wait(0.2)
                        if self._cancel.is_set():
                            return
                    state["used"] += cost
                    state["running"] += 1
                try:
                    job()
                except BaseException as error:
                    failures.append(error)
                    self._cancel.set()
                finally:
                    with ready:
                        state["used"] -= cost
                        state["running"] -= 1
                        ready.notify_all()

        workers = [threading.Thread(target=worker, name=f"daremerge-{i}", daemon=True) for i in range(self._threads)]
        try:
            for thread in workers:
                thread.start()
            for thread in workers:
                while thread.is_alive():  # joins in slices, so that Ctrl-C is seen at once
                    thread.join(0.1)
        except KeyboardInterrupt:
            self._cancel.set()
            for thread in workers:
                if thread.ident is not None:  # Ctrl-C may come before all have started
                    thread.join()
            raise
        if failures:
            raise failures[0]
        if self._cancel.is_set():
            raise Interrupted("stopped; nothing was written")

    def map(self, function: Callable[[S], R], items: Sequence[S], cost: Callable[[S], int]) -> list[R]:
        """The function of each item, in their order.

        Args:
            cost: bytes of scratch that an item takes.
        """
        results: dict[int, R] = {}

        def job(index: int) -> None:
            results[index] = function(items[index])

        self.run((cost(item), partial(job, index)) for index, item in enumerate(items))
        return [results[index] for index in range(len(items))]

    def run_in_order(self, function: Callable[[S], R], items: Sequence[S], receive: Callable[[S, R], None]) -> None:
        """``receive(item, function(item))`` for each item in order; the functions run on the workers.

        Results that wait for an earlier one are held, so no worker runs more than :data:`AHEAD` items ahead.
        """
        waiting: dict[int, R] = {}
        moved = threading.Condition()
        next_up = 0

        def job(index: int) -> None:
            nonlocal next_up
            with moved:
                # The item that is next up has been started by another worker, so this ends.
                while index > next_up + AHEAD:
                    if self._cancel.is_set():
                        return
                    moved.wait(0.2)
            result = function(items[index])
            with moved:
                waiting[index] = result
                while next_up in waiting:
                    receive(items[next_up], waiting.pop(next_up))
                    next_up += 1
                moved.notify_all()

        self.run([(0, partial(job, index)) for index in range(len(items))])
