"""The dtypes a checkpoint can hold, under their safetensors names.

Importing this module does not import torch; :func:`torch_dtype` does, when called.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["BYTES", "FLOATS", "SPELLINGS", "dtype_name", "nbytes", "torch_dtype"]

BYTES: dict[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes per element of every dtype that can be read and written."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""The dtypes that merge; every other one passes through untouched."""

SPELLINGS: dict[str, str] = {
    "fp64": "F64",
    "fp32": "F32",
    "fp16": "F16",
    "bf16": "BF16",
    "fp8_e4m3": "F8_E4M3",
    "fp8_e5m2": "F8_E5M2",
}
"""What a user types for a storage dtype."""

_TORCH = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def nbytes(dtype: str, numel: int) -> int:
    """Bytes that ``numel`` elements of ``dtype`` take in a file."""
    return BYTES[dtype] * numel


@cache
def torch_dtype(name: str) -> torch.dtype:
    """``"F16"`` → ``torch.float16``."""
    import torch

    dtype = getattr(torch, _TORCH[name])
    assert isinstance(dtype, torch.dtype)
    return dtype


@cache
def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float16`` → ``"F16"``; raises ``KeyError`` for a dtype no checkpoint holds."""
    import torch

    names = {getattr(torch, attribute): name for name, attribute in _TORCH.items()}
    return names[dtype]
