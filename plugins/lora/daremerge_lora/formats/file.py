"""A LoRA file: its tensors sorted into modules, with the scale, rank and shape of each."""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Literal, get_args

from daremerge_core.errors import ModelFileError
from daremerge_core.values import Model, TensorMeta

from ..modules import Family, Module
from .peft import COMPONENTS, PeftConfig, read_configs
from .shapes import complete, factored_rank, weight_shape
from .slots import Spelling, Style, split

__all__ = ["FORMATS", "Format", "LoraFile", "open_lora"]

Format = Literal["kohya", "diffusers", "diffusers-old", "peft", "comfy", "other"]
"""How a file names its modules. ``kohya``: one prefix and underscores, as LyCORIS and OneTrainer do too; ``diffusers``:
component, dots, ``lora_A``; ``diffusers-old``: the same before PEFT; ``peft``: ``base_model.model.`` or bare;
``comfy``: the names of a checkpoint."""

FORMATS: tuple[Format, ...] = get_args(Format)

_KOHYA = re.compile(r"(lora_(unet|te\d?|transformer)|lycoris)_")
_COMFY = ("diffusion_model.", "model.diffusion_model.", "text_encoders.", "clip_l.", "clip_g.", "clip_h.", "t5xxl.")
_DIFFUSERS = tuple(f"{component}." for component in COMPONENTS)
_PEFT_ROOT = "base_model.model."


class LoraFile:
    """What a LoRA holds. Made by :func:`open_lora`; never changes; safe to share between threads."""

    model: Model
    """Where its tensors are read from."""
    name: str
    """What errors call it."""
    format: Format
    """That of most of its modules."""
    modules: Mapping[str, Module]
    """Name → module, in the order of the file."""
    unknown: tuple[str, ...]
    """Tensors that belong to no module: of families that are not understood (GLoRA, OFT, BOFT), of modules that lack a
    factor, and whatever else the file holds. Nothing is dropped: tensors are in a module or here."""

    def __init__(self, model: Model, name: str) -> None:
        self.model, self.name = model, name
        modules, formats, unknown = _sort(model)
        self.modules = MappingProxyType(modules)
        self.formats: Mapping[str, Format] = MappingProxyType(formats)
        """Module's name → how it is named; mixed files exist."""
        self.format = Counter(formats.values()).most_common(1)[0][0] if formats else "other"
        self.unknown = unknown
        self._alphas: dict[str, float] = {}

    def shape(self, module: Module) -> tuple[int, ...]:
        """The shape of the weight's change, as the trainer saw the weight; ``()`` if only the bias changes.

        ``(out, in)`` or ``(out, in, kh, kw)``; ``(out, in · kh · kw)`` for a convolution whose factors are matrices.
        Raises :class:`~daremerge_core.errors.ModelFileError` for tensors that do not fit together.
        """
        try:
            return weight_shape(module.family, self._shapes(module))
        except ValueError as error:
            raise self._damaged(module, error) from None

    def rank(self, module: Module) -> int | None:
        """The inner dimension of the factors; None where the change is not factored.

        Raises :class:`~daremerge_core.errors.ModelFileError` for factors that have no such dimension.
        """
        try:
            return factored_rank(module.family, self._shapes(module))
        except ValueError as error:
            raise self._damaged(module, error) from None

    def alpha(self, module: Module) -> float | None:
        """The module's alpha, if the file holds one as a tensor: read when asked for."""
        key = module.tensors.get("alpha")
        if key is None:
            return None
        if key not in self._alphas:
            self._alphas[key] = self._read_number(key)
        return self._alphas[key]

    def scale(self, module: Module) -> float:
        """What the product of the factors is multiplied by, before any strength.

        alpha / rank where there is an alpha tensor; else what PEFT's configuration in the metadata says; else 1. A
        change that is not factored has the scale 1 whatever alpha says, as LyCORIS and ComfyUI have it.
        Raises :class:`~daremerge_core.errors.ModelFileError` for an alpha, or a configuration, that is no such thing.
        """
        rank = self.rank(module)
        if rank is None or rank == 0:
            return 1.0
        alpha = self.alpha(module)
        if alpha is not None:
            return alpha / rank
        component, _, rest = module.name.partition(".")
        if component not in self._configs:
            component, rest = "", module.name
        if component not in self._configs:
            return 1.0
        return self._configs[component].scale(rest.removeprefix(_PEFT_ROOT), rank)

    @cached_property
    def _configs(self) -> dict[str, PeftConfig]:
        try:
            return read_configs(self.model.metadata)
        except ValueError as error:
            raise ModelFileError(
                f"{self.name}: {error}.", hint="The LoRA's strength depends on it: save the file again, or mend that."
            ) from None

    def _damaged(self, module: Module, error: ValueError) -> ModelFileError:
        return ModelFileError(
            f"{self.name}: module {module.name!r}: {error}.", hint="The file is damaged, or of an unknown kind."
        )

    def _shapes(self, module: Module) -> dict[str, tuple[int, ...]]:
        return {slot: self.model.meta(key).shape for slot, key in module.tensors.items()}

    def _read_number(self, key: str) -> float:
        meta = self.model.meta(key)
        value = _number(self.model, meta) if meta.numel == 1 else math.nan
        if not math.isfinite(value):
            said = value if meta.numel == 1 else f"of shape {meta.shape}"
            raise ModelFileError(f"{self.name}: {key!r} must be one finite number, and is {said}.")
        return value


