"""Real checkpoints without their weights, for tests and benchmarks that must meet what users have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..layout.published import NAMES, load
from ..values import Span, TensorMeta

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NAMES", "HeaderModel", "load"]


class HeaderModel:
    """A model that has headers and no data: for what must be known, or go wrong, before any data is read."""

    def __init__(self, metas: Mapping[str, TensorMeta]) -> None:
        """``metas``: such as :func:`load` gives."""
        self._metas = dict(metas)

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    def keys(self) -> Sequence[str]:
        return list(self._metas)

    def meta(self, key: str) -> TensorMeta:
        return self._metas[key]

    def read(self, key: str, span: Span | None = None) -> Tensor:
        raise AssertionError("only headers may be read here")

    def close(self) -> None: ...
