"""A MODEL or CLIP of the canvas as a model of the core: its weights as they take effect, read on demand.

What takes effect are the weights as loaded, with the patches of this very patcher applied: LoRAs and earlier merges
included. The live module is never patched or read for it: it may hold the patches of another clone just now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from daremerge_core import Span, TensorMeta
from daremerge_core.dtypes import dtype_name, torch_dtype
from daremerge_core.errors import ModelFileError

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

__all__ = ["Part", "PatchedWeights", "patcher_of"]

Part = Literal["unet", "clip"]

_PREFIX: Mapping[Part, str] = {"unet": "diffusion_model.", "clip": ""}
"""Beside the network itself, a MODEL's state dict holds tables of its noise schedule."""

_NOT_WEIGHTS: Mapping[Part, tuple[str, ...]] = {
    "unet": (),
    "clip": (".position_ids", ".logit_scale"),
}
_SCALES = (".scale_weight", ".scale_input", ".weight_scale", ".input_scale", ".comfy_quant", "scaled_fp8")
"""What belongs to a quantised weight, and is no weight itself."""

_DECODED = "BF16"
"""What a quantised weight is merged and attached as: fp8 has too few digits to hold a merge."""
_QUANTISED = frozenset({"F8_E4M3", "F8_E5M2"})


def patcher_of(value: Any) -> tuple[ModelPatcher, Part]:
    """The patcher of what came through a MODEL or CLIP socket, and which part of a checkpoint it is."""
    return (value.patcher, "clip") if hasattr(value, "cond_stage_model") else (value, "unet")


class PatchedWeights:
    """The effective weights of one patcher, as a :class:`~daremerge_core.Model`.

    Make a new one for each execution: it looks at where the weights are now, and a model may have been loaded,
    unloaded or patched by the next.

    Raises :class:`~daremerge_core.errors.ModelFileError` for weights that cannot be decoded, naming the first.
    """

    def __init__(self, patcher: ModelPatcher, part: Part, *, whole: bool = False) -> None:
        """``whole``: with what is no weight too, as a file holds it."""
        skip = _SCALES if whole else (*_NOT_WEIGHTS[part], *_SCALES)
        self._sources = {
            key: source
            for key, source in patcher.get_key_patches(_PREFIX[part] or None).items()
            if not key.endswith(skip)
        }
        self._metas = {key: _meta(key, source[0][0]) for key, source in self._sources.items()}

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    def keys(self) -> Sequence[str]:
        return tuple(self._metas)

    def meta(self, key: str) -> TensorMeta:
        return self._metas[key]

    def read(self, key: str, span: Span | None = None) -> Tensor:
        """The weight in CPU memory, rounded to the dtype it is stored in, as it is when the model runs."""
        weight, convert = self._sources[key][0]
        patches = self._sources[key][1:]
        last = _whole_replacement(patches)
        dtype = torch_dtype(self._metas[key].dtype)
        if last is not None:
            found = last
        elif patches:
            found = _patched(key, _decoded(weight, convert, fresh=True), patches)
        elif _is_plain(weight):
            found = weight
        else:
            found = _decoded(weight, convert, fresh=False)
        found = found.detach()
        if span is not None:
            found = found.reshape(-1)[span.start : span.stop]
        return found.to("cpu", dtype).contiguous()

    def needs_whole(self, key: str) -> bool:
        """Whether reading a span computes the whole tensor: a LoRA's product, a quantised weight's scale."""
        weight, *patches = (self._sources[key][0][0], *self._sources[key][1:])
        return _whole_replacement(patches) is None and (bool(patches) or not _is_plain(weight))

    def working_bytes(self, key: str, numel: int) -> int:
        """fp32 copies of the tensor: the weight, a patch, and their sum."""
        return 3 * 4 * self._metas[key].numel if self.needs_whole(key) else 4 * numel

    def changed(self) -> Iterable[str]:
        """The weights that have patches."""
        return (key for key, source in self._sources.items() if len(source) > 1)

    def close(self) -> None:
        """Let go of the weights."""
        self._sources = {}


def _meta(key: str, weight: Tensor) -> TensorMeta:
    shape = tuple(getattr(weight, "tensor_shape", weight.shape))
    try:
        dtype = dtype_name(weight.dtype)
    except KeyError:
        dtype = ""
    if not dtype or (not weight.is_floating_point() and len(shape) > 1) or weight.is_meta:
        raise ModelFileError(
            f"the weight {key!r} is stored as {type(weight).__name__} of {str(weight.dtype).removeprefix('torch.')}, "
            "which cannot be decoded here",
            hint="Load the model in fp16, bf16, fp32 or fp8.",
        )
    return TensorMeta(key, _DECODED if dtype in _QUANTISED else dtype, shape)


def _is_plain(weight: Tensor) -> bool:
    return dtype_name(weight.dtype) not in _QUANTISED


def _decoded(weight: Tensor, convert: Any, *, fresh: bool) -> Tensor:
    """The weight in fp32: ``fresh`` for a copy that may be written into."""
    import torch

    if hasattr(weight, "dequantize") and hasattr(weight, "_layout_type"):
        return weight.dequantize().to(torch.float32, copy=fresh)
    wide: Tensor = convert(weight.to(torch.float32, copy=True), inplace=True)
    return wide


def _patched(key: str, weight: Tensor, patches: Sequence[Any]) -> Tensor:
    import comfy.lora

    found: Tensor = comfy.lora.calculate_weight(patches, weight, key)
    return found


def _whole_replacement(patches: Sequence[Any]) -> Tensor | None:
    """The tensor that the last patch puts in place of all before it, if that is what it does."""
    if not patches:
        return None
    _, value, _, offset, function = patches[-1]
    if offset is None and function is None and isinstance(value, tuple) and len(value) == 2 and value[0] == "set":
        found: Tensor = value[1][0]
        return found
    return None
