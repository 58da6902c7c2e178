"""Views: a component over live values is itself a value, computed when read.

:func:`view` turns ``Lerp(a=model, b=other)`` into a :class:`~daremerge_core.values.Model`, a masker into a
``Mask``, a gradient family into a ``Gradient``. Building one looks at headers only and finds every mistake that
headers can show; reading computes one tensor, or one span of it.

A view's tensors have the storage dtype of its anchor model, so a chain of views gives the same bytes as the same
steps with a file in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .components import Component, GradientFamily, Masker, TensorComponent, _Selective, ports
from .decisions import Action, Other, decide, detect_layout
from .dtypes import FLOATS, nbytes, torch_dtype
from .errors import ComponentError, DaremergeError, PlanError
from .layout import LayoutSpec, Place
from .site import Site
from .values import Gradient, Mask, Model, Span, TensorMeta

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["CastView", "GradientView", "MaskView", "ModelView", "blocks_of", "view"]

MEASURE_BLOCK = 1 << 18
"""Elements per block of a measuring pass. Part of the result's definition: sums are taken block by block."""


def blocks_of(numel: int, size: int) -> Iterator[Span]:
    """Consecutive spans of at most ``size`` elements; one empty span for an empty tensor."""
    if numel == 0:
        yield Span(0, 0)
    for start in range(0, numel, size):
        yield Span(start, min(start + size, numel))


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
    """
    if isinstance(component, _Selective):
        return ModelView(component, label=label, dtype=dtype, layouts=layouts)
    if isinstance(component, Masker):
        return MaskView(component, label=label, layouts=layouts)
    if isinstance(component, GradientFamily):
        return GradientView(component, label=label, layouts=layouts)
    raise TypeError(f"{component.kind}.{component.name} is not a step: it is used inside one")


class _TensorView:
    """What views that compute tensors share: sites, measuring passes, the contract with the component."""

    def __init__(self, component: TensorComponent, label: str, layouts: Sequence[LayoutSpec]) -> None:
        self.component = component
        self.label = label or component.name
        self.device: str = "cpu"
        self._models: dict[str, Model | list[Model] | None] = {
            name: getattr(component, name) for name, port in ports(type(component)).items() if port.kind == "model"
        }
        anchor = self._models[component.anchor_field()]
        self.anchor: Model = anchor[0] if isinstance(anchor, list) else anchor  # type: ignore[assignment]
        self.others = [
            Other(name, one, frozenset(one.keys()))
            for name, model in self._models.items()
            for one in (model if isinstance(model, list) else [model])
            if one is not None and one is not self.anchor
        ]
        self.layout = detect_layout(self.anchor, layouts)
        self._whole = component.needs_whole_tensors()
        self._passes = component.passes()
        self._measured: dict[str, tuple[Tensor, ...]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    # --- the graph below this view ---

    def children(self) -> Iterator[Any]:
        """The values on every port."""
        for name in ports(type(self.component)):
            value = getattr(self.component, name)
            if value is not None:
                yield from value if isinstance(value, list) else [value]

    def needs_whole(self, key: str) -> bool:
        """Whether reading ``key`` by spans would make this view, or one below it, repeat whole-tensor work."""
        return self._whole or any(_needs_whole(child, key) for child in self.children())

    def measures(self, key: str) -> bool:
        """Whether reading ``key`` starts with a pass over the whole tensor."""
        return self._passes > 0 or any(isinstance(c, _TensorView) and c.measures(key) for c in self.children())

    # --- computing ---

    def _site(
        self, key: str, span: Span, *, whole: bool, ratio: float, device: str, measured: tuple[Tensor, ...]
    ) -> Site:
        import torch

        meta = self.anchor.meta(key)
        wide = meta.dtype == "F64" or any(other.model.meta(key).dtype == "F64" for other in self.others)
        dtype = torch.float64 if wide else torch.float32
        where = torch.device(device)

        def reader(model: Model) -> Callable[[], Tensor]:
            return lambda: _read_on(model, key, None if whole else span, where).to(dtype)

        inputs: dict[str, Any] = {
            name: None if model is None else [reader(m) for m in model] if isinstance(model, list) else reader(model)
            for name, model in self._models.items()
        }
        for name, port in ports(type(self.component)).items():
            mask = getattr(self.component, name)
            if port.kind == "mask" and mask is not None and not isinstance(self.component, _Selective):
                inputs[name] = (lambda m: lambda: _read_mask(m, key, meta, None if whole else span, where))(mask)
        return Site(
            place=self.layout.place(key),
            shape=meta.shape,
            span=span,
            is_whole=whole,
            dtype=dtype,
            device=where,
            inputs=inputs,
            ratio=ratio,
            measured=measured,
        )

    def _compute(self, key: str, span: Span, ratio: float) -> Tensor:
        """The component's verb for one span, 1-D, checked."""
        meta = self.anchor.meta(key)
        whole = self._whole
        measured = self.measured(key) if self._passes else ()
        wanted = meta.whole if whole else span
        site = self._site(key, wanted, whole=whole, ratio=ratio, device=self.device, measured=measured)
        with self._blame(key):
            result = self.component.compute(site)
        expected = meta.shape if whole else (wanted.numel,)
        if tuple(result.shape) != tuple(expected):
            raise ComponentError(
                f"{self._who()} answered shape {tuple(result.shape)} for {key!r}, where {tuple(expected)} was wanted",
                hint=f"This is a defect of {self._who()}: report it to its author.",
            )
        flat = result.reshape(-1)
        return flat[span.start : span.stop] if whole and span != wanted else flat

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
            raise ComponentError(
                f"{self._who()} failed on tensor {key!r}: {type(error).__name__}: {error}",
                hint=f"This is a defect of {self._who()}: report it to its author.",
            ) from error

    # --- measuring passes ---

    def active_keys(self) -> Iterable[str]:
        """The tensors the component computes."""
        raise NotImplementedError

    def _ratio(self, key: str) -> float:
        return 0.0

    def _group(self, key: str) -> tuple[str, list[str]]:
        scope = self.component.scope()
        if scope == "tensor":
            return key, [key]
        if scope == "model":
            return "*", list(self.active_keys())
        place = self.layout.place(key)
        same = [one for one in self.active_keys() if _block(self.layout.place(one)) == _block(place)]
        return _block(place), same

    def measured(self, key: str, pool_map: Callable[..., Iterable[Tensor]] = map) -> tuple[Tensor, ...]:
        """The finished measurements that cover ``key``, taken now if they are not there yet."""
        name, keys = self._group(key)
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._measured:
                done: tuple[Tensor, ...] = ()
                for _ in range(self._passes):
                    shares = pool_map(lambda one, done=done: self._measure(one, done), keys)
                    done = (*done, _add_up(shares))
                self._measured[name] = done
            return self._measured[name]

    def _measure(self, key: str, done: tuple[Tensor, ...]) -> Tensor:
        numel = self.anchor.meta(key).numel

        def shares() -> Iterator[Tensor]:
            for span in blocks_of(numel, numel or 1) if self._whole else blocks_of(numel, MEASURE_BLOCK):
                site = self._site(key, span, whole=self._whole, ratio=self._ratio(key), device="cpu", measured=done)
                with self._blame(key):
                    yield self.component.measure(site)

        return _add_up(shares())

    def prepare(self, pool_map: Callable[..., Iterable[Tensor]]) -> None:
        """Take every measurement that covers more than one tensor, in parallel."""
        if self._passes and self.component.scope() != "tensor":
            for key in self.active_keys():
                self.measured(key, pool_map)

    def working_bytes(self, key: str, numel: int) -> int:
        """Rough bytes of scratch that computing ``numel`` elements of ``key`` takes."""
        models = 1 + len(self.others)
        below = max((_working_bytes(child, key, numel) for child in self.children()), default=0)
        return below + (2 * models + 6) * 4 * numel

    def close(self) -> None:
        """Views own no file; the models below them are closed by whoever opened them."""


