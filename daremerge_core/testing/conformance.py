"""Conformance suites: the contract of each kind of component, as tests a plugin inherits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ..components import Component, MergeMethod, MultiMergeMethod, Reporter, ports
from ..dtypes import FLOATS
from ..errors import DaremergeError
from ..layout import ROLES, Place
from ..rendering import FORMATS, to_json, write_report
from ..stores import BitMask, MemoryModel, hold_mask
from ..values import Model, Report, Span
from ..views import ModelView, view
from .reports import report_of
from .tiny import SHAPES, tiny_model

__all__ = [
    "ComponentTests",
    "GradientFamilyTests",
    "MaskerTests",
    "MergeMethodTests",
    "ModelEditTests",
    "ReporterTests",
    "SparsifierTests",
]


class ComponentTests:
    """What every component must satisfy. Set ``component``; add ``cases`` for options worth trying."""

    component: ClassVar[type[Component]]
    cases: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    """Sets of options; each test runs with each."""

    def make(self, options: Mapping[str, Any]) -> Component:
        return self.component(**{**self.port_values(), **options})

    def port_values(self) -> dict[str, Any]:
        """Live values for the required ports, and for ``base``: tiny models, masks and gradients that differ."""
        values: dict[str, Any] = {}
        makers: dict[str, Callable[[int], Any]] = {"model": tiny_model, "mask": tiny_mask, "gradient": TinyGradient}
        for index, (name, port) in enumerate(ports(self.component).items()):
            if self.component.model_fields[name].is_required() or name == "base":
                make = makers[port.kind]
                values[name] = [make(index), make(index + 10)] if port.many else make(index)
        return values

    # --- the class ---

    def test_is_named(self) -> None:
        assert self.component.name, "a component needs a name"
        assert self.component.name == self.component.name.lower().replace("_", "-")

    def test_has_a_summary(self) -> None:
        assert self.component.summary(), "the docstring's first line is the command's and node's help"

    def test_every_field_has_help(self) -> None:
        for name, field in self.component.model_fields.items():
            assert field.description, f"{name} needs a description: it is the help of a flag and the tip of a widget"

    def test_importing_it_does_not_import_torch(self) -> None:
        code = f"import sys, {self.component.__module__}; sys.exit('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"import torch inside the verb, not at the top of the module\n{done.stderr}"

    def test_unknown_options_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no_such_option"):
            self.make({"no_such_option": 1})

    def test_options_survive_json(self) -> None:
        for options in self.cases:
            component = self.make(options)
            again = self.make({**component.options()})
            assert again.options() == component.options()

    def test_schema_is_json(self) -> None:
        import json

        json.dumps(self.component.model_json_schema())


class _TensorTests(ComponentTests):
    """Laws of components that answer tensors: purity, repeatability, the same bytes by spans and whole."""

    dtypes: ClassVar[Sequence[str]] = ("float32", "float16", "bfloat16", "float64")

    def values(self, options: Mapping[str, Any], dtype: str = "float32") -> Any:
        import torch

        found = self.port_values()
        for name, value in found.items():
            if ports(self.component)[name].kind == "model":
                several = value if isinstance(value, list) else [value]
                models = [_as_dtype(one, getattr(torch, dtype)) for one in several]
                found[name] = models if isinstance(value, list) else models[0]
        return view(self.component(**{**found, **options}))

    def keys(self, value: Any) -> list[str]:
        return list(value.active_keys())

    def test_it_computes_something(self) -> None:
        for options in self.cases:
            assert self.keys(self.values(options))

    def test_shapes_and_dtypes(self) -> None:
        for dtype in self.dtypes:
            for options in self.cases:
                value = self.values(options, dtype)
                for key in self.keys(value):
                    found = value.read(key)
                    assert tuple(found.shape) == value.anchor.meta(key).shape
                    self.check_dtype(found, dtype)

    def check_dtype(self, found: Any, dtype: str) -> None:
        import torch

        assert found.dtype == getattr(torch, dtype)

    def test_inputs_are_left_alone(self) -> None:
        for options in self.cases:
            value = self.values(options)
            tensors = [one for one in value.children() if hasattr(one, "read")]  # a gradient has none
            before = [_bytes(one) for one in tensors]
            for key in self.keys(value):
                value.read(key)
            assert [_bytes(one) for one in tensors] == before, "a verb must never write into its inputs"

    def test_the_same_twice_and_no_global_randomness(self) -> None:
        import torch

        for options in self.cases:
            state = torch.random.get_rng_state()
            first, second = self.values(options), self.values(options)
            for key in self.keys(first):
                one = first.read(key)
                torch.rand(3)
                assert _same(one, second.read(key)), "use site.draw(...), never torch's own random numbers"
            torch.random.set_rng_state(state)
            self.values(options).read(self.keys(first)[0])
            assert torch.equal(torch.random.get_rng_state(), state)

    def test_spans_agree_with_the_whole(self) -> None:
        for options in self.cases:
            value = self.values(options)
            for key in self.keys(value):
                numel = value.anchor.meta(key).numel
                whole = value.read(key).reshape(-1)
                for size in (1, 3, 7, 64):
                    for start in range(0, numel, size):
                        span = Span(start, min(start + size, numel))
                        assert _same(value.read(key, span), whole[span.start : span.stop]), (
                            "an elementwise component must not look beyond its span, nor a rowwise one beyond its row"
                        )

    def test_a_loop_gives_the_bits_of_the_verb(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for dtype in ("float32", "float16", "bfloat16"):
            for options in self.cases:
                fast, plain = self.values(options, dtype), self.values(options, dtype)
                for key in self.keys(fast):
                    numel = fast.anchor.meta(key).numel
                    spans = [None, Span(0, numel), Span(numel // 3, numel - numel // 4)]
                    found = [fast.read(key, span) for span in spans]
                    with monkeypatch.context() as patch:
                        patch.setenv("DAREMERGE_FAST", "0")
                        expected = [plain.read(key, span) for span in spans]
                    assert all(map(_same, found, expected)), "loop() and tally() must answer what the verb does"


class _SelectiveTests(_TensorTests):
    """Laws of what takes a ratio and a mask: merges and edits."""

    def test_ratio_1_is_the_model_it_starts_from(self) -> None:
        for options in self.cases:
            value = self.values({**options, "ratio": 1.0})
            for key in value.keys():
                assert _same(value.read(key), value.anchor.read(key))

    def test_a_mask_of_false_is_the_model_it_starts_from(self) -> None:
        for options in self.cases:
            value = self.values({**options, "mask": ConstantMask(False)})
            for key in value.keys():
                assert _same(value.read(key), value.anchor.read(key))

    def test_a_mask_of_true_changes_nothing(self) -> None:
        for options in self.cases:
            masked, plain = self.values({**options, "mask": ConstantMask(True)}), self.values(options)
            for key in plain.keys():
                assert _same(masked.read(key), plain.read(key))


class MergeMethodTests(_SelectiveTests):
    """The contract of a merge method. ``exact_ends`` says which ratios must give A or B bit for bit."""

    exact_ends: ClassVar[str] = "ab"

    def test_t_zero_is_a(self) -> None:
        if "a" not in self.exact_ends:
            pytest.skip("this method does not promise it")
        for options in self.cases:
            value = self.values({**options, "ratio": 0.5})
            for key in self.keys(value):
                site_span = value.anchor.meta(key).whole
                assert _same(value._compute(key, site_span, 1.0), value.anchor.read(key).reshape(-1))

    def test_ratio_0_is_b(self) -> None:
        if "b" not in self.exact_ends or issubclass(self.component, MultiMergeMethod):
            pytest.skip("this method does not promise it")
        for options in self.cases:
            value = self.values({**options, "ratio": 0.0})
            for key in self.keys(value):
                assert _same(value.read(key), value.component.b.read(key))


class ModelEditTests(_SelectiveTests):
    """The contract of a model edit."""


class MaskerTests(_TensorTests):
    """The contract of a masker, and of an editor of masks."""

    def check_dtype(self, found: Any, dtype: str) -> None:
        import torch

        assert found.dtype == torch.bool

    def test_it_survives_packing(self) -> None:
        for options in self.cases:
            value = self.values(options)
            held = hold_mask(value)
            assert list(held.keys()) == list(value.keys())
            for key in value.keys():
                assert _same(held.read(key), value.read(key))


class SparsifierTests(ComponentTests):
    """The contract of a sparsifier: thins a delta, on its own random numbers."""

    def sparsify(self, options: Mapping[str, Any], key: str, delta: Any, span: Span | None = None) -> Any:
        probe = ModelView(_Probe(a=tiny_model(0), b=tiny_model(1)))
        whole = probe.anchor.meta(key).whole
        at = span or whole
        site = probe._site(key, at, (at.numel,), ratio=0.0, device="cpu", measured=())
        component: Any = self.make(options)
        return component.sparsify(site, delta)

    def test_shape_purity_and_repeatability(self) -> None:
        model = tiny_model(3)
        for options in self.cases:
            for key in model.keys():
                if model.meta(key).dtype not in FLOATS:
                    continue
                delta = model.read(key).reshape(-1)
                before = delta.clone()
                first = self.sparsify(options, key, delta)
                assert first.shape == delta.shape
                assert _same(delta, before), "sparsify must not write into the delta"
                assert _same(first, self.sparsify(options, key, delta))

    def test_zeros_stay_zeros(self) -> None:
        model = tiny_model(3)
        for options in self.cases:
            for key in model.keys():
                zeros = model.read(key).reshape(-1).float() * 0.0
                assert not self.sparsify(options, key, zeros).any()


class GradientFamilyTests(ComponentTests):
    """The contract of a gradient family, and of an editor of gradients: a ratio or None for any place."""

    def test_every_place_has_an_answer(self) -> None:
        for options in self.cases:
            value: Any = view(self.make(options))
            for key in value.keys():
                ratio = value.ratio(key)
                assert ratio is None or isinstance(ratio, float)

    def test_it_has_a_ratio_somewhere(self) -> None:
        for options in self.cases:
            value: Any = view(self.make(options))
            assert any(value.ratio(key) is not None for key in value.keys())

    def test_an_unknown_tensor_has_none(self) -> None:
        for options in self.cases:
            value: Any = view(self.make(options))
            assert value.ratio("no.such.tensor") is None

    def test_roles_are_known(self) -> None:
        value: Any = view(self.make(self.cases[0]))
        for key in value.keys():
            place: Place = value.layout.place(key)
            assert place.role in ROLES


class ReporterTests(ComponentTests):
    """The contract of a reporter: a report that every format can show, the same whatever the threads and memory."""

    @pytest.fixture(autouse=True)
    def _coarse_pictures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Drawn in a fraction of the time."""
        monkeypatch.setattr("daremerge_core.rendering.pictures.DPI", 48)

    def report(self, options: Mapping[str, Any], *, threads: int = 1, memory: int = 1 << 30) -> Report:
        component = self.make(options)
        assert isinstance(component, Reporter)
        return report_of(component, threads=threads, memory=memory)

    def empty_values(self) -> dict[str, Any]:
        """The ports of :meth:`port_values`, holding values without tensors."""
        return {
            name: [_without_tensors(self.component, name) for _ in value]
            if isinstance(value, list)
            else _without_tensors(self.component, name)
            for name, value in self.port_values().items()
        }

    def test_it_has_a_title_and_text(self) -> None:
        for options in self.cases:
            report = self.report(options)
            assert report.title.strip()
            assert "\n" not in report.title
            assert report.text.strip(), "say in words what was found; the table and the pictures are for the details"

    def test_cells_are_plain(self) -> None:
        for options in self.cases:
            for row in self.report(options).rows:
                for column, value in row.items():
                    assert column, "a column needs a name"
                    what = f"{column}: {type(value).__name__}; a cell is text, a number or None"
                    assert value is None or type(value) in (str, int, float), what

    def test_data_is_json(self) -> None:
        import json

        for options in self.cases:
            report = self.report(options)
            assert report.data, "a script must find in data what a person finds in text and pictures"
            again = json.loads(json.dumps(report.data, sort_keys=True))  # sorting finds keys that are not all text
            assert again.keys() == report.data.keys()

    def test_every_format_can_show_it(self, tmp_path: Path) -> None:
        for number, options in enumerate(self.cases):
            report = self.report(options)
            for suffix in FORMATS:
                if suffix == ".png" and not (report.figures and number == 0):
                    continue  # a page has all the pictures too
                path = write_report(report, tmp_path / f"{number}{suffix}")
                assert path.read_bytes().startswith(b"\x89PNG") == (suffix == ".png")

    def test_pictures_are_drawn_alike_each_time_and_for_both_themes(self) -> None:
        from ..rendering.pictures import draw

        for options in self.cases:
            figures = self.report(options).figures
            assert all(caption.strip() for caption in figures)
            for figure in list(figures.values())[:1]:
                light = draw(figure, "light")
                assert draw(figure, "dark") != light, "take the colours of all that is not data from rcParams"
                assert draw(figure, "light") == light

    def test_threads_and_memory_change_nothing(self) -> None:
        for options in self.cases:
            first = self.report(options)
            other = self.report(options, threads=3, memory=1 << 12)
            assert to_json(other) == to_json(first)
            assert list(other.figures) == list(first.figures)

    def test_inputs_are_left_alone(self) -> None:
        for options in self.cases:
            component = self.make(options)
            assert isinstance(component, Reporter)
            models = [value for value in _values_of(component) if isinstance(value, Model)]
            before = [_bytes(model) for model in models]
            report_of(component)
            assert [_bytes(model) for model in models] == before

    def test_values_without_tensors_are_no_crash(self) -> None:
        for options in self.cases:
            component = self.component(**{**self.empty_values(), **options})
            assert isinstance(component, Reporter)
            try:
                report = report_of(component)
            except DaremergeError:
                continue
            for figure in report.figures.values():
                figure()


