"""Components: the one thing a plugin author writes.

A component is a frozen pydantic model with one verb. Its fields are its options: they become command
line flags, recipe keys and ComfyUI widgets, with their ranges, defaults and help. Its verb is the one
thing it computes. Reading, masks, ratios, dtypes, spans, devices, threads and writing are not its
business.

========================  =======================================  =====================
kind                      class                                    verb
========================  =======================================  =====================
``merge``                 :class:`MergeMethod`,                    ``merge(site)``
                          :class:`MultiMergeMethod`
``sparsify``              :class:`Sparsifier`                      ``sparsify(site, delta)``
``refine``                :class:`Refiner`                         ``refine(site, merged, deltas)``
``edit``                  :class:`ModelEdit`                       ``edit(site)``
``mask``                  :class:`Masker`,                         ``mask(site)``
                          :class:`MaskEditor`
``gradient``              :class:`GradientFamily`,                 ``ratio(place)``
                          :class:`GradientEditor`
``lora``                  :class:`LoraTool`                        ``lora()``
``report``                :class:`Reporter`                        ``report(survey)``
========================  =======================================  =====================

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo

from .errors import CatalogError

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from .layout import Layout, Place
    from .loops import Loop
    from .measuring import Measured
    from .site import Site, TensorSite
    from .survey import Survey
    from .tally import Magnitudes, Tally
    from .task_sum import Thinning
    from .values import Model, Report

__all__ = [
    "BlendRef",
    "Component",
    "GradientEditor",
    "GradientFamily",
    "GradientRef",
    "LoraRef",
    "LoraTool",
    "MaskEditor",
    "MaskRef",
    "Masker",
    "MaskerRef",
    "MergeMethod",
    "ModelEdit",
    "ModelRef",
    "MultiMergeMethod",
    "Numbers",
    "Port",
    "RecipeRef",
    "Refiner",
    "RefinerRef",
    "Reporter",
    "Scope",
    "Shares",
    "Sparsifier",
    "SparsifierRef",
    "TensorComponent",
    "WeightedBy",
    "nested",
    "ports",
]

Scope = Literal["tensor", "block", "model"]
ValueKind = Literal["model", "mask", "gradient", "recipe"]
"""What a port can hold. A recipe comes as a :class:`~daremerge_core.plan.Plan`: met with its files."""


# --- ports: fields that hold another value of the recipe -------------------------------------------


@dataclass(frozen=True)
class Port:
    """Marks a field that takes a value of the recipe graph rather than a plain option.

    In a recipe the field holds a name (of a step or a model) or a path; in Python it may hold the value itself.
    """

    kind: ValueKind
    many: bool = False
    aside: bool = False
    """Whether the component reads this model by itself, rather than tensor by tensor beside its anchor: a LoRA, whose
    tensors have other names."""
    weights: str | None = None
    """The field with a number for each value of a list; on the command line ``FILE:NUMBER`` gives both."""


@dataclass(frozen=True)
class WeightedBy:
    """Marks a list of ports whose values have a number each, in the list field of this name.

    ``Annotated[list[LoraRef], WeightedBy("strengths")]``: on the command line ``FILE:0.8`` gives both.
    """

    field: str


_VALUE_METHODS: dict[ValueKind, tuple[str, ...]] = {
    "model": ("meta", "read"),
    "mask": ("shape", "read"),
    "gradient": ("ratio",),
    "recipe": ("recipe", "counts"),
}


def _reference(kind: ValueKind) -> BeforeValidator:
    name = "path" if kind == "recipe" else "name of a step or model, or a path"

    def check(value: Any) -> Any:
        if isinstance(value, str):
            if not value:
                raise ValueError(f"a {kind} is needed: the {name}")
            return value
        if all(callable(getattr(value, method, None)) for method in _VALUE_METHODS[kind]):
            return value
        raise ValueError(f"not a {kind}: give the {name}")

    return BeforeValidator(check)


def _dump_reference(value: Any) -> Any:
    return value if isinstance(value, str) or value is None else f"<{type(value).__name__}>"


def _ref(kind: ValueKind, *, aside: bool = False) -> Any:
    schema = WithJsonSchema({"type": "string", "description": f"Name or path of a {kind}."})
    dump = PlainSerializer(_dump_reference, when_used="json")
    return Annotated[Any, Port(kind, aside=aside), _reference(kind), dump, schema]


if TYPE_CHECKING:
    ModelRef = Any
    LoraRef = Any
    MaskRef = Any
    GradientRef = Any
    RecipeRef = Any
else:
    ModelRef = _ref("model")
    LoraRef = _ref("model", aside=True)
    MaskRef = _ref("mask")
    GradientRef = _ref("gradient")
    RecipeRef = _ref("recipe")


# --- nested components: fields that hold another component ------------------------------------------


@dataclass(frozen=True)
class Nested:
    """Marks a field that holds a component of another kind, looked up in the catalog by name."""

    kind: str


def _nested(kind: str) -> BeforeValidator:
    def build(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Component):
            if value.kind != kind:
                raise ValueError(f"{value.kind}.{value.name} is not of kind {kind}")
            return value
        catalog = (info.context or {}).get("catalog")
        if catalog is None:
            from .catalog import discover

            catalog = discover()
        if isinstance(value, str):
            value = {"op": value}
        if not isinstance(value, dict) or not isinstance(value.get("op"), str):
            raise ValueError("give a component's name, or a mapping with `op` and its options")
        options = {key: option for key, option in value.items() if key != "op"}
        try:
            cls = catalog.get(kind, value["op"].removeprefix(f"{kind}."))
        except CatalogError as error:
            raise ValueError(f"{error.message} {error.hint or ''}".rstrip()) from None
        _check_nestable(cls, options)
        return cls.model_validate(cls.filled_ports() | options, context={"catalog": catalog})

    return BeforeValidator(build)


def _check_nestable(cls: type[Component], options: dict[str, Any]) -> None:
    """A nested component computes on tensors it is handed: it has no ports, selection or ratio of its own."""
    needed = [name for name in cls.filled_ports() if name not in ("a", "b", "model")]
    if needed:
        raise ValueError(f"{cls.name} needs {', '.join(needed)}, so it cannot be used here")
    outer = sorted(set(options) & set(_Merge.model_fields)) if issubclass(cls, _Merge) else []
    outer += sorted(set(options) & set(ports(cls)))
    if outer:
        raise ValueError(f"{', '.join(outer)} of {cls.name} cannot be set here: set it on the step")


def _dump_nested(value: Any) -> Any:
    if not isinstance(value, Component):
        return value
    options = value.options()
    return {"op": value.name, **options} if options else value.name


def _nested_ref(kind: str) -> Any:
    schema = WithJsonSchema({"type": ["string", "object"], "description": f"A component of kind {kind}."})
    return Annotated[Any, Nested(kind), _nested(kind), PlainSerializer(_dump_nested), schema]


if TYPE_CHECKING:
    BlendRef = Any
    MaskerRef = Any
    RefinerRef = Any
    SparsifierRef = Any
else:
    BlendRef = _nested_ref("merge")
    MaskerRef = _nested_ref("mask")
    RefinerRef = _nested_ref("refine")
    SparsifierRef = _nested_ref("sparsify")


# --- a number for each model ------------------------------------------------------------------------


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _numbers(element: Any) -> Any:
    schema = {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}, "minItems": 1}]}
    shortest = PlainSerializer(lambda numbers: numbers[0] if len(numbers) == 1 else numbers)
    return Annotated[list[element], BeforeValidator(_listed), Field(min_length=1), shortest, WithJsonSchema(schema)]


if TYPE_CHECKING:
    Numbers = list[float]
    Shares = list[float]
else:
    Numbers = _numbers(float)
    """One number for all models, or one for each: in a recipe ``0.8`` or ``[1, 0.8]``, on a command line an option
    given once or as often as there are models."""
    Shares = _numbers(Annotated[float, Field(ge=0, le=1)])
    """:data:`Numbers` from 0 to 1."""


# --- the base class ---------------------------------------------------------------------------------


class Component(BaseModel):
    """A named, frozen set of options with one verb. Subclass a kind below, not this."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        validate_default=True,
        validate_by_name=True,
        validate_by_alias=True,
        defer_build=True,
    )

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    """The component's word in recipes, commands and nodes: lower-case, with hyphens."""
    elementwise: ClassVar[bool] = True
    """True: each element of the result depends on the same element of the inputs alone, so the engine may
    work span by span. False: the verb is always given whole tensors."""

    rowwise: ClassVar[bool] = False
    """True, with ``elementwise`` False: each row of the matrix (out, rest) depends on the same row of the inputs alone,
    so the engine may work on some rows at a time. The verb sees a tensor of only these rows; a vector is one row."""

    def needs_whole_tensors(self) -> bool:
        """Whether this component, or one nested in it, must see whole tensors."""
        own = not self.elementwise and not self.rowwise
        return own or any(one.needs_whole_tensors() for one in self.nested_components())

    def needs_whole_rows(self) -> bool:
        """Whether this component, or one nested in it, must see whole rows, if not whole tensors."""
        return self.rowwise or any(one.needs_whole_rows() for one in self.nested_components())

    def nested_components(self) -> Iterator[Component]:
        for field in nested(type(self)):
            value = getattr(self, field)
            if isinstance(value, Component):
                yield value

    def effort(self, shape: tuple[int, ...]) -> float:
        """How many times as long an element of such a tensor takes as in a plain merge, for an honest progress."""
        return max([1.0, *(one.effort(shape) for one in self.nested_components())])

    def kept_at_random(self) -> float | None:
        """The probability with which each change of an element is kept, where chance decides; else None.

        What a report on a merge compares with the share that was kept.
        """
        return None

    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults, ready for JSON; ports are left out."""
        skip = set(ports(type(self)))
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=skip)

    @classmethod
    def filled_ports(cls) -> dict[str, Any]:
        """Stand-ins for required ports, for a component that is nested in another and reads no port itself."""
        required = (name for name, port in ports(cls).items() if cls.model_fields[name].is_required())
        return {name: ["-"] if ports(cls)[name].many else "-" for name in required}

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring, as plain text."""
        return (cls.__doc__ or "").strip().partition("\n")[0].replace("``", "")


