"""Loops compiled by numba, for where an author has measured that they pay.

Put them in a module of their own beside a reference in torch that gives the same bits, and import that module only
where :func:`daremerge_core.rng.accelerated` says that numba is there. Importing this module does not import numba.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["compilable", "compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compilable(*tensors: Tensor) -> bool:
    """Whether compiled loops may do it: numba is there, and all tensors are float32, on the CPU and contiguous."""
    import torch

    from .rng import accelerated

    return accelerated() and all(
        one.dtype == torch.float32 and one.device.type == "cpu" and one.is_contiguous() for one in tensors
    )


def compiled(signature: Any) -> Callable[[F], F]:
    """Compile a function for one signature of numba types when it is first called: a run pays for what it uses.

    The GIL is released, arithmetic is not reordered, and the machine code is cached on disk where there is a folder to
    write the cache to.
    """

    def decorate(function: F) -> F:
        lock = Lock()
        machine_code: list[F] = []

        @wraps(function)
        def call(*arguments: Any) -> Any:
            if not machine_code:
                with lock:
                    if not machine_code:
                        machine_code.append(_compile(function, signature))
            return machine_code[0](*arguments)

        return call  # type: ignore[return-value]

    return decorate


def _compile(function: F, signature: Any) -> F:
    from numba import njit

    # Numbers are divided as NumPy does it: looking for zeros would keep the loop from being vector code.
    how: Any = {"nogil": True, "fastmath": False, "error_model": "numpy"}
    try:
        return njit(signature, cache=True, **how)(function)  # type: ignore[no-any-return]
    except (RuntimeError, OSError):  # numba finds no folder it may write to, or the disk is full
        return njit(signature, **how)(function)  # type: ignore[no-any-return]