def _without_tensors(component: type[Component], port: str) -> Any:
    kind = ports(component)[port].kind
    return {"model": MemoryModel({}), "mask": BitMask(MemoryModel({})), "gradient": TinyGradient(ratios={})}[kind]


def _values_of(component: Component) -> list[Any]:
    found = (getattr(component, name) for name in ports(type(component)))
    return [one for value in found if value is not None for one in (value if isinstance(value, list) else [value])]


def tiny_mask(seed: int = 0) -> BitMask:
    """A mask of the tiny checkpoint's float tensors, about half of them selected; the same for the same seed."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return BitMask(MemoryModel({k: torch.rand(shape, generator=generator) < 0.5 for k, shape in SHAPES.items()}))


class TinyGradient:
    """Ratios from 0 to 1 for most of the tiny checkpoint's tensors, or those given."""

    def __init__(self, seed: int = 0, ratios: Mapping[str, float] | None = None) -> None:
        self._ratios = (
            ratios
            if ratios is not None
            else {key: ((index * 7 + seed * 3) % 11) / 10 for index, key in enumerate(SHAPES) if index != seed % 4}
        )

    def keys(self) -> Sequence[str]:
        return list(self._ratios)

    def ratio(self, key: str) -> float | None:
        ratio = self._ratios.get(key)
        return None if ratio is None else min(ratio, 1.0)


