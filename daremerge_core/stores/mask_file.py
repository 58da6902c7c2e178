"""Masks on disk: one bit for each element, in a safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import strict_json
from ..errors import ModelFileError
from ..printable import shortened
from ..values import Mask, Model, Span, TensorMeta
from .header import shape_problem
from .memory import MemoryModel
from .safetensors_file import SafetensorsFile
from .tensors import check_span, stored_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["MASK_METADATA", "BitMask", "MaskFile", "PackedMask", "hold_mask", "write_mask"]

MASK_METADATA = "daremerge.mask"
"""The metadata entry that makes a safetensors file a mask: JSON ``{"version": 1, "shapes": {tensor: [sizes]}}``."""

_VERSION = 1
_STEP = 1 << 18  # elements unpacked at a time: a multiple of 8


class PackedMask:
    """A mask as the model that is stored: for each tensor the bits of its mask, 8 to a byte, as U8 ``[ceil(n / 8)]``.

    Packs what is read, when it is read. Its metadata say the tensors' own shapes.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        shapes = {key: shape for key in mask.keys() if (shape := mask.shape(key)) is not None}
        self._masks = {key: TensorMeta(key, "BOOL", shape) for key, shape in shapes.items()}
        table = {"version": _VERSION, "shapes": dict(sorted(shapes.items()))}
        self._metadata = {MASK_METADATA: json.dumps(table, separators=(",", ":"))}

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def keys(self) -> Sequence[str]:
        return tuple(self._masks)

    def meta(self, key: str) -> TensorMeta:
        return TensorMeta(key, "U8", (_packed_size(self._masks[key]),))

    def elements(self, key: str, span: Span) -> Span:
        """The elements of a tensor whose bits are the bytes of ``span``."""
        return Span(8 * span.start, min(8 * span.stop, self._masks[key].numel))

    def read(self, key: str, span: Span | None = None) -> Tensor:
        """Packed bits, as U8. Raises ``KeyError`` for an unknown key, ``IndexError`` for a span outside it."""
        import torch

        return torch.from_numpy(self._packed(key, span or self.meta(key).whole))

    def raw(self, key: str, span: Span) -> memoryview:
        """As :meth:`read`, as bytes."""
        return self._packed(key, span).data

    def _packed(self, key: str, span: Span) -> NDArray[np.uint8]:
        import numpy as np

        from .kernels import pack_bits

        start, stop = self.elements(key, check_span(self.meta(key), span))
        pieces = (Span(at, min(at + _STEP, stop)) for at in range(start, stop, _STEP))
        packed = [pack_bits(selected(self.mask, key, piece)) for piece in pieces]
        return np.concatenate(packed) if packed else np.empty(0, np.uint8)

    def close(self) -> None:
        self.mask.close()


def selected(mask: Mask, key: str, span: Span) -> NDArray[np.bool_]:
    """Which elements of a span a mask selects, as an array; none of a tensor that it does not know."""
    import numpy as np

    if mask.shape(key) is None:
        return np.zeros(span.numel, np.bool_)
    if hasattr(mask, "selected"):  # it can say so without torch
        found: NDArray[np.bool_] = mask.selected(key, span)
        return found
    return mask.read(key, span).cpu().reshape(-1).numpy()