@cache
def ports(cls: type[Component]) -> dict[str, Port]:
    """The ports among a component's fields, in order."""
    found: dict[str, Port] = {}
    for name, field in cls.model_fields.items():
        marks = [mark for mark in _marks(field) if isinstance(mark, Port)]
        if marks:
            weights = next((mark.field for mark in _marks(field) if isinstance(mark, WeightedBy)), None)
            found[name] = replace(marks[0], many=_is_list(field.annotation), weights=weights)
    return found


@cache
def nested(cls: type[Component]) -> dict[str, str]:
    """The fields that hold another component, with its kind."""
    found: dict[str, str] = {}
    for name, field in cls.model_fields.items():
        for mark in _marks(field):
            if isinstance(mark, Nested):
                found[name] = mark.kind
    return found


def _marks(field: FieldInfo) -> list[Any]:
    """Every annotation mark of a field, also inside ``X | None`` and ``list[X]``."""
    marks = list(field.metadata)
    stack = [field.annotation]
    while stack:
        one = stack.pop()
        marks.extend(getattr(one, "__metadata__", ()))
        stack.extend(arg for arg in get_args(one) if not isinstance(arg, (str, int, float, bool)))
    return marks


def _is_list(annotation: Any) -> bool:
    import types
    from typing import Union, get_origin

    if get_origin(annotation) is list:
        return True
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_is_list(arg) for arg in get_args(annotation))
    return False


