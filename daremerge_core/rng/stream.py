"""A random stream: one key, and a number for every element index.

Nothing is drawn from a state that moves on, so asking for a span twice, in pieces or from several threads
gives the same numbers, and no global generator (torch's, numpy's, Python's) is read or written.

Importing this module imports neither torch nor numba.
"""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from daremerge_core.values import Span

if TYPE_CHECKING:
    from types import ModuleType

    import torch
    from torch import Tensor

__all__ = ["Stream", "accelerated"]

_DEFINITION = "daremerge stream 1"
"""First field of every key. It changes if the numbers ever do, so that no two definitions share a stream."""

_MAX_INDEX = 2**63 - 1
_CPU_BLOCK = 2**16
_DEVICE_BLOCK = 2**22


@dataclass(frozen=True, slots=True)
class Stream:
    """The random numbers of one tensor: element ``i`` depends on ``key`` and ``i`` alone.

    Every method takes a :class:`~daremerge_core.values.Span` of element indices and returns a 1-D tensor of
    ``span.numel`` elements, so ``draw([a, c)) == draw([a, b)) ++ draw([b, c))``. All of them raise ``ValueError``
    for a span that is reversed or leaves ``[0, 2**63 - 1]``.

    Safe to use from several threads: a stream has no state.
    """

    key: int
    """64 bits; its low 32 are Philox's first key word, its high 32 the second."""

    def __post_init__(self) -> None:
        if not 0 <= self.key < 2**64:
            raise ValueError(f"a stream's key is an integer in [0, 2**64), not {self.key}")

    @classmethod
    def derive(cls, seed: int, component: str, tensor: str, model: int = 0, draw: int = 0) -> Stream:
        """The stream of one tensor in one component.

        The key is the first 8 bytes, little-endian, of the BLAKE2b-512 digest of six fields in this order: the
        text ``daremerge stream 1``, ``seed``, ``component``, ``tensor``, ``model``, ``draw``. A field is its length
        in bytes as 8 bytes little-endian, then those bytes: UTF-8 for text, signed lowercase hexadecimal in ASCII
        (``0``, ``2a``, ``-ff``) for an integer. The lengths keep ``("ab", "c")`` apart from ``("a", "bc")``.

        Args:
            seed: the user's seed; any integer, negative or beyond 64 bits too.
            component: what draws, such as ``"dare"``; two components with one seed are independent.
            tensor: the tensor's name; two tensors of one shape are independent.
            model: index of the model among those merged, so that each has its own mask.
            draw: which draw, for a component that needs more than one number per element.

        Raises:
            TypeError: ``seed``, ``model`` or ``draw`` is not an integer.
        """
        hashed = hashlib.blake2b()
        for field in (_DEFINITION, _hexadecimal(seed), component, tensor, _hexadecimal(model), _hexadecimal(draw)):
            # "surrogatepass": JSON lets a tensor's name hold a lone surrogate, which strict UTF-8 refuses.
            data = field.encode("utf-8", "surrogatepass")
            hashed.update(len(data).to_bytes(8, "little") + data)
        return cls(int.from_bytes(hashed.digest()[:8], "little"))

    def bits(self, span: Span, device: torch.device | str = "cpu") -> Tensor:
        """32 uniform bits per element, as int64 in ``[0, 2**32)``: what every other draw is made from.

        Element ``i`` is word ``i % 4`` of Philox4x32-10 at the counter ``i // 4``, whose four words are
        ``(low 32 bits, high 32 bits, 0, 0)``. Exact on every device.
        """
        import torch

        out = torch.empty(_checked(span).numel, dtype=torch.int64, device=device)
        if (fast := _fast(out.device)) is not None:
            fast.bits_into(out.numpy(), *self._words, span.start)
        else:
            from daremerge_core.rng import philox_torch

            for piece, into in _pieces(span, out):
                into.copy_(philox_torch.bits(*self._words, piece.start, piece.stop, out.device))
        return out

    def keep(self, span: Span, density: float, device: torch.device | str = "cpu") -> Tensor:
        """A bool mask that keeps each element with probability ``density``, independently. Exact on every device.

        An element is kept when its bits are below ``round(density * 2**32)``, so the probability has a resolution
        of ``2**-32``; 0 keeps nothing and 1 keeps all. The masks of one stream are nested: what a lower density
        keeps, a higher one keeps too.

        Raises:
            ValueError: ``density`` is outside ``[0, 1]`` or not a number.
        """
        import torch

        threshold = self.threshold(density)
        out = torch.empty(_checked(span).numel, dtype=torch.bool, device=device)
        if (fast := _fast(out.device)) is not None:
            fast.keep_into(out.view(torch.uint8).numpy(), *self._words, span.start, threshold)
            return out
        return self._map(span, out, lambda bits: bits < threshold)

    def thin(self, values: Tensor, start: int, density: float, scale: float = 1.0) -> Tensor:
        """``values`` times ``scale`` where :meth:`keep` keeps, zero elsewhere, also where a value is NaN or infinite.

        The same as a mask and a product, in one go.

        Args:
            values: any shape, in row-major order from element ``start`` of the tensor on.
        """
        import torch

        from daremerge_core.kernels import select

        threshold, span = self.threshold(density), _checked(Span(start, start + values.numel()))
        suitable = values.dtype == torch.float32 and values.is_contiguous() and threshold
        if suitable and (fast := _fast(values.device)) is not None:
            out = torch.empty_like(values)
            arrays = (out.reshape(-1).numpy(), values.reshape(-1).numpy())
            fast.thin_into(*arrays, *self._words, span.start, threshold, scale)
            return out
        keep = self.keep(span, density, values.device).reshape(values.shape)
        return select(keep, values if scale == 1.0 else values * scale)

    @staticmethod
    def threshold(density: float) -> int:
        """What an element's bits are below where :meth:`keep` keeps it: 0 to ``2**32``."""
        if not 0 <= density <= 1:
            raise ValueError(f"density is a probability in [0, 1], not {density}")
        return round(float(density) * 2.0**32)  # exact: scaling by a power of two only moves the exponent

    def uniform(self, span: Span, device: torch.device | str = "cpu") -> Tensor:
        """Uniform float32 in ``[0, 1)``: the upper 24 bits times ``2**-24``. Exact on every device."""
        import torch

        out = torch.empty(_checked(span).numel, dtype=torch.float32, device=device)
        return self._map(span, out, lambda bits: (bits >> 8).to(torch.float32) * 2.0**-24)

    def normal(self, span: Span) -> Tensor:
        """Standard normal float32, always made on the CPU; move it to where it is wanted.

        The inverse normal distribution function (Wichura's AS 241) at ``(bits + 0.5) * 2**-32``, in float64
        arithmetic that IEEE 754 rounds the same everywhere, so every CPU gives the same bytes. A GPU is free to fuse
        a multiplication with an addition, which is why there is no ``device``. Values lie within ±6.34.
        """
        import torch

        from daremerge_core.rng.normal import normal

        out = torch.empty(_checked(span).numel, dtype=torch.float32, device="cpu")
        return self._map(span, out, lambda bits: torch.from_numpy(normal(bits.numpy())))

    @property
    def _words(self) -> tuple[int, int]:
        return self.key & 0xFFFFFFFF, self.key >> 32

    def _map(self, span: Span, out: Tensor, of_bits: Callable[[Tensor], Tensor]) -> Tensor:
        """Fill ``out`` with ``of_bits`` of the bits of ``span``, piece by piece."""
        for piece, into in _pieces(span, out):
            into.copy_(of_bits(self.bits(piece, out.device)))
        return out


