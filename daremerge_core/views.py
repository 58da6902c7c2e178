"""Views: a component over live values is itself a value, computed when read.

:func:`view` turns ``Lerp(a=model, b=other)`` into a :class:`~daremerge_core.values.Model`, a masker into a
``Mask``, a gradient family into a ``Gradient``. Building one looks at headers only and finds every mistake that
headers can show; reading computes one tensor, or one span of it.

A view's tensors have the storage dtype of its anchor model, so a chain of views gives the same bytes as the same
steps with a file in between.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard, TypeVar

from . import loops
from .catalog import distribution_of
from .components import (
    Component,
    GradientFamily,
    LoraTool,
    TensorComponent,
    _Gradient,
    _Masker,
    _Selective,
    ports,
)
from .decisions import Action, Decision, Other, decide, detect_layout
from .devices import to_cpu, to_device
from .dtypes import FLOATS, nbytes, torch_dtype
from .errors import ComponentError, DaremergeError, DeviceMemoryError, PlanError, SelectorError
from .layout import Layout, LayoutSpec, Place, detect
from .measuring import Kept, Measurements, add_up
from .reach import Reach
from .site import Site, TensorSite
from .stores.mask_file import BitMask, PackedMask, selected
from .stores.tensors import gives_bytes, raw_bytes, stored_bytes
from .tally import Tally
from .task_sum import TaskSum
from .values import Gradient, Mask, Model, Span, TensorMeta

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = [
    "CastView",
    "GradientView",
    "MaskView",
    "ModelView",
    "blocks_of",
    "effort",
    "granule",
    "measures",
    "needs_whole",
    "share",
    "view",
    "without_torch",
    "working_bytes",
]

R = TypeVar("R")

TALLY_BLOCK = 1 << 20
"""Elements that a tally reads at a time; integers add up to the same in any order."""
MEASURE_BLOCK = 1 << 18
"""Elements per block of a measuring pass. Part of the result's definition: sums are taken block by block."""


def blocks_of(numel: int, size: int) -> Iterator[Span]:
    """Consecutive spans of at most ``size`` elements; one empty span for an empty tensor."""
    if numel == 0:
        yield Span(0, 0)
    for start in range(0, numel, size):
        yield Span(start, min(start + size, numel))


def _remembered(answer: Callable[..., R]) -> Callable[..., R]:
    """A method about a tensor's reading that asks the views below the same, asked once: views may share one below."""

    @wraps(answer)
    def ask(self: Any, *args: Any) -> R:
        known: dict[Any, R] = self._answers
        place = (answer.__qualname__, self.device, *args)
        if place not in known:
            known[place] = answer(self, *args)
        return known[place]

    return ask


def view(
    component: Component, *, label: str = "", dtype: str | None = None, layouts: Sequence[LayoutSpec] = ()
) -> Model | Mask | Gradient:
    """A value computed by ``component``, whose ports hold live values.

    Args:
        label: the step's name, for error messages.
        dtype: storage dtype of the result's float tensors (a safetensors name); the anchor's own by default.
        layouts: architectures that plugins know.

    Raises:
        PlanError: the inputs do not fit together.
        SelectorError: a layer selector matches nothing.
    """
    try:
        if isinstance(component, _Selective):
            return ModelView(component, label=label, dtype=dtype, layouts=layouts)
        if isinstance(component, _Masker):
            return MaskView(component, label=label, layouts=layouts)
        if isinstance(component, _Gradient):
            return GradientView(component, label=label, layouts=layouts)
        if isinstance(component, LoraTool):
            return _lora(component, label or component.name)
    except SelectorError as error:
        raise SelectorError(f"step {(label or component.name)!r}: {error.message}", hint=error.hint) from None
    raise TypeError(f"{component.kind}.{component.name} is not a step: it is used inside one")


def _lora(component: LoraTool, label: str) -> Model:
    try:
        return component.lora()
    except ValueError as error:
        raise PlanError(f"step {label!r}: {error}") from None


def share(views: Iterable[Any]) -> None:
    """Tell the views that are read several times over, so that they do not compute as often: below one such view
    there may be another, and each would double the work."""
    read = Counter(id(_source(value)) for one in views if isinstance(one, TensorView) for value in one.reads())
    for one in views:
        if isinstance(one, TensorView):
            one.shared = read[id(one)] > 1