# --- kinds that map a site to a tensor --------------------------------------------------------------


class TensorComponent(Component):
    """A component whose verb answers one tensor (or one span of it) of a model."""

    def passes(self) -> int:
        """How many measuring passes over the data come before the verb; 0 for most components."""
        return 0

    def scope(self) -> Scope:
        """What one measurement covers: each tensor on its own, each block, or the whole model."""
        return "tensor"

    def group(self, place: Place) -> str:
        """The measurement a tensor belongs to: tensors of one group are measured together.

        By default what :meth:`scope` says. Override it for another grouping, such as the tensors of one attention.
        """
        scope = self.scope()
        if scope == "tensor":
            return place.key
        return "model" if scope == "model" else f"{place.part}/{place.block}"

    def measure(self, site: Site) -> Tensor:
        """One block's share of a measurement that is a sum: a 1-D float64 or int64 tensor.

        Called for each block of a group in a fixed order, ``passes()`` times over; the shares are added, and what
        :meth:`conclude` makes of their sum appears as ``site.measured[i]`` in later passes and in the verb. Sum a block
        with ``site.total(...)``, whose order of additions is fixed. Measuring always happens on the CPU.
        """
        raise NotImplementedError(f"{type(self).__name__} declares passes() but no measure()")

    def conclude(self, place: Place, total: Measured, measured: tuple[Measured, ...]) -> Measured:
        """What to keep of a finished pass, once for each group; by default the sum itself. All are NumPy arrays.

        A pass that sums something large, such as a histogram, keeps here only what follows from it.

        Args:
            place: of the group's first tensor.
            total: the sum of all shares.
            measured: what earlier passes kept.
        """
        return total

    def working_bytes(self, shape: tuple[int, ...], numel: int, models: int) -> int:
        """Rough bytes of scratch that computing ``numel`` elements of such a tensor takes, reading them included.

        Args:
            models: how many models are read.
        """
        return (2 * models + 6) * 4 * numel

    def compute(self, site: Site) -> Tensor:
        """The verb, under one name for the engine."""
        raise NotImplementedError

    def loop(self, site: TensorSite) -> Loop | None:
        """The verb as a loop over plain arrays, for one tensor; None, the default, where the verb itself is to be used.

        It is taken on the CPU, where numba is there and all models hold float32 or 16-bit floats. It must give the
        verb's bits: the conformance tests compare them. See :mod:`daremerge_core.loops`.

        While ``site.measured`` is empty although there are passes, the question is only whether there is a loop.
        """
        return None

    def tally(self, site: TensorSite) -> Tally | None:
        """:meth:`measure` said as data, for the pass after those in ``site.measured``, where it counts magnitudes.

        None, the default, where it does not. See :mod:`daremerge_core.tally`.
        """
        return None

    @classmethod
    def anchor_field(cls) -> str:
        """The model port whose keys, dtypes and metadata the result has."""
        return next(name for name, port in ports(cls).items() if port.kind == "model")


