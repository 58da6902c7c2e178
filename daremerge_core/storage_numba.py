"""16-bit floats to float32 and back, compiled by numba for the CPU: the bits that torch's conversions give.

The processor converts halves itself; LLVM is told so by its own type for them, which numba does not offer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .compiled import compiled

__all__ = ["load_bfloat", "load_half", "store_bfloat", "store_half", "subtract_halves"]

_SHIFT = np.uint32(16)
_ONE = np.uint32(1)
_BELOW_HALF = np.uint32(0x7FFF)
_ALL_EXPONENT = np.uint32(0x7F800000)
_NO_SIGN = np.uint32(0x7FFFFFFF)
_NAN = np.uint16(0xFFFF)
"""What torch's vector code makes of any NaN."""

Values = NDArray[np.float32]
Stored = NDArray[np.uint16]


def _widen(context: Any, bits: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


def _narrow(context: Any, value: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


def _as_float(context: Any, bits: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


def _as_bits(context: Any, value: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


_half_to_float: Any = intrinsic(_widen)
_float_to_half: Any = intrinsic(_narrow)
_float_of: Any = intrinsic(_as_float)
_bits_of: Any = intrinsic(_as_bits)


@njit(inline="always")
def _bfloat_to_float(bits: np.uint16) -> np.float32:
    return _float_of(np.uint32(bits) << _SHIFT)  # type: ignore[no-any-return]


@njit(inline="always")
def _float_to_bfloat(value: np.float32) -> np.uint16:
    bits = _bits_of(value)
    rounded = (bits + _BELOW_HALF + ((bits >> _SHIFT) & _ONE)) >> _SHIFT
    return _NAN if bits & _NO_SIGN > _ALL_EXPONENT else np.uint16(rounded)  # type: ignore[no-any-return]


@compiled(types.void(types.float32[::1], types.uint16[::1]))
def load_half(out: Values, stored: Stored) -> None:
    """F16 → float32."""
    for i in range(out.size):
        out[i] = _half_to_float(stored[i])


@compiled(types.void(types.float32[::1], types.uint16[::1], types.uint16[::1]))
def subtract_halves(out: Values, minuend: Stored, subtrahend: Stored) -> None:
    """The difference of two F16 in float32."""
    for i in range(out.size):
        out[i] = _half_to_float(minuend[i]) - _half_to_float(subtrahend[i])


@compiled(types.void(types.uint16[::1], types.float32[::1]))
def store_half(out: Stored, values: Values) -> None:
    """float32 → F16, to nearest even."""
    for i in range(out.size):
        out[i] = _float_to_half(values[i])


@compiled(types.void(types.float32[::1], types.uint16[::1]))
def load_bfloat(out: Values, stored: Stored) -> None:
    """BF16 → float32."""
    for i in range(out.size):
        out[i] = _bfloat_to_float(stored[i])


@compiled(types.void(types.uint16[::1], types.float32[::1]))
def store_bfloat(out: Stored, values: Values) -> None:
    """float32 → BF16, to nearest even."""
    for i in range(out.size):
        out[i] = _float_to_bfloat(values[i])