class TensorView:
    """What views that compute tensors share: sites, measuring passes, the contract with the component."""

    def __init__(self, component: TensorComponent, label: str, layouts: Sequence[LayoutSpec]) -> None:
        self.component = component
        self._verb: Callable[[Site], Tensor] = component.compute
        self.label = label or component.name
        self.device: str = "cpu"
        self._models: dict[str, Model | list[Model] | None] = {
            name: getattr(component, name)
            for name, port in ports(type(component)).items()
            if port.kind == "model" and not port.aside
        }
        self._masks: dict[str, Mask | list[Mask] | None] = {
            name: getattr(component, name) for name, port in ports(type(component)).items() if port.kind == "mask"
        }
        self._children = tuple(self._on_ports())
        self.anchor: Model = self._anchor()
        self.others = [
            Other(name, one, frozenset(one.keys()))
            for name, model in self._models.items()
            for one in (model if isinstance(model, list) else [model])
            if one is not None and one is not self.anchor
        ]
        self.layout = detect_layout(self.anchor, layouts)
        self._whole = component.needs_whole_tensors()
        self._rows = not self._whole and component.needs_whole_rows()
        self._passes = component.passes()
        self.measurements = Measurements(
            self._passes, self.active_keys, self._group, self._share_of_measurement, self._conclude
        )
        self._loops: dict[str, _BoundLoop | None] = {}
        self._own = threading.local()
        self._answers: dict[Any, Any] = {}
        self.shared = False
        """Whether this view is read several times over. Then what a thread read last is kept for the next to ask."""

    def _anchor(self) -> Model:
        """The model whose keys, dtypes and metadata the result has."""
        found = self._models[self.component.anchor_field()]
        anchor = found[0] if isinstance(found, list) else found
        assert anchor is not None
        return anchor

    # --- the graph below this view ---

    def reads(self) -> Iterator[Any]:
        """The values that it reads tensor by tensor, one that it reads twice told twice."""
        yield from self.children()

    def children(self) -> Sequence[Any]:
        """The values on every port that is read tensor by tensor."""
        return self._children

    def _on_ports(self) -> Iterator[Any]:
        for name, port in ports(type(self.component)).items():
            value = getattr(self.component, name)
            if value is not None and not port.aside:
                yield from value if isinstance(value, list) else [value]

    @_remembered
    def needs_whole(self, key: str) -> bool:
        """Whether reading ``key`` by spans would make this view, or one below it, repeat whole-tensor work."""
        return self._whole or any(needs_whole(child, key) for child in self.children())

    @_remembered
    def granule(self, key: str) -> int:
        """Elements of ``key`` in a row, where this view, or one below it, sees whole rows; else 1."""
        own = self._row_length(key) if self._rows else 1
        return max([own, *(granule(child, key) for child in self.children())])

    def _row_length(self, key: str) -> int:
        meta = self.anchor.meta(key)
        return meta.numel // meta.shape[0] if len(meta.shape) > 1 and meta.numel else meta.numel

    def _extent(self, key: str, span: Span) -> tuple[Span, tuple[int, ...]]:
        """What the verb is given to answer for a span: the elements, and the shape of the tensors that hold them."""
        meta = self.anchor.meta(key)
        if self._whole or (self._rows and (len(meta.shape) < 2 or not meta.numel)):
            return meta.whole, meta.shape
        if not self._rows:
            return span, (span.numel,)
        row = self._row_length(key)
        first = min(span.start // row, meta.shape[0] - 1)
        last = max(-(-span.stop // row), first + 1)
        return Span(first * row, last * row), (last - first, *meta.shape[1:])

    @_remembered
    def measures(self, key: str) -> bool:
        """Whether reading ``key`` starts with a pass over the whole tensor."""
        return self._passes > 0 or any(measures(child, key) for child in self.children())

    # --- computing ---

    def _site(
        self,
        key: str,
        span: Span,
        size: tuple[int, ...],
        *,
        ratio: float,
        device: str,
        measured: tuple[Tensor, ...],
    ) -> Site:
        import torch

        meta = self.anchor.meta(key)
        wide = meta.dtype == "F64" or any(other.model.meta(key).dtype == "F64" for other in self.others)
        dtype = torch.float64 if wide else torch.float32
        where = torch.device(device)

        where_read = None if span == meta.whole else span

        def of_model(model: Model) -> Callable[[], Tensor]:
            return lambda: _read_rows(model, self.anchor, key, where_read, where, dtype).reshape(size)

        def of_mask(mask: Mask) -> Callable[[], Tensor]:
            return lambda: _read_mask(mask, key, meta, where_read, where).reshape(size)

        inputs: dict[str, Any] = {name: _each(value, of_model) for name, value in self._models.items()}
        if not isinstance(self.component, _Selective):  # there the mask says where, and is not an input of the verb
            inputs |= {name: _each(value, of_mask) for name, value in self._masks.items()}
        return Site(
            place=self.layout.place(key),
            shape=meta.shape,
            span=span,
            size=size,
            dtype=dtype,
            device=where,
            inputs=inputs,
            ratio=ratio,
            measured=measured,
        )

    def _compute(self, key: str, span: Span, ratio: float) -> Tensor:
        """The component's verb for one span, 1-D, checked."""
        measured = tuple(kept.tensor() for kept in self.measurements.of(key))
        wanted, size = self._extent(key, span)
        site = self._site(key, wanted, size, ratio=ratio, device=self.device, measured=measured)
        with self._blame(key):
            result = self._verb(site)
        if not hasattr(result, "shape"):
            raise self._defect(f"{self._who()} answered {type(result).__name__} for {key!r}, where a tensor was wanted")
        if tuple(result.shape) != tuple(size):
            raise self._defect(
                f"{self._who()} answered shape {tuple(result.shape)} for {key!r}, where {tuple(size)} was wanted"
            )
        flat = result.reshape(-1)
        return flat if span == wanted else flat[span.start - wanted.start : span.stop - wanted.start]

    # --- computing by a loop ---

    def _loop(self, key: str) -> _BoundLoop | None:
        """The component's loop for a tensor, with what it reads, if it has one and it can run here."""
        if self.device != "cpu":
            return None
        if key not in self._loops:
            loop = None
            if self._suits_loops(key):
                with self._blame(key):
                    loop = self.component.loop(self._tensor_site(key, self.measurements.of(key)))
            self._loops[key] = None if loop is None else _BoundLoop(loop, self._sources(key))
        return self._loops[key]

    def _will_loop(self, key: str) -> bool:
        """Whether there will be a loop, and for what it needs measured too; nothing is measured to find out."""
        if self.device != "cpu" or not self._suits_loops(key):
            return False
        site = self._tensor_site(key, ())
        with self._blame(key):
            return self.component.loop(site) is not None and (
                not self._passes or self.component.tally(site) is not None
            )

    def load_loops(self) -> None:
        """Have numba load, or the first time compile, the loops that most of this is computed by, while others work."""
        key = next((key for key in self.active_keys() if self._suits_loops(key)), None)
        if key is None:
            return
        with self._blame(key):
            loop, tally = (answer(self._tensor_site(key, ())) for answer in (self.component.loop, self.component.tally))
            for one in (loop, tally):
                if isinstance(one, (TaskSum, Tally, Reach)):
                    one.load()

    def _suits_loops(self, key: str) -> bool:
        if self._whole or self._rows or not loops.available():
            return False
        metas = [self.anchor.meta(key), *(other.model.meta(key) for other in self.others)]
        return all(meta.dtype in loops.DTYPES and meta.shape == metas[0].shape for meta in metas)

    def _tensor_site(self, key: str, measured: tuple[Kept, ...]) -> TensorSite:
        return TensorSite(
            place=self.layout.place(key),
            shape=self.anchor.meta(key).shape,
            ratio=self._ratio(key),
            measured=tuple(kept.array() for kept in measured),
        )

    def _pool(self) -> list[Any]:
        """Arrays of this thread, for loops to use again."""
        pool: list[Any] = self._own.__dict__.setdefault("pool", [])
        return pool

    def _compute_by_loop(self, loop: _BoundLoop, key: str, span: Span, dtype: str) -> NDArray[Any]:
        with self._blame(key):
            return loops.compute(loop.loop, loop.sources, span, dtype, self._pool())

    def _sources(self, key: str) -> loops.Sources:
        """The stored bytes behind every model port."""

        def of(model: Model) -> loops.Source:
            dtype = model.meta(key).dtype
            if gives_bytes(model):
                return lambda span: (model.raw(key, span), dtype)
            return lambda span: (stored_bytes(model, key, span), dtype)

        return {name: _each(value, of) for name, value in self._models.items()}

    def _once(self, what: str, key: str, span: Span, compute: Callable[[], R]) -> R:
        """What is computed, or was last if that is the same. Nobody writes into what is read."""
        if not self.shared:
            return compute()
        kept: dict[str, Any] = self._own.__dict__.setdefault("kept", {})
        if kept.get(what, (None,))[0] != (key, span):
            kept.pop(what, None)  # before there is another
            kept[what] = (key, span), compute()
        result: R = kept[what][1]
        return result

    def _who(self) -> str:
        return f"{self.component.kind}.{self.component.name} (step {self.label!r})"

    @contextmanager
    def _blame(self, key: str) -> Iterator[None]:
        """Name the component and tensor when a plugin's code fails."""
        try:
            yield
        except (DaremergeError, KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            if _is_out_of_memory(error):
                raise DeviceMemoryError(
                    f"step {self.label!r}: {self.device} ran out of memory at tensor {key!r}",
                    hint="Give the run less to hold at a time with --memory, or compute on the CPU with --device cpu.",
                ) from None
            raise self._defect(f"{self._who()} failed on tensor {key!r}: {type(error).__name__}: {error}") from error

    def _defect(self, what: str) -> ComponentError:
        """The error that says whose defect it is."""
        home = distribution_of(type(self.component))
        return ComponentError(what, hint=f"This is a defect of {home}: report it to its author.")

    # --- measuring passes ---

    def active_keys(self) -> Iterable[str]:
        """The tensors the component computes."""
        raise NotImplementedError

    def _ratio(self, key: str) -> float:
        return 0.0

    def _group(self, key: str) -> str:
        return self.component.group(self.layout.place(key))

    def _share_of_measurement(self, key: str, done: tuple[Kept, ...]) -> Any:
        """What a tensor adds to the pass that comes after those that are done."""
        numel = self.anchor.meta(key).numel
        with self._blame(key):
            tally = self.component.tally(self._tensor_site(key, done)) if self._suits_loops(key) else None
        if tally is not None:
            return add_up(tally.count(self._sources(key), span) for span in blocks_of(numel, TALLY_BLOCK))
        row = self._row_length(key) if self._rows else 1
        block = numel if self._whole else max(MEASURE_BLOCK // max(row, 1), 1) * row
        measured = tuple(kept.tensor() for kept in done)

        def shares() -> Iterator[Tensor]:
            for span in blocks_of(numel, block or 1):
                wanted, size = self._extent(key, span)
                site = self._site(key, wanted, size, ratio=self._ratio(key), device="cpu", measured=measured)
                with self._blame(key):
                    yield self.component.measure(site)

        return add_up(shares()).numpy()

    def _conclude(self, key: str, total: Any, done: tuple[Kept, ...]) -> Any:
        with self._blame(key):
            return self.component.conclude(self.layout.place(key), total, tuple(kept.array() for kept in done))

    @_remembered
    def _computes_without_torch(self, key: str) -> bool:
        masks = [mask for _, mask in _each_by_port(self._masks)]
        models = [self.anchor, *(other.model for other in self.others)]
        return all(without_torch(one, key) for one in (*masks, *models)) and self._will_loop(key)

    def working_bytes(self, key: str, numel: int) -> int:
        """Rough bytes of scratch that computing ``numel`` elements of ``key`` takes, and of what is kept below."""
        kept = sum(4 * numel for one in self._below() if one.shared and _knows(one, key))
        return kept + self._scratch(key, numel)

    @_remembered
    def _below(self) -> frozenset[TensorView]:
        views = [child for child in map(_source, self.children()) if isinstance(child, TensorView)]
        return frozenset(views).union(*(one._below() for one in views))

    @_remembered
    def _scratch(self, key: str, numel: int) -> int:
        def of(child: Any) -> int:
            known = isinstance(child, TensorView) and _knows(child, key)
            return child._scratch(key, numel) if known else working_bytes(child, key, numel)

        models = 1 + len(self.others)
        own = self.component.working_bytes(self.anchor.meta(key).shape, numel, models)
        return own + max(map(of, self.children()), default=0)

    @_remembered
    def effort(self, key: str) -> float:
        """How many times as long an element of ``key`` takes as in a plain merge, with what it is read from."""
        own = self.component.effort(self.anchor.meta(key).shape)
        return max([own, *(effort(child, key) for child in self.children())])

    def close(self) -> None:
        """Views own no file; the models below them are closed by whoever opened them."""


class ModelView(TensorView):
    """A merge or an edit as a :class:`~daremerge_core.values.Model`."""

    component: _Selective

    def __init__(
        self, component: _Selective, *, label: str = "", dtype: str | None = None, layouts: Sequence[LayoutSpec] = ()
    ) -> None:
        super().__init__(component, label, layouts)
        self._dtype = dtype
        self._layouts = layouts
        self.decisions = decide(component, self.anchor, self.others, self.layout, label=self.label, layouts=layouts)
        self._keys = [key for key, decision in self.decisions.items() if decision.action is not Action.SKIP]
        self._metas = {key: self._own_meta(key) for key in self.decisions}

    def with_dtype(self, dtype: str) -> ModelView:
        """The same view, its float tensors stored as ``dtype`` and rounded once."""
        return ModelView(self.component, label=self.label, dtype=dtype, layouts=self._layouts)

    def unrounded(self) -> ModelView:
        """The same view, its float tensors in float32 as they were computed."""
        wide = copy(self)
        wide._dtype, wide._own, wide._answers, wide.shared = "F32", threading.local(), {}, False
        wide._metas = {key: wide._own_meta(key) for key in self._metas}
        return wide

    def changed(self) -> ModelView:
        """The same view, holding only the tensors that the component computes."""
        only = copy(self)
        only._keys = [key for key in self._keys if self.decisions[key].action is Action.MERGE]
        return only

    def reads(self) -> Iterator[Any]:
        yield from super().reads()
        if self.component.mask is not None or any(self._lacks_rows(other) for other in self.others):
            yield self.anchor  # again, for what is left as it is there

    def _lacks_rows(self, other: Other) -> bool:
        shared = (key for key in self.active_keys() if key in other.keys)
        return any(other.model.meta(key).shape != self.anchor.meta(key).shape for key in shared)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.anchor.metadata

    def keys(self) -> Sequence[str]:
        return self._keys

    def meta(self, key: str) -> TensorMeta:
        return self._metas[key]

    def _own_meta(self, key: str) -> TensorMeta:
        meta = self.anchor.meta(key)
        return meta if self._dtype is None else _with_dtype(meta, self._dtype)

    def only_elsewhere(self) -> dict[str, int]:
        """How many tensors each other model has that the result lacks, by port."""
        mine = set(self.anchor.keys())
        counts = {other.port: len(other.keys - mine) for other in self.others}
        return {port: count for port, count in counts.items() if count}

    def active_keys(self) -> Iterable[str]:
        return (key for key, decision in self.decisions.items() if decision.action is Action.MERGE)

    def _ratio(self, key: str) -> float:
        return self.decisions[key].ratio

    def needs_whole(self, key: str) -> bool:
        if self.decisions[key].action is Action.COPY:
            return needs_whole(self.anchor, key)
        return super().needs_whole(key)

    def granule(self, key: str) -> int:
        if self.decisions[key].action is Action.COPY:
            return granule(self.anchor, key)
        return super().granule(key)

    def measures(self, key: str) -> bool:
        if self.decisions[key].action is Action.COPY:
            return measures(self.anchor, key)
        return super().measures(key)

    def effort(self, key: str) -> float:
        if self.decisions[key].action is Action.COPY:
            return effort(self.anchor, key)
        return super().effort(key)

    def without_torch(self, key: str) -> bool:
        """Whether :meth:`raw` answers for a tensor without torch, which takes long to import."""
        if self._decision(key).action is Action.COPY:
            return self.meta(key).dtype == self.anchor.meta(key).dtype and without_torch(self.anchor, key)
        return self.meta(key).dtype in loops.DTYPES and self._computes_without_torch(key)

    def raw(self, key: str, span: Span) -> memoryview:
        """The bytes of a span's elements as they are stored."""
        meta = self.anchor.meta(key)
        decision = self._decision(key)
        if decision.action is Action.COPY and self.meta(key).dtype == meta.dtype:
            return stored_bytes(self.anchor, key, span)
        loop = self._merging_loop(key) if decision.action is Action.MERGE else None
        if loop is None:
            return raw_bytes(self.read(key, span).contiguous())
        return self._once("bytes", key, span, lambda: self._run(loop, key, span).data.cast("B"))

    def _merging_loop(self, key: str) -> _BoundLoop | None:
        return self._loop(key) if self.meta(key).dtype in loops.DTYPES else None

    def _run(self, loop: _BoundLoop, key: str, span: Span) -> NDArray[Any]:
        """The merged elements, as :func:`loops.as_elements` has them."""
        mask, dtype = self.component.mask, self.meta(key).dtype
        chosen = None if mask is None else selected(mask, key, span)
        if chosen is None or chosen.all():
            return self._compute_by_loop(loop, key, span, dtype)
        stored = stored_bytes(self.anchor, key, span), self.anchor.meta(key).dtype
        kept = loops.converted(*stored, dtype)
        if not chosen.any():
            return kept
        merged = self._compute_by_loop(loop, key, span, dtype)
        loops.keep_where(merged, chosen, kept)
        return merged

    def _decision(self, key: str) -> Decision:
        decision = self.decisions[key]
        if decision.action is Action.SKIP:
            raise KeyError(key)
        return decision

    def read(self, key: str, span: Span | None = None) -> Tensor:
        result = self.read_on_device(key, span)
        return to_cpu(result)

    def read_on_device(self, key: str, span: Span | None) -> Tensor:
        """As :meth:`read`, the result left on the device that computed it."""
        import torch

        from .kernels import cast

        decision = self._decision(key)
        dtype = torch_dtype(self.meta(key).dtype)
        where = torch.device(self.device)
        if decision.action is Action.COPY:
            return cast(_read_on(self.anchor, key, span, where), dtype)
        meta = self.anchor.meta(key)
        wanted = span or meta.whole
        result = self._once("tensor", key, wanted, lambda: self._computed(key, wanted, decision.ratio, dtype, where))
        return result if span is not None else result.reshape(meta.shape)

    def _computed(self, key: str, wanted: Span, ratio: float, dtype: torch.dtype, where: torch.device) -> Tensor:
        import torch

        from .kernels import cast

        if (loop := self._merging_loop(key)) is not None:
            return torch.from_numpy(self._run(loop, key, wanted)).view(dtype)
        mask = self.component.mask
        if mask is None:
            return cast(self._merged(key, wanted, ratio), dtype)
        chosen = _read_mask(mask, key, self.anchor.meta(key), wanted, where)
        result = cast(_read_on(self.anchor, key, wanted, where), dtype)
        if chosen.any():
            result = torch.where(chosen, cast(self._merged(key, wanted, ratio), dtype), result)
        return result

    def _merged(self, key: str, span: Span, ratio: float) -> Tensor:
        result = self._compute(key, span, ratio)
        if not result.is_floating_point():
            raise self._defect(f"{self._who()} answered {result.dtype} for {key!r}, where floats were wanted")
        return result


class CastView:
    """A model with its float tensors stored in another dtype."""

    def __init__(self, model: Model, dtype: str) -> None:
        self.model = model
        self._dtype = dtype

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.model.metadata

    def keys(self) -> Sequence[str]:
        return self.model.keys()

    def meta(self, key: str) -> TensorMeta:
        return _with_dtype(self.model.meta(key), self._dtype)

    def raw(self, key: str, span: Span) -> memoryview:
        """The bytes of a span's elements as they are stored."""
        stored, wanted = self.model.meta(key).dtype, self.meta(key).dtype
        if stored == wanted:
            return stored_bytes(self.model, key, span)
        if loops.available() and {stored, wanted} <= loops.DTYPES:
            return loops.converted(stored_bytes(self.model, key, span), stored, wanted).data.cast("B")
        return raw_bytes(self.read(key, span).contiguous())

    def without_torch(self, key: str) -> bool:
        """Whether :meth:`raw` answers for a tensor without torch."""
        stored, wanted = self.model.meta(key).dtype, self.meta(key).dtype
        converts = loops.available() and {stored, wanted} <= loops.DTYPES
        return (stored == wanted or converts) and without_torch(self.model, key)

    def read(self, key: str, span: Span | None = None) -> Tensor:
        from .kernels import cast

        return cast(self.model.read(key, span), torch_dtype(self.meta(key).dtype))

    def close(self) -> None:
        """The model below is closed by whoever opened it."""


class MaskView(TensorView):
    """A masker as a :class:`~daremerge_core.values.Mask`; it knows the tensors that all its models share."""

    component: _Masker

    def __init__(self, component: _Masker, *, label: str = "", layouts: Sequence[LayoutSpec] = ()) -> None:
        super().__init__(component, label, layouts)
        self._shapes: dict[str, tuple[int, ...]] = {}
        masks = dict(_each_by_port(self._masks))
        of_masks = isinstance(self.anchor, _MaskedTensors)
        for key in self.anchor.keys():
            meta = self.anchor.meta(key)
            if not (of_masks or meta.dtype in FLOATS) or not all(key in other.keys for other in self.others):
                continue
            theirs = {other.port: other.model.meta(key).shape for other in self.others}
            theirs |= {name: shape for name, mask in masks.items() if (shape := mask.shape(key)) is not None}
            for port, shape in theirs.items():
                if tuple(shape) != meta.shape:
                    raise PlanError(
                        f"step {self.label!r}: tensor {key!r} is {list(meta.shape)} here and {list(shape)} in {port}",
                        hint="A mask compares models, and masks, of one architecture.",
                    )
            self._shapes[key] = meta.shape
        if not self._shapes:
            raise PlanError(
                f"step {self.label!r}: there is no tensor to make this mask.{component.name} for",
                hint="Its models must share float tensors of the same names; check that they are of one architecture.",
            )
        try:
            self._verb = component.for_keys(list(self._shapes))
        except ValueError as error:
            raise PlanError(f"step {self.label!r}: {error}") from None

    def _anchor(self) -> Model:
        if self._models.get("model") is not None:
            return super()._anchor()
        return _MaskedTensors([mask for _, mask in _each_by_port(self._masks)])

    def keys(self) -> Sequence[str]:
        return list(self._shapes)

    def active_keys(self) -> Iterable[str]:
        return self._shapes

    def shape(self, key: str) -> tuple[int, ...] | None:
        return self._shapes.get(key)

    def read(self, key: str, span: Span | None = None) -> Tensor:
        shape = self._shapes[key]
        wanted = span or self.anchor.meta(key).whole
        chosen = self._once("tensor", key, wanted, lambda: self._computed(key, wanted))
        return chosen if span is not None else chosen.reshape(shape)

    def _computed(self, key: str, span: Span) -> Tensor:
        import torch

        if self._loop(key) is not None:
            return torch.from_numpy(self.selected(key, span))
        result = self._compute(key, span, 0.0)
        if result.dtype != torch.bool:
            raise self._defect(f"{self._who()} answered {result.dtype} for {key!r}, where a bool tensor was wanted")
        return to_cpu(result)

    def selected(self, key: str, span: Span) -> NDArray[np.bool_]:
        """As :meth:`read`, as an array."""
        loop = self._loop(key)
        if loop is None:
            return self.read(key, span).numpy()
        return self._once("chosen", key, span, lambda: self._selected(loop, key, span))

    def _selected(self, loop: _BoundLoop, key: str, span: Span) -> NDArray[np.bool_]:
        import numpy as np

        if isinstance(loop.loop, Reach):
            with self._blame(key):
                return loop.loop.chosen(loop.sources, span)
        assert callable(loop.loop), "a mask is not a sum of task vectors"
        out = np.empty(span.numel, np.bool_)
        with self._blame(key):
            for place, chosen in loops.run(loop.loop, loop.sources, span, self._pool()):
                out[place] = chosen
        return out

    def without_torch(self, key: str) -> bool:
        """Whether :meth:`selected` answers for a tensor without torch."""
        return self.shape(key) is None or self._computes_without_torch(key)


class GradientView:
    """A gradient family, or an editor of gradients, as a :class:`~daremerge_core.values.Gradient`."""

    def __init__(self, component: _Gradient, *, label: str = "", layouts: Sequence[LayoutSpec] = ()) -> None:
        self.component = component
        self.label = label or component.name
        self.layout = self._find_layout(layouts)
        try:
            ratio_at = component.for_layout(self.layout)
        except ValueError as error:
            raise PlanError(f"step {self.label!r}: {error}") from None
        self._ratios = {key: self._checked(key, ratio_at) for key in self._sources()}
        if all(ratio is None for ratio in self._ratios.values()):
            raise PlanError(
                f"step {self.label!r}: this gradient.{component.name} touches none of the {len(self._ratios)} tensors",
                hint=f"The architecture is {self.layout.arch}; check the names of layers or blocks.",
            )

    def _sources(self) -> list[str]:
        if isinstance(self.component, GradientFamily):
            return list(self.component.model.keys())
        return list(dict.fromkeys(key for one in self._gradients() for key in one.keys()))

    def _gradients(self) -> list[Gradient]:
        found = (getattr(self.component, name) for name in ports(type(self.component)))
        return [one for value in found if value is not None for one in (value if isinstance(value, list) else [value])]

    def _find_layout(self, layouts: Sequence[LayoutSpec]) -> Layout:
        if isinstance(self.component, GradientFamily):
            return detect_layout(self.component.model, layouts)
        known = [one.layout for one in self._gradients() if isinstance(one, GradientView)]
        return known[0] if known else detect({key: TensorMeta(key, "F32", ()) for key in self._sources()}, layouts)

    def _checked(self, key: str, ratio_at: Callable[[Place], float | None]) -> float | None:
        try:
            ratio = ratio_at(self.layout.place(key))
        except ValueError as error:
            raise PlanError(f"step {self.label!r}, tensor {key!r}: {error}") from None
        if ratio is None or 0 <= ratio <= 1 or self.component.outside == "allow":
            return ratio
        if self.component.outside == "clamp":
            return min(max(ratio, 0.0), 1.0)
        raise PlanError(
            f"step {self.label!r}: the ratio of {key!r} is {ratio:g}, outside 0 to 1",
            hint="Set `outside` to clamp (keep ratios in the range) or allow (let them extrapolate).",
        )

    def keys(self) -> Sequence[str]:
        return list(self._ratios)

    def ratio(self, key: str) -> float | None:
        return self._ratios.get(key)


class _BoundLoop(NamedTuple):
    """A loop for one tensor, and the stored bytes that it reads."""

    loop: loops.Loop
    sources: loops.Sources


class _MaskedTensors:
    """The tensors that any of some masks knows, as the headers of a model without data."""

    def __init__(self, masks: Sequence[Mask]) -> None:
        shapes = [(key, shape) for mask in masks for key in mask.keys() if (shape := mask.shape(key)) is not None]
        self._metas = {key: TensorMeta(key, "BOOL", tuple(shape)) for key, shape in reversed(shapes)}
        self._keys = list(dict.fromkeys(key for key, _ in shapes))

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    def keys(self) -> Sequence[str]:
        return self._keys

    def meta(self, key: str) -> TensorMeta:
        return self._metas[key]

    def read(self, key: str, span: Span | None = None) -> Tensor:
        raise TypeError("there is no model here, only masks")

    def close(self) -> None: ...


def _with_dtype(meta: TensorMeta, dtype: str) -> TensorMeta:
    return meta if meta.dtype not in FLOATS or meta.dtype == dtype else TensorMeta(meta.key, dtype, meta.shape)


# --- ports ---------------------------------------------------------------------------------------------


def _each(value: Any, of: Callable[[Any], Any]) -> Any:
    """A port's value or list of values, each by way of ``of``; None stays None."""
    if value is None:
        return None
    return [of(one) for one in value] if isinstance(value, list) else of(value)


def _each_by_port(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(words for messages, value) for every value that is there."""
    for name, value in values.items():
        if isinstance(value, list):
            yield from ((f"{name} {index}", one) for index, one in enumerate(value, start=1))
        elif value is not None:
            yield name, value


# --- reading across values ---------------------------------------------------------------------------


def _read_on(model: Model, key: str, span: Span | None, device: torch.device) -> Tensor:
    found = model.read_on_device(key, span) if isinstance(model, ModelView) else model.read(key, span)
    return to_device(found, device)


def _read_rows(
    model: Model, anchor: Model, key: str, span: Span | None, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """A model's tensor in ``dtype``. Rows that the anchor has and the model lacks are the anchor's, so that the model
    changes nothing in them; rows that the anchor lacks are left out."""
    meta, theirs = anchor.meta(key), model.meta(key)
    if theirs.shape == meta.shape:
        return _read_on(model, key, span, device).to(dtype)
    import torch

    wanted = span or meta.whole
    shared = min(max(theirs.numel, wanted.start), wanted.stop)
    parts = [(model, Span(wanted.start, shared)), (anchor, Span(shared, wanted.stop))]
    pieces = [_read_on(one, key, part, device).to(dtype) for one, part in parts if part.numel]
    flat = torch.cat(pieces or [torch.empty(0, dtype=dtype, device=device)])
    return flat if span is not None else flat.reshape(meta.shape)


def _read_mask(mask: Mask, key: str, meta: TensorMeta, span: Span | None, device: torch.device) -> Tensor:
    if mask.shape(key) is None:  # a key the mask does not know selects nothing
        import torch

        return torch.zeros(meta.shape if span is None else span.numel, dtype=torch.bool, device=device)
    return to_device(mask.read(key, span), device)


def without_torch(value: Any, key: str) -> bool:
    """Whether a model's bytes, or a mask's elements, can be had without torch, which takes long to import."""
    if isinstance(value, (ModelView, CastView, MaskView)):
        return value.without_torch(key)
    if isinstance(value, PackedMask):
        return without_torch(value.mask, key)
    return isinstance(value, BitMask) or gives_bytes(value)


class Computed(Protocol):
    """A model or mask that is computed when read, and says what that takes. Views are; a plugin's own may be: see
    :func:`computes`."""

    def needs_whole(self, key: str) -> bool:
        """Whether reading ``key`` by spans would repeat whole-tensor work."""
        ...

    def working_bytes(self, key: str, numel: int) -> int:
        """Rough bytes of scratch that reading ``numel`` elements of ``key`` takes."""
        ...


def computes(value: object) -> TypeGuard[Computed]:
    """Whether a model or mask is :class:`Computed`; for the reason of :func:`.gives_bytes` not by ``isinstance``."""
    return hasattr(value, "working_bytes") and hasattr(value, "needs_whole")


def needs_whole(value: Any, key: str) -> bool:
    """Whether reading ``key`` by spans would repeat whole-tensor work."""
    value = _source(value)
    return computes(value) and _knows(value, key) and value.needs_whole(key)


def measures(value: Any, key: str) -> bool:
    """Whether reading ``key`` starts with a pass over the whole tensor."""
    value = _source(value)
    return isinstance(value, TensorView) and _knows(value, key) and value.measures(key)


def granule(value: Any, key: str) -> int:
    """Elements of ``key`` in a row, where reading fewer would compute some of them twice; else 1."""
    value = _source(value)
    return value.granule(key) if isinstance(value, TensorView) and _knows(value, key) else 1


def effort(value: Any, key: str) -> float:
    """How many times as long an element of ``key`` takes to read as in a plain merge."""
    value = _source(value)
    return value.effort(key) if isinstance(value, TensorView) and _knows(value, key) else 1.0


def working_bytes(value: Any, key: str, numel: int) -> int:
    """Rough bytes of scratch that reading ``numel`` elements of ``key`` takes."""
    if isinstance(value, PackedMask):
        return numel + working_bytes(value.mask, key, 8 * numel)
    value = _source(value)
    if computes(value) and _knows(value, key):
        return value.working_bytes(key, numel)
    try:
        return nbytes(value.meta(key).dtype, numel)
    except (AttributeError, KeyError):
        return numel


def _source(value: Any) -> Any:
    """What computes, below what only packs or casts."""
    if isinstance(value, PackedMask):
        return value.mask
    return value.model if isinstance(value, CastView) else value


def _knows(value: Any, key: str) -> bool:
    if isinstance(value, ModelView):
        return key in value.decisions
    if isinstance(value, MaskView):
        return value.shape(key) is not None
    return key in value.keys()


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an accelerator had no memory left."""
    import torch

    # torch 2.4 has the name below torch.cuda only; it is one class in all of them.
    return isinstance(error, torch.cuda.OutOfMemoryError)