class BitMask:
    """A mask in a model that holds one: packed bits (U8, with their shapes in the metadata) or plain BOOL tensors.

    Bits are unpacked when asked for, and only those asked for. Raises :class:`~daremerge_core.errors.ModelFileError`,
    with ``source`` as the place, when the model is not a mask.
    """

    def __init__(self, model: Model, source: object = "mask") -> None:
        self._model = model
        self._source = source
        packed = _packed_shapes(source, model.metadata.get(MASK_METADATA))
        self._metas = {key: self._meta(key, packed) for key in model.keys()}
        if missing := packed.keys() - self._metas.keys():
            raise ModelFileError(f"{source}: the mask of tensor {shortened(min(missing))} is listed but not there.")

    def _meta(self, key: str, packed: Mapping[str, tuple[int, ...]]) -> TensorMeta:
        """What the mask of one tensor looks like unpacked; its dtype is that which is stored."""
        stored = self._model.meta(key)
        if stored.dtype == "BOOL" and key not in packed:
            return stored
        if key not in packed:
            raise ModelFileError(
                f"{self._source}: tensor {key!r} is {stored.dtype} and has no shape in the metadata: "
                "this is not a mask.",
                hint="A mask holds BOOL tensors, or packed bits as `daremerge` writes them. Is this a model?",
            )
        meta = TensorMeta(key, stored.dtype, packed[key])
        if stored.dtype != "U8" or stored.shape != (_packed_size(meta),):
            raise ModelFileError(
                f"{self._source}: the mask of tensor {key!r} is {stored.dtype} of shape {list(stored.shape)}, "
                f"but {meta.numel} packed bits are U8 of shape [{_packed_size(meta)}]."
            )
        return meta

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._model.metadata

    def keys(self) -> Sequence[str]:
        return tuple(self._metas)

    def shape(self, key: str) -> tuple[int, ...] | None:
        meta = self._metas.get(key)
        return None if meta is None else meta.shape

    def read(self, key: str, span: Span | None = None) -> Tensor:
        """A bool tensor. Raises ``KeyError`` for an unknown key, ``IndexError`` for a span outside it."""
        import torch

        meta = self._metas[key]
        flat = torch.from_numpy(self.selected(key, span or meta.whole))
        return flat.view(meta.shape) if span is None else flat

    def selected(self, key: str, span: Span) -> NDArray[np.bool_]:
        """As :meth:`read`, as an array."""
        import numpy as np

        from .kernels import unpack_bits

        meta = self._metas[key]
        start, stop = check_span(meta, span)
        if meta.dtype == "BOOL":
            whole_bytes = np.frombuffer(stored_bytes(self._model, key, span), np.uint8)
            return np.not_equal(whole_bytes, 0)  # any other byte than 0 is true
        first = start // 8
        packed = np.frombuffer(stored_bytes(self._model, key, Span(first, -(-stop // 8))), np.uint8)
        return unpack_bits(packed, start - 8 * first, stop - 8 * first)

    def count(self, key: str) -> int:
        """How many elements of a tensor are selected. Raises ``KeyError`` for an unknown key."""
        import numpy as np

        from .kernels import count_bits

        meta = self._metas[key]
        if meta.dtype == "BOOL":
            return int(self.selected(key, meta.whole).sum())
        return count_bits(
            np.frombuffer(stored_bytes(self._model, key, self._model.meta(key).whole), np.uint8), meta.numel
        )

    def close(self) -> None:
        self._model.close()


class MaskFile(BitMask):
    """A mask in a safetensors file. Raises :class:`~daremerge_core.errors.ModelFileError` when it is damaged."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = SafetensorsFile(path)
        self.path = self._file.path
        super().__init__(self._file, self.path)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files this mask is read from."""
        return self._file.paths

    def __enter__(self) -> MaskFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MaskFile({str(self.path)!r})"


def hold_mask(mask: Mask) -> BitMask:
    """A mask computed once and kept in memory, one bit for each element."""
    packed = PackedMask(mask)
    return BitMask(MemoryModel({key: packed.read(key) for key in packed.keys()}, packed.metadata))


def write_mask(
    path: str | os.PathLike[str],
    mask: Mask | Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a mask (or a dict of bool tensors) as packed bits, and return the path of the file.

    Reads some hundred thousand elements at a time. Raises :class:`~daremerge_core.errors.OutputError` where it cannot
    be written; nothing is left there then.
    """
    from .writer import SafetensorsWriter

    if isinstance(mask, Mapping):
        model = MemoryModel(mask)
        for meta in map(model.meta, model.keys()):
            if meta.dtype != "BOOL":
                raise TypeError(f"the mask of tensor {meta.key!r} is {meta.dtype}, not BOOL")
        mask = BitMask(model)
    packed = PackedMask(mask)
    metas = [packed.meta(key) for key in packed.keys()]
    with SafetensorsWriter(path, metas, {**(metadata or {}), **packed.metadata}, overwrite=overwrite) as writer:
        for meta in metas:
            for start in range(0, meta.numel, _STEP):
                writer.write(meta.key, start, packed.read(meta.key, Span(start, min(start + _STEP, meta.numel))))
        return writer.commit()[0]


def _packed_size(meta: TensorMeta) -> int:
    return -(-meta.numel // 8)


def _packed_shapes(path: object, described: str | None) -> dict[str, tuple[int, ...]]:
    if described is None:
        return {}
    try:
        table = strict_json.loads(described)
    except strict_json.JsonError as error:
        raise ModelFileError(f"{path}: metadata {MASK_METADATA!r} is not valid JSON: {error}.") from None
    version = table.get("version") if isinstance(table, dict) else None
    if type(version) is int and version > _VERSION:
        raise ModelFileError(
            f"{path}: a mask of version {shortened(version)}.", hint="A newer daremerge wrote it: upgrade."
        )
    shapes = table.get("shapes") if version == _VERSION and type(version) is int else None
    if not isinstance(shapes, dict):
        raise ModelFileError(f"{path}: metadata {MASK_METADATA!r} must have version 1 and shapes.")
    return {key: _shape(path, key, shape) for key, shape in shapes.items()}


def _shape(path: object, key: str, shape: Any) -> tuple[int, ...]:
    if problem := shape_problem(shape, 1):
        raise ModelFileError(f"{path}: the mask of tensor {shortened(key)}: {problem}.")
    return tuple(shape)