class _Selective(TensorComponent):
    """What merges and edits share: where they apply, and how strongly."""

    ratio: float = Field(0.0, description="1 keeps the model as it is, 0 takes the edit; values between mix.")
    mask: MaskRef | None = Field(None, description="Only elements selected by this mask may change.")
    gradient: GradientRef | None = Field(None, description="Ratio per layer; replaces --ratio where it has a value.")
    parts: list[Literal["unet", "clip", "vae", "lm", "other"]] | None = Field(
        None, description="Limit to these parts of the checkpoint: unet, clip, vae, lm, other."
    )
    include: str | None = Field(None, description="Only tensors matching this selector, e.g. '*.attn2.*'.")
    exclude: str | None = Field(None, description="Leave out tensors matching this selector.")
    on_mismatch: Literal["error", "keep-a", "skip", "common-rows"] = Field(
        "error",
        description="Where shapes or architectures differ: stop, keep A's tensor, leave the tensor out, or merge the "
        "rows that all have and keep A's others (vocabularies with added tokens).",
    )

    def check_ratio(self, ratio: float) -> None:
        """Raise ``ValueError`` for a ratio at which there is no result; asked before any work is done.

        By default a merge that is nested in this component is asked.
        """
        for one in self.nested_components():
            if isinstance(one, _Merge):
                one.check_ratio(ratio)

    @model_validator(mode="after")
    def _ratio_is_possible(self) -> Self:
        self.check_ratio(self.ratio)
        return self

    def leaves_alone(self, place: Place) -> str | None:
        """Why this step never changes the tensor there, in a few words; None where it may.

        Asked before any work is done: such a tensor is copied unread, and where there are no others the step is an
        error that gives the reason.
        """
        return None