def accelerated() -> bool:
    """Whether streams on the CPU come from numba (the ``fast`` extra) rather than torch: same bits, sooner.

    True when numba can be imported and compiles, and the environment variable ``DAREMERGE_FAST`` is not ``0``.
    The first call imports numba; the variable is read anew each time.
    """
    return os.environ.get("DAREMERGE_FAST") != "0" and _numba_kernel() is not None


@cache
def _numba_kernel() -> ModuleType | None:
    try:
        from numba import config

        from daremerge_core.rng import philox_numba
    except ImportError:  # absent, or too old or too new for the numpy beside it
        return None
    interpreted = getattr(config, "DISABLE_JIT", False)  # NUMBA_DISABLE_JIT=1: right, but slower than torch by far
    return None if interpreted else philox_numba


def _hexadecimal(number: int) -> str:
    return format(operator.index(number), "x")


def _fast(device: torch.device) -> ModuleType | None:
    return _numba_kernel() if device.type == "cpu" and accelerated() else None


def _checked(span: Span) -> Span:
    if not 0 <= span.start <= span.stop <= _MAX_INDEX:
        raise ValueError(f"a span is 0 <= start <= stop <= 2**63 - 1, not [{span.start}, {span.stop})")
    return span


def _pieces(span: Span, out: Tensor) -> Iterator[tuple[Span, Tensor]]:
    """Cut ``span``, and ``out`` alongside, so that temporaries stay in the CPU's caches or small on a device."""
    size = _CPU_BLOCK if out.device.type == "cpu" else _DEVICE_BLOCK
    for start in range(span.start, span.stop, size):
        stop = min(start + size, span.stop)
        yield Span(start, stop), out[start - span.start : stop - span.start]