_LAYOUTS = {"F64": "<d", "F32": "<f", "F16": "<e"}


def _number(model: Model, meta: TensorMeta) -> float:
    """The value of a tensor of one element; of a file in a usual dtype without torch, which takes long to import."""
    from daremerge_core.stores.tensors import gives_bytes

    if gives_bytes(model) and meta.dtype in _LAYOUTS:
        return float(struct.unpack(_LAYOUTS[meta.dtype], model.raw(meta.key, meta.whole))[0])
    return float(model.read(meta.key).item())


def open_lora(model: Model, *, name: str = "") -> LoraFile:
    """Sort the tensors of a file into LoRA modules, from its header alone.

    ``name`` is what errors call it: by default its path, if it has one.
    """
    return LoraFile(model, name or str(getattr(model, "path", "") or "the LoRA"))


def _sort(model: Model) -> tuple[dict[str, Module], dict[str, Format], tuple[str, ...]]:
    found: dict[str, dict[str, tuple[str, Spelling]]] = {}
    families: dict[str, Family] = {}
    unknown: set[str] = set()
    for key in model.keys():
        spelling = split(key)
        if spelling is None:
            unknown.add(key)
            continue
        slots = found.setdefault(spelling.module, {})
        family = spelling.family
        if spelling.slot in slots or (family and families.setdefault(spelling.module, family) != family):
            unknown.add(key)  # a second adapter, or a second family, of one layer
            continue
        slots[spelling.slot] = (key, spelling)
    modules: dict[str, Module] = {}
    formats: dict[str, Format] = {}
    for name, slots in found.items():
        family = families.get(name, "full")
        if not complete(family, frozenset(slots)):
            unknown.update(key for key, _ in slots.values())
            continue
        modules[name] = Module(name, family, MappingProxyType({slot: key for slot, (key, _) in slots.items()}))
        formats[name] = _format(name, next((one.style for _, one in slots.values() if one.family), "lycoris"))
    return modules, formats, tuple(key for key in model.keys() if key in unknown)


def _format(module: str, style: Style) -> Format:
    if _KOHYA.match(module):
        return "kohya"
    if module.startswith(_COMFY):
        return "comfy"
    if style == "old":
        return "diffusers-old"
    if module.startswith(_DIFFUSERS):
        return "diffusers"
    return "peft" if style == "peft" or module.startswith(_PEFT_ROOT) else "other"
