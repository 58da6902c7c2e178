"""Measuring passes: what a component must know of whole tensors, or of the whole model, before its verb can answer.

A pass is a sum over the tensors of a group (see :meth:`.TensorComponent.group`), taken in a fixed order; what
``conclude`` makes of it is kept. Groups of one tensor are measured when that tensor is first read, larger ones ahead
of time by :meth:`Measurements.prepare`, in parallel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Measured = NDArray[np.int64] | NDArray[np.float64]

__all__ = ["Kept", "Measurements", "add_up"]

InOrder = Callable[
    [Callable[[tuple[str, str]], Any], Sequence[tuple[str, str]], Callable[[tuple[str, str], Any], None]], None
]
"""Applies a function to items, in parallel, and gives each result to a second function, in the order of the items."""


class Kept(NamedTuple):
    """What is kept of a finished pass.

    As a list where the numbers are few: a small array on the heap, among the large ones that come and go, would keep
    the space before it from being used again, for every tensor of the model.
    """

    numbers: Any
    dtype: str

    @classmethod
    def of(cls, numbers: Measured) -> Kept:
        return cls(numbers.tolist() if numbers.size <= 64 else numbers, numbers.dtype.name)

    def array(self) -> Measured:
        import numpy as np

        return np.asarray(self.numbers, self.dtype)

    def tensor(self) -> Tensor:
        import torch

        return torch.from_numpy(self.array())


class Measurements:
    """The measuring passes of one component over one model.

    Args:
        passes: how many there are.
        keys: the tensors that the component computes.
        group: the group of a tensor.
        share: what a tensor adds to a pass, given what the passes before it kept.
        conclude: what is kept of a pass, given a tensor of the group, the sum, and what was kept before.
    """

    def __init__(
        self,
        passes: int,
        keys: Callable[[], Iterable[str]],
        group: Callable[[str], str],
        share: Callable[[str, tuple[Kept, ...]], Measured],
        conclude: Callable[[str, Measured, tuple[Kept, ...]], Measured],
    ) -> None:
        self.passes = passes
        self._keys, self._group, self._share, self._conclude = keys, group, share, conclude
        self._groups: dict[str, list[str]] | None = None
        self._finished: dict[str, tuple[Kept, ...]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def groups(self) -> Mapping[str, Sequence[str]]:
        """The tensors that are measured together, by the name of their group."""
        with self._lock:
            if self._groups is None:
                self._groups = {}
                for key in self._keys():
                    self._groups.setdefault(self._group(key), []).append(key)
            return self._groups

    def of(self, key: str) -> tuple[Kept, ...]:
        """What was measured for a tensor; measured now if it is not there yet."""
        if not self.passes:
            return ()
        name = self._group(key)
        keys = self.groups()[name]
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._finished:
                done: tuple[Kept, ...] = ()
                for _ in range(self.passes):
                    done = self._next(key, add_up(self._share(one, done) for one in keys), done)
                self._finished[name] = done
            return self._finished[name]

    def to_prepare(self) -> list[str]:
        """The tensors that :meth:`prepare` reads, each as often as there are passes."""
        return [key for _ in range(self.passes) for _, key in self._shared()]

    def prepare(self, run_in_order: InOrder, *, advance: Callable[[str], None] = lambda key: None) -> None:
        """Take every measurement that covers more than one tensor, in parallel.

        Args:
            advance: told each tensor that is done.
        """
        jobs = self._shared()
        done: dict[str, tuple[Kept, ...]] = {name: () for name, _ in jobs}
        first = dict(reversed(jobs))

        def share(job: tuple[str, str]) -> Measured:
            name, key = job
            found = self._share(key, done[name])
            advance(key)
            return found

        for _ in range(self.passes if jobs else 0):
            totals: dict[str, Measured] = {}
            run_in_order(share, jobs, partial(_add_to, totals))
            done = {name: self._next(first[name], totals[name], before) for name, before in done.items()}
        self._finished |= done

    def _next(self, key: str, total: Measured, done: tuple[Kept, ...]) -> tuple[Kept, ...]:
        return (*done, Kept.of(self._conclude(key, total, done)))

    def _shared(self) -> list[tuple[str, str]]:
        """(group, tensor) for the tensors that are measured together with others, and were not yet."""
        groups = self.groups() if self.passes else {}
        return [
            (name, key) for name, keys in groups.items() if len(keys) > 1 and name not in self._finished for key in keys
        ]


def add_up(shares: Iterable[Any]) -> Any:
    """Sum in order: the order of additions is part of the result's definition."""
    several = iter(shares)
    total = next(several)
    for share in several:
        total = total + share
        break  # from here on the sum is nobody else's
    for share in several:
        total += share
    return total


def _add_to(totals: dict[str, Measured], job: tuple[str, str], share: Measured) -> None:
    name, _ = job
    totals[name] = totals[name] + share if name in totals else share