class ModelView(_TensorView):
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

    def with_dtype(self, dtype: str) -> ModelView:
        """The same view, its float tensors stored as ``dtype`` and rounded once."""
        return ModelView(self.component, label=self.label, dtype=dtype, layouts=self._layouts)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.anchor.metadata

    def keys(self) -> Sequence[str]:
        return self._keys

    def meta(self, key: str) -> TensorMeta:
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
            return _needs_whole(self.anchor, key)
        return super().needs_whole(key)

    def measures(self, key: str) -> bool:
        if self.decisions[key].action is Action.COPY:
            return isinstance(self.anchor, _TensorView) and self.anchor.measures(key)
        return super().measures(key)

    def read(self, key: str, span: Span | None = None) -> Tensor:
        result = self.read_on_device(key, span)
        return result if result.device.type == "cpu" else result.cpu()

    def read_on_device(self, key: str, span: Span | None) -> Tensor:
        """As :meth:`read`, the result left on the device that computed it."""
        import torch

        from .kernels import cast

        decision = self.decisions[key]
        if decision.action is Action.SKIP:
            raise KeyError(key)
        dtype = torch_dtype(self.meta(key).dtype)
        where = torch.device(self.device)
        if decision.action is Action.COPY:
            return cast(_read_on(self.anchor, key, span, where), dtype)
        meta = self.anchor.meta(key)
        wanted = span or meta.whole
        result = cast(self._compute(key, wanted, decision.ratio), dtype)
        mask = self.component.mask
        if mask is not None:
            kept = cast(_read_on(self.anchor, key, wanted, where), dtype)
            result = torch.where(_read_mask(mask, key, meta, wanted, where), result, kept)
        return result if span is not None else result.reshape(meta.shape)


