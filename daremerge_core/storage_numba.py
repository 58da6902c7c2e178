"""16-bit floats to float32 and back, compiled by numba for the CPU: the bits that torch's conversions give.

The processor converts halves itself; LLVM is told so by its own type for them, which numba does not offer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .compiled import compiled

__all__ = ["load_bfloat", "load_half", "possible", "store_bfloat", "store_half", "subtract_halves"]

_SHIFT = np.uint32(16)
_ONE = np.uint32(1)
_BELOW_HALF = np.uint32(0x7FFF)
_ALL_EXPONENT = np.uint32(0x7F800000)
_NO_SIGN = np.uint32(0x7FFFFFFF)
_NAN = np.uint16(0xFFFF)
"""What torch's vector code makes of any NaN."""

Values = NDArray[np.float32]
Stored = NDArray[np.uint16]


def possible() -> bool:
    """Whether the processor converts halves; numba would look for a function in C otherwise."""
    triple = binding.get_process_triple()
    return not triple.startswith(("x86", "i")) or bool(binding.get_host_cpu_features().get("f16c"))


def _widen(context: Any, bits: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


def _narrow(context: Any, value: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


_half_to_float: Any = intrinsic(_widen)
_float_to_half: Any = intrinsic(_narrow)


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


@compiled(types.void(types.uint32[::1], types.uint16[::1]))
def load_bfloat(out: NDArray[np.uint32], stored: Stored) -> None:
    """BF16 → the bits of float32."""
    for i in range(out.size):
        out[i] = np.uint32(stored[i]) << _SHIFT


@compiled(types.void(types.uint16[::1], types.uint32[::1]))
def store_bfloat(out: Stored, bits: NDArray[np.uint32]) -> None:
    """The bits of float32 → BF16, to nearest even."""
    for i in range(out.size):
        rounded = (bits[i] + _BELOW_HALF + ((bits[i] >> _SHIFT) & _ONE)) >> _SHIFT
        out[i] = _NAN if bits[i] & _NO_SIGN > _ALL_EXPONENT else np.uint16(rounded)
