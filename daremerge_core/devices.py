"""Where verbs are computed: which devices there are, how much they take at a time, how data get there and back.

A device's own memory is reached through page-locked memory, which it reads and writes by itself, and in an order of
its own for each worker (a CUDA stream): while one worker's span is on its way, another's is computed. None of it
changes a bit. Only CUDA (and ROCm, which torch calls so) has these; other devices copy as torch does.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import PlanError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["DEVICE_SPAN", "in_order", "resolve_device", "span_on", "to_cpu", "to_device"]

DEVICE_SPAN = 1 << 22
"""Elements computed at a time on a device, at most: enough that starting its programs takes little beside them."""


def resolve_device(name: str) -> str:
    """``auto`` → the best device torch sees. Raises PlanError for one that is not there."""
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).partition("\n")[0]
        raise PlanError(f"device {name!r} cannot be used: {first}", hint="Use --device auto or --device cpu.") from None
    return name


def span_on(name: str, per_element: int, workers: int) -> int:
    """Elements that each of some workers may compute at a time, by what is free on the device.

    Args:
        per_element: bytes of scratch an element takes.
    """
    if not _is_cuda(name):
        return DEVICE_SPAN
    import torch

    free, _ = torch.cuda.mem_get_info(name)
    return _span_within(free, per_element, workers)


def _span_within(free: int, per_element: int, workers: int) -> int:
    # Half of what is free: torch keeps blocks of the sizes it has seen, and others use the device too.
    return min(DEVICE_SPAN, max(free // 2 // (workers * per_element), 1))


@contextmanager
def in_order(name: str) -> Iterator[None]:
    """A worker's own order of copies and computations on a device, apart from those of other workers."""
    if not _is_cuda(name):
        yield
        return
    import torch

    own = torch.cuda.Stream(torch.device(name))  # type: ignore[no-untyped-call]
    # Tensors that were there before, of a program that hosts this one, may still be on their way.
    own.wait_stream(torch.cuda.default_stream(torch.device(name)))
    with torch.cuda.stream(own):
        yield


def to_device(found: Tensor, device: torch.device) -> Tensor:
    """``found`` on a device; itself if it is there."""
    if found.device == device:
        return found
    if device.type != "cuda" or found.device.type != "cpu":
        return found.to(device)
    # torch keeps page-locked blocks, and gives one out again only once the device has done reading it.
    return _page_locked_like(found).copy_(found).to(device, non_blocking=True)


def to_cpu(result: Tensor) -> Tensor:
    """``result`` in CPU memory, all there; itself if it is."""
    if result.device.type != "cuda":
        return result.cpu()
    import torch

    found = _page_locked_like(result).copy_(result, non_blocking=True)
    torch.cuda.current_stream(result.device).synchronize()
    return found


def _page_locked_like(one: Tensor) -> Tensor:
    import torch

    try:
        return torch.empty(one.shape, dtype=one.dtype, pin_memory=True)
    except RuntimeError:  # the system locks no more pages: a slower copy of the same bytes
        return torch.empty(one.shape, dtype=one.dtype)


def _is_cuda(name: str) -> bool:
    return name.partition(":")[0] == "cuda"