class _Merge(_Selective):
    kind: ClassVar[str] = "merge"

    ratio: float = Field(0.5, description="1 keeps A, 0 takes B; values outside 0 to 1 extrapolate.")

    def merge(self, site: Site) -> Tensor:
        """The merged tensor, in ``site.dtype``, of the shape of the site's tensors. Must not change its inputs."""
        raise NotImplementedError

    def compute(self, site: Site) -> Tensor:
        return self.merge(site)


class MergeMethod(_Merge):
    """Two models into one: ``site.a``, ``site.b`` and ``site.t`` = 1 − ratio (t = 0 is A, t = 1 is B).

    A method that can use the base model both were tuned from adds ``base: ModelRef | None = None``.
    """

    a: ModelRef = Field(description="Model A: gives keys, dtypes and metadata of the result.")
    b: ModelRef = Field(description="Model B.")

    @classmethod
    def anchor_field(cls) -> str:
        return "a"


class MultiMergeMethod(_Merge):
    """Any number of models into one: ``site.models``; with a ``base`` port also ``site.deltas``.

    The first model gives keys, dtypes and metadata of the result, unless the class has a ``base``.
    A ratio of 1 keeps that model, 0 takes the merge.
    """

    ratio: float = Field(0.0, description="1 keeps the base (or first) model, 0 takes the merge.")
    models: list[ModelRef] = Field(min_length=1, description="The models to merge.")

    @classmethod
    def anchor_field(cls) -> str:
        return "base" if "base" in ports(cls) and cls.model_fields["base"].is_required() else "models"


class ModelEdit(_Selective):
    """One model changed: ``site.model``; ``edit`` answers the changed tensor.

    How much of the change is made is not the edit's business: ``ratio`` 1 keeps the model, 0 makes all of it.
    """

    kind: ClassVar[str] = "edit"

    model: ModelRef = Field(description="The model to edit.")

    def edit(self, site: Site) -> Tensor:
        """The edited tensor, in ``site.dtype``, of the shape of ``site.model``. Must not change its inputs."""
        raise NotImplementedError

    def compute(self, site: Site) -> Tensor:
        from .kernels import lerp

        return lerp(site.model, self.edit(site), site.t)

    @classmethod
    def anchor_field(cls) -> str:
        return "model"


class _Masker(TensorComponent):
    kind: ClassVar[str] = "mask"

    def mask(self, site: Site) -> Tensor:
        """A bool tensor of the shape of the site's tensors: True where an element is selected."""
        raise NotImplementedError

    def for_keys(self, keys: Sequence[str]) -> Callable[[Site], Tensor]:
        """The verb for the mask of these tensors: override it to look at their names once, before the first answer.

        Raises ``ValueError`` or a :class:`~daremerge_core.errors.DaremergeError` for options that do not fit them.
        """
        return self.mask

    def compute(self, site: Site) -> Tensor:
        return self.mask(site)

    @classmethod
    def anchor_field(cls) -> str:
        return "model"


class Masker(_Masker):
    """Which elements of a model's float tensors are selected: ``mask`` answers a bool tensor."""

    model: ModelRef = Field(description="The model whose tensors the mask is for.")


class MaskEditor(_Masker):
    """A mask made from masks: their ports are ``MaskRef`` or ``list[MaskRef]``, read as ``site["port"]``.

    A tensor that a mask does not know is False all over.
    """

    model: ModelRef | None = Field(
        None, description="The model whose tensors the mask is for; without it, those that the given masks know."
    )


# --- the other kinds --------------------------------------------------------------------------------


