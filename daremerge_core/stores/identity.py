"""Content identity: a name for what a model holds, whatever file or folder holds it.

The identity is ``blake3:`` and the 64 hex digits of a BLAKE3 hash (O'Connor et al., 2020) over this sequence of bytes:

- the line ``daremerge content identity 1`` and a line feed;
- for each metadata entry, sorted by name: ``M``, the name, the text;
- for each tensor, sorted by name: ``T``, the name, its safetensors dtype, the number of its dimensions, the sizes,
  and the tensor's digest (32 bytes).

Names and text are UTF-8, preceded by their length; lengths, counts and sizes are 8 bytes, little-endian. A tensor's
digest is the BLAKE3 of the concatenated BLAKE3 digests of its *leaves*: consecutive pieces of 4 MiB (the last may be
shorter; an empty tensor has none) of its elements as little-endian bytes, in row-major order.

So it does not depend on the container, nor on the order of tensors, and leaves can be hashed in parallel.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from .. import dtypes
from ..values import Model, Span, TensorMeta
from .files import open_regular
from .tensors import stored_bytes

__all__ = ["LEAF_BYTES", "IdentityBuilder", "Leaf", "content_identity", "file_identity"]

LEAF_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Leaf:
    """One piece to hash: elements ``span`` of tensor ``key``, the ``index``-th leaf of that tensor."""

    key: str
    index: int
    span: Span


class IdentityBuilder:
    """Gathers the hashes of a model's leaves, in any order and from any thread.

    For an engine with a pool of its own; :func:`content_identity` is the plain way::

        builder = IdentityBuilder.of(model)
        for leaf in builder.leaves():
            pool.submit(builder.hash_leaf, model, leaf)
        ...  # once all are done
        identity = builder.identity()
    """

    def __init__(self, tensors: Iterable[TensorMeta], metadata: Mapping[str, str]) -> None:
        self._metas = sorted(tensors, key=lambda meta: meta.key.encode())
        self._metadata = dict(metadata)
        self._digests: dict[str, list[bytes | None]] = {meta.key: [None] * _leaf_count(meta) for meta in self._metas}

    @classmethod
    def of(cls, model: Model) -> IdentityBuilder:
        return cls((model.meta(key) for key in model.keys()), model.metadata)

    def leaves(self) -> Iterator[Leaf]:
        """Everything there is to hash, tensor by tensor in order of their names."""
        for meta in self._metas:
            step = LEAF_BYTES // dtypes.BYTES[meta.dtype]
            for index, start in enumerate(range(0, meta.numel, step)):
                yield Leaf(meta.key, index, Span(start, min(start + step, meta.numel)))

    def add(self, leaf: Leaf, data: memoryview) -> None:
        """Hash the bytes of one leaf: its elements in their stored dtype, little-endian."""
        # BLAKE3 lets go of the interpreter while it works, so threads run side by side.
        self._digests[leaf.key][leaf.index] = blake3(data).digest()

    def hash_leaf(self, model: Model, leaf: Leaf) -> None:
        """Read one leaf from the model and hash it."""
        self.add(leaf, stored_bytes(model, leaf.key, leaf.span))

    def identity(self) -> str:
        """``"blake3:<64 hex digits>"``. Raises ``RuntimeError`` when a leaf has not been added."""
        whole = blake3(b"daremerge content identity 1\n")
        for name, text in sorted((name.encode(), text.encode()) for name, text in self._metadata.items()):
            whole.update(b"M" + _counted(name) + _counted(text))
        for meta in self._metas:
            digests = [digest for digest in self._digests[meta.key] if digest is not None]
            if len(digests) != _leaf_count(meta):
                raise RuntimeError(f"{_leaf_count(meta) - len(digests)} leaves of {meta.key!r} have not been hashed")
            whole.update(b"T" + _counted(meta.key.encode()) + _counted(meta.dtype.encode()))
            whole.update(_number(len(meta.shape)) + b"".join(map(_number, meta.shape)))
            whole.update(blake3(b"".join(digests)).digest())
        return f"blake3:{whole.hexdigest()}"


def content_identity(model: Model, *, threads: int | None = None) -> str:
    """The identity of what ``model`` holds: ``"blake3:<64 hex digits>"``; the same for any number of threads.

    Reads the whole model, at about the speed of memory. ``threads`` defaults to the number of cores.
    """
    from concurrent.futures import ThreadPoolExecutor

    builder = IdentityBuilder.of(model)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        try:
            for done in [pool.submit(builder.hash_leaf, model, leaf) for leaf in builder.leaves()]:
                done.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # do not go on reading after an error or an interrupt
            raise
    return builder.identity()


def file_identity(path: str | os.PathLike[str]) -> str:
    """The identity of a mask or gradient file: ``"blake3:<64 hex digits>"`` of its bytes, as ``b3sum`` prints them.

    Those have one container, and are small beside a model.
    """
    digest = blake3()
    with open_regular(Path(path)) as file:
        while block := file.read(LEAF_BYTES):
            digest.update(block)
    return f"blake3:{digest.hexdigest()}"


def _leaf_count(meta: TensorMeta) -> int:
    return -(-dtypes.nbytes(meta.dtype, meta.numel) // LEAF_BYTES)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _counted(text: bytes) -> bytes:
    return _number(len(text)) + text