class CastView:
    """A model with its float tensors stored in another dtype."""

    def __init__(self, model: Model, dtype: str) -> None:
        self._model = model
        self._dtype = dtype

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._model.metadata

    def keys(self) -> Sequence[str]:
        return self._model.keys()

    def meta(self, key: str) -> TensorMeta:
        return _with_dtype(self._model.meta(key), self._dtype)

    def read(self, key: str, span: Span | None = None) -> Tensor:
        from .kernels import cast

        return cast(self._model.read(key, span), torch_dtype(self.meta(key).dtype))

    def close(self) -> None:
        """The model below is closed by whoever opened it."""


class MaskView(_TensorView):
    """A masker as a :class:`~daremerge_core.values.Mask`; it knows the tensors that all its models share."""

    component: Masker

    def __init__(self, component: Masker, *, label: str = "", layouts: Sequence[LayoutSpec] = ()) -> None:
        super().__init__(component, label, layouts)
        self._shapes: dict[str, tuple[int, ...]] = {}
        for key in self.anchor.keys():
            meta = self.anchor.meta(key)
            if meta.dtype not in FLOATS or not all(key in other.keys for other in self.others):
                continue
            for other in self.others:
                if other.model.meta(key).shape != meta.shape:
                    raise PlanError(
                        f"step {self.label!r}: tensor {key!r} has shape {list(meta.shape)} in model and "
                        f"{list(other.model.meta(key).shape)} in {other.port}",
                        hint="A mask compares models of one architecture.",
                    )
            self._shapes[key] = meta.shape

    def keys(self) -> Sequence[str]:
        return list(self._shapes)

    def active_keys(self) -> Iterable[str]:
        return self._shapes

    def shape(self, key: str) -> tuple[int, ...] | None:
        return self._shapes.get(key)

    def read(self, key: str, span: Span | None = None) -> Tensor:
        import torch

        shape = self._shapes[key]
        wanted = span or self.anchor.meta(key).whole
        result = self._compute(key, wanted, 0.0)
        if result.dtype != torch.bool:
            raise ComponentError(
                f"{self._who()} answered {result.dtype} for {key!r}, where a bool tensor was wanted",
                hint=f"This is a defect of {self._who()}: report it to its author.",
            )
        return result.cpu() if span is not None else result.cpu().reshape(shape)


class GradientView:
    """A gradient family as a :class:`~daremerge_core.values.Gradient` over the layers of its model."""

    def __init__(self, component: GradientFamily, *, label: str = "", layouts: Sequence[LayoutSpec] = ()) -> None:
        self.component = component
        self.label = label or component.name
        self.layout = detect_layout(component.model, layouts)
        keys = list(component.model.keys())
        self._ratios = {key: component.ratio(self.layout.place(key)) for key in keys}
        if all(ratio is None for ratio in self._ratios.values()):
            raise PlanError(
                f"step {self.label!r}: this gradient.{component.name} touches none of the model's {len(keys)} tensors",
                hint=f"The model's architecture is {self.layout.arch}; check the names of layers or blocks.",
            )

    def keys(self) -> Sequence[str]:
        return list(self._ratios)

    def ratio(self, key: str) -> float | None:
        return self._ratios.get(key)


def _with_dtype(meta: TensorMeta, dtype: str) -> TensorMeta:
    return meta if meta.dtype not in FLOATS or meta.dtype == dtype else TensorMeta(meta.key, dtype, meta.shape)


# --- reading across values ---------------------------------------------------------------------------


def _read_on(model: Model, key: str, span: Span | None, device: torch.device) -> Tensor:
    found = model.read_on_device(key, span) if isinstance(model, ModelView) else model.read(key, span)
    return found if found.device == device else found.to(device)


def _read_mask(mask: Mask, key: str, meta: TensorMeta, span: Span | None, device: torch.device) -> Tensor:
    if mask.shape(key) is None:  # a key the mask does not know selects nothing
        import torch

        return torch.zeros(meta.shape if span is None else span.numel, dtype=torch.bool, device=device)
    found = mask.read(key, span)
    return found if found.device == device else found.to(device)


def _needs_whole(value: Any, key: str) -> bool:
    if not isinstance(value, _TensorView):
        return False
    return value.needs_whole(key) if _knows(value, key) else False


def _knows(value: Any, key: str) -> bool:
    return key in value.decisions if isinstance(value, ModelView) else value.shape(key) is not None


def _working_bytes(value: Any, key: str, numel: int) -> int:
    if isinstance(value, _TensorView) and _knows(value, key):
        return value.working_bytes(key, numel)
    try:
        return nbytes(value.meta(key).dtype, numel)
    except (AttributeError, KeyError):
        return numel


def _block(place: Place) -> str:
    return f"{place.part}/{place.block}"


def _add_up(shares: Iterable[Tensor]) -> Tensor:
    """Sum in order: the order of additions is part of the result's definition."""
    total: Tensor | None = None
    for share in shares:
        total = share if total is None else total + share
    assert total is not None
    return total