class Sparsifier(Component):
    """Thins out a task vector: ``sparsify`` answers a tensor of the shape of ``delta``, zeros where dropped."""

    kind: ClassVar[str] = "sparsify"

    def sparsify(self, site: Site, delta: Tensor) -> Tensor:
        raise NotImplementedError

    def at_density(self, density: float) -> Sparsifier:
        """The same sparsifier, keeping this share (0 to 1) of the elements.

        Raises ``ValueError`` for a sparsifier, or a density, for which there is no such thing.
        """
        raise ValueError(f"{self.name} keeps no share that could be chosen")

    def passes(self) -> int:
        """How many measuring passes come before :meth:`sparsify`: see :meth:`TensorComponent.passes`."""
        return 0

    def scope(self) -> Scope:
        """What one measurement covers: each tensor on its own, each block, or the whole model."""
        return "tensor"

    def measure(self, site: Site, delta: Tensor) -> Tensor:
        """One block's share of a measurement that is a sum: a 1-D float64 or int64 tensor; on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} declares passes() but no measure()")

    def conclude(self, total: Measured, measured: tuple[Measured, ...]) -> Measured:
        """What to keep of a finished pass; it appears as ``site.measured[i]``. By default the sum itself."""
        return total

    def tally(self, site: TensorSite) -> Magnitudes | None:
        """What :meth:`measure` counts of one model's task vector, where it counts magnitudes: see :mod:`.tally`."""
        return None

    def thinning(self, site: TensorSite) -> Thinning | None:
        """:meth:`sparsify` said as data, for a tensor of one model: see :mod:`.task_sum`; None if it cannot be."""
        return None


class Refiner(Component):
    """Changes the merged task vector before it is added to the base: ``refine`` answers a tensor of its shape."""

    kind: ClassVar[str] = "refine"

    def refine(self, site: Site, merged: Tensor, deltas: Sequence[Tensor]) -> Tensor:
        """The refined task vector. Must not change its inputs.

        Args:
            merged: what the merge would add to the base, before λ.
            deltas: the task vectors it was merged from, weighted.
        """
        raise NotImplementedError

    def working_bytes(self, shape: tuple[int, ...], models: int) -> int:
        """Bytes of scratch that refining such a tensor takes, beyond a copy of it."""
        return 0


class _Gradient(Component):
    kind: ClassVar[str] = "gradient"

    outside: Literal["error", "clamp", "allow"] = Field(
        "error", description="Ratios outside 0 to 1: an error, clamped to the range, or allowed (they extrapolate)."
    )

    def ratio(self, place: Place) -> float | None:
        """The ratio of one tensor, or None to leave A alone there. Raises ``ValueError`` where there cannot be one."""
        raise NotImplementedError

    def for_layout(self, layout: Layout) -> Callable[[Place], float | None]:
        """What answers for the tensors of one model: override it to look at the layout once, before the first answer.

        Raises ``ValueError`` for options that do not fit the layout.
        """
        return self.ratio


class GradientFamily(_Gradient):
    """How strongly each layer mixes: ``ratio`` answers for one place, or None to leave A alone there."""

    model: ModelRef = Field(description="The model whose layers the gradient is for.")


class GradientEditor(_Gradient):
    """A gradient made from gradients: their ports are ``GradientRef`` or ``list[GradientRef]``.

    ``ratio`` asks them by key: ``self.first.ratio(place.key)``. Its layers are those of the given gradients.
    """


class LoraTool(Component):
    """A LoRA file made from models or from other LoRAs: ``lora`` answers it as a lazy model.

    Putting a LoRA *into* a model is an edit, not this: see :class:`ModelEdit`.
    """

    kind: ClassVar[str] = "lora"

    def lora(self) -> Model:
        """The new file, its tensors computed when read. Looks at headers only.

        What the model's headers cannot be known without reading data, such as ranks chosen by energy, it finds when
        asked; a model that says so (:class:`~daremerge_core.values.Unsettled`) is asked with all threads before its
        file is begun. Raises ``ValueError`` or a :class:`~daremerge_core.errors.DaremergeError` for inputs that do
        not fit.
        """
        raise NotImplementedError


class Reporter(Component):
    """Looks at the values on its ports and answers a :class:`~daremerge_core.values.Report`."""

    kind: ClassVar[str] = "report"

    def report(self, survey: Survey) -> Report:
        """What was found. Reads tensors with ``survey``, on all threads and within the memory budget."""
        raise NotImplementedError


KINDS: dict[str, type[Component]] = {
    cls.kind: cls for cls in (MergeMethod, Sparsifier, Refiner, ModelEdit, Masker, GradientFamily, LoraTool, Reporter)
}
"""Every kind of component by its word in recipes."""
