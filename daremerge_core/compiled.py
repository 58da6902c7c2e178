"""Loops compiled by numba, for where an author has measured that they pay.

Put them in a module of their own beside a reference in torch that gives the same bits, and import that module only
where :func:`daremerge_core.rng.accelerated` says that numba is there. Importing this module does not import numba.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
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
    loop: Any = njit(nogil=True, fastmath=False, error_model="numpy")(function)
    with suppress(RuntimeError, OSError):  # numba finds no folder it may write to
        loop._cache = _cache(function)
    try:
        loop.compile(signature)
        loop.disable_compile()  # for other types: a number in Python is taken for what the signature says
    except OSError:  # the disk is full
        loop = njit(signature, nogil=True, fastmath=False, error_model="numpy")(function)
    return loop  # type: ignore[no-any-return]


def _cache(function: Callable[..., Any]) -> Any:
    """numba's cache of a function's machine code, which heeds that code of other modules is compiled into it.

    numba's own looks at the function's file alone, and would go on with old code when a module that it uses is new.
    """
    from numba.core.caching import FunctionCache

    class Cache(FunctionCache):
        def _index_key(self, *about: Any) -> Any:
            return (*super()._index_key(*about), _sources())  # type: ignore[no-untyped-call]

    return Cache(function)  # type: ignore[no-untyped-call]


@functools.cache
def _sources() -> str:
    """A digest of this package's compiled modules."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.rglob("*_numba.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
