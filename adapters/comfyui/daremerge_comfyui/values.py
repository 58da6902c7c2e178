"""What flows along the canvas beside MODEL and CLIP: masks, layer gradients, LoRAs.

They keep the interface that packs around this one know (``MODEL_MASK``, ``LAYER_GRADIENT``), and they are immutable:
a node that changes one returns a new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from daremerge_core import MemoryModel, Span
from daremerge_core.errors import DaremergeError

from .graph import Source, Step, Value
from .weights import PatchedWeights, patcher_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LayerGradient", "Lora", "ModelMask", "core_value", "gradient_value", "lora_value", "mask_value"]


# --- masks -----------------------------------------------------------------------------------------------


class ModelMask:
    """A MODEL_MASK: which elements of each weight may change. Computed when asked, one weight at a time."""

    def __init__(self, step: Step) -> None:
        self.step = step

    @property
    def state_dict(self) -> Mapping[str, Tensor]:
        """Bool tensors by name, for other packs: each is computed when it is looked up."""
        return _MaskTensors(self.step)

    def get_layer_mask(self, key: str) -> Tensor | None:
        """The mask of one weight; None where it has none."""
        return self.state_dict.get(key)


class _MaskTensors(Mapping[str, "Tensor"]):
    def __init__(self, step: Step) -> None:
        from .running import value_of

        self._mask = value_of(step)

    def __getitem__(self, key: str) -> Tensor:
        if self._mask.shape(key) is None:
            raise KeyError(key)
        found: Tensor = self._mask.read(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._mask.keys())

    def __len__(self) -> int:
        return len(self._mask.keys())


class _ForeignMask:
    """Another pack's MODEL_MASK, as the core reads masks."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def keys(self) -> list[str]:
        return list(self._tensors)

    def shape(self, key: str) -> tuple[int, ...] | None:
        return tuple(self._tensors[key].shape) if key in self._tensors else None

    def read(self, key: str, span: Span | None = None) -> Tensor:
        found = self._tensors[key].detach().bool().cpu()
        return found if span is None else found.reshape(-1)[span.start : span.stop]

    def close(self) -> None: ...


def mask_value(value: Any) -> Value:
    """What came through a MODEL_MASK socket, as part of a graph."""
    return value.step if isinstance(value, ModelMask) else Source(value)


# --- gradients ---------------------------------------------------------------------------------------------


class LayerGradient(dict[str, float]):
    """A LAYER_GRADIENT: a ratio for each weight; 1 keeps the first model, 0 takes the second."""

    def __init__(self, step: Step) -> None:
        from .running import value_of

        gradient = value_of(step)
        ratios = {key: gradient.ratio(key) for key in gradient.keys()}
        super().__init__({key: ratio for key, ratio in ratios.items() if ratio is not None})
        self.step = step
        self._made = dict(self)

    def is_as_made(self) -> bool:
        """False once another pack has written into it."""
        return dict(self) == self._made


class _Ratios:
    """Another pack's LAYER_GRADIENT, as the core reads gradients."""

    def __init__(self, ratios: Mapping[str, float]) -> None:
        self._ratios = ratios

    def keys(self) -> list[str]:
        return list(self._ratios)

    def ratio(self, key: str) -> float | None:
        return self._ratios.get(key)


def gradient_value(value: Any) -> Value:
    """What came through a LAYER_GRADIENT socket, as part of a graph."""
    if isinstance(value, LayerGradient) and value.is_as_made():
        return value.step
    return Source(value)


# --- LoRAs -----------------------------------------------------------------------------------------------------


class Lora(dict[str, Any]):
    """A LORA_MODEL: tensors by name, with the metadata of the file it came from or goes into."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, str],
        *,
        origin: Any = None,
        made: Step | None = None,
    ) -> None:
        super().__init__(tensors)
        self.metadata = dict(metadata)
        self.origin = origin
        """The file it came from."""
        self.made = made
        """The graph it was made by."""


def lora_value(value: Any) -> Value:
    """What came through a LORA_MODEL socket, as part of a graph."""
    return Source(value, getattr(value, "origin", None))


class _LoraModel(MemoryModel):
    """A LORA_MODEL of this or another pack, as the core reads models."""

    def __init__(self, lora: Mapping[str, Tensor]) -> None:
        super().__init__(lora, getattr(lora, "metadata", None))
        origin = getattr(lora, "origin", None)
        self.path = origin.name if origin is not None else ""
        """What reports and errors call it."""


# --- what the core sees ------------------------------------------------------------------------------------------


def core_value(source: Source) -> Any:
    """A leaf of the graph as a model, mask or gradient of the core, for one execution."""
    value = source.value
    if hasattr(value, "get_layer_mask"):
        return _ForeignMask(value.state_dict)
    if isinstance(value, Mapping):
        if any(hasattr(one, "shape") for one in value.values()):
            return _LoraModel(value)
        return _Ratios(value)
    if hasattr(value, "get_key_patches"):
        return PatchedWeights(*patcher_of(value))
    raise DaremergeError(
        f"a {type(value).__name__} came through a socket that takes models, masks, gradients or LoRAs",
        hint="Connect the output of a loader, or of a node of this pack.",
    )