class ConstantMask:
    """A mask that selects everything or nothing, of the tiny checkpoint's tensors."""

    def __init__(self, selected: bool) -> None:
        self._selected = selected
        self._model = tiny_model(0)

    def keys(self) -> Sequence[str]:
        return self._model.keys()

    def shape(self, key: str) -> tuple[int, ...] | None:
        return self._model.meta(key).shape if key in self.keys() else None

    def read(self, key: str, span: Span | None = None) -> Any:
        import torch

        shape = self._model.meta(key).shape if span is None else (span.numel,)
        return torch.full(shape, self._selected)

    def close(self) -> None: ...


class _Probe(MergeMethod):
    """Answers A; exists to make sites."""

    name = "probe"

    def merge(self, site: Any) -> Any:
        return site.a


def _as_dtype(model: Any, dtype: Any) -> Any:
    tensors = {key: model.read(key) for key in model.keys()}
    return MemoryModel({k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}, model.metadata)


def _bytes(value: Any) -> dict[str, bytes]:
    """Every tensor of a model or mask, as bytes."""
    import torch

    return {key: bytes(value.read(key).contiguous().reshape(-1).view(torch.uint8).tolist()) for key in value.keys()}


def _same(one: Any, other: Any) -> bool:
    """Equal bit for bit, but for the sign of zero."""
    import torch

    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)) and torch.equal(one.isnan(), other.isnan())
