"""Gradients on disk: a JSON file that a person can read and edit."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .. import strict_json
from ..errors import ComponentError, ModelFileError, nearest
from ..printable import shortened
from .atomic import write_text
from .files import read_text
from .header import name_problem

__all__ = ["GradientFile", "write_gradient"]

_VERSION = 1
_FIELDS = ("daremerge", "version", "made_by", "ratios")
_MAX_BYTES = 64 << 20


class GradientFile:
    """The ratio of each tensor, as listed in a JSON file; a tensor that is not listed has none (A stays as it is).

    Raises :class:`~daremerge_core.errors.ModelFileError` naming the tensor, and where it can the line, for a file
    that is not a gradient or a ratio that is not a finite number or null.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        text = read_text(self.path, _MAX_BYTES, what="a gradient file, which is JSON text")
        table = _table(self.path, text)
        self._made_by = MappingProxyType(table["made_by"])
        self._ratios = {key: _ratio(self.path, text, key, value) for key, value in table["ratios"].items()}
        for key in self._ratios:
            if problem := name_problem(key):
                raise ModelFileError(f"{self.path}: tensor {shortened(key)}: {problem}.")

    @property
    def made_by(self) -> Mapping[str, Any]:
        """The family and parameters that the ratios came from, as far as the file says."""
        return self._made_by

    def keys(self) -> Sequence[str]:
        """The tensors listed, in the order of the file."""
        return tuple(self._ratios)

    def ratio(self, key: str) -> float | None:
        return self._ratios.get(key)

    def __repr__(self) -> str:
        return f"GradientFile({str(self.path)!r})"


def write_gradient(
    path: str | os.PathLike[str],
    ratios: Mapping[str, float | None],
    made_by: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write ratios in the order given, at once or not at all, and return the path of the file.

    ``made_by`` is for people: JSON that says which family and parameters gave the ratios. Raises
    :class:`~daremerge_core.errors.ComponentError` for a ratio that is not finite and
    :class:`~daremerge_core.errors.OutputError` where the file cannot be written.
    """
    for key, ratio in ratios.items():
        if ratio is not None and not math.isfinite(ratio):
            raise ComponentError(f"The ratio of tensor {key!r} is {ratio}; it must be a finite number or null.")
    table = {
        "daremerge": "gradient",
        "version": _VERSION,
        "made_by": dict(made_by or {}),
        "ratios": {key: None if ratio is None else float(ratio) for key, ratio in ratios.items()},
    }
    text = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False)
    return write_text(Path(path), text + "\n", overwrite=overwrite)


def _table(path: Path, text: str) -> dict[str, Any]:
    try:
        table = strict_json.loads(text, constants=True)
    except strict_json.JsonError as error:
        raise ModelFileError(f"{path}: not valid JSON: {error}.") from None
    if not isinstance(table, dict) or table.get("daremerge") != "gradient":
        raise ModelFileError(
            f'{path}: this is not a gradient file: it lacks "daremerge": "gradient".',
            hint='The form is {"daremerge": "gradient", "version": 1, "ratios": {"tensor name": 0.5}}.',
        )
    version = table.get("version")
    if version != _VERSION or type(version) is not int:
        raise ModelFileError(f"{path}: a gradient of version {shortened(version)}; {_VERSION} is known.")
    if extra := [name for name in table if name not in _FIELDS]:
        raise ModelFileError(f"{path}: unknown field {shortened(extra[0])}.{nearest(extra[0], _FIELDS)}")
    table.setdefault("made_by", {})
    for name in ("made_by", "ratios"):
        if not isinstance(table.get(name), dict):
            raise ModelFileError(f"{path}: {name!r} must be an object.")
    return table


def _ratio(path: Path, text: str, key: str, value: Any) -> float | None:
    if value is None:
        return None
    # The limit also keeps out NaN, infinity, and whole numbers that no float holds.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    line = strict_json.line_of(text, key)
    where = "" if line is None else f", line {line}"
    raise ModelFileError(
        f"{path}{where}: the ratio of tensor {shortened(key)} must be a finite number or null, not {shortened(value)}.",
        hint="1 keeps A, 0 takes B, null leaves A alone.",
    )
