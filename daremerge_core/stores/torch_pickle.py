"""Checkpoints saved by ``torch.save``: ``.ckpt``, ``.pt``, ``.pth`` and ``.bin``, without running what they contain."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import ModelFileError
from .files import EXPLAINED, guess_format, open_regular
from .header import is_unicode
from .memory import MemoryModel

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TorchPickle"]

_GLOBAL = re.compile(r"\bGLOBAL (\S+)")
"""How torch names what a refused pickle wanted to call, in each of its wordings since 2.4."""


class TorchPickle(MemoryModel):
    """A checkpoint pickled by torch, opened with ``weights_only``: tensors and plain values, never code.

    A pickle has no header, so opening runs through its (small) object part, while the tensors' storages stay mapped
    from the file; files of torch 1.5 and older cannot be mapped and are read whole. The tensors may lie under
    ``state_dict``, or under whatever name holds the only dict of nothing but tensors. Entries that are not tensors
    (epoch, optimiser state, hyper-parameters) are left out and named in :attr:`ignored`. There is no metadata.

    Raises :class:`~daremerge_core.errors.ModelFileError` when the file is missing or damaged, when it needs code, and
    when it holds no tensors, or several sets of them.
    """

    ignored: tuple[str, ...]
    """Names of the entries that are not tensors, sorted."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        tensors, self.ignored = _state_dict(_load(self.path), self.path)
        try:
            super().__init__(tensors)
        except TypeError as error:
            raise ModelFileError(f"{self.path}: {error}.") from None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files this model is read from."""
        return (self.path,)

    def __repr__(self) -> str:
        return f"TorchPickle({str(self.path)!r})"


def _load(path: Path) -> Any:
    import pickle

    import torch

    with open_regular(path) as file:
        found = guess_format(file.read(24))
    if found not in ("zip", "pickle"):
        what, hint = EXPLAINED.get(found, ("is not a torch checkpoint", None))
        raise ModelFileError(f"{path}: this file {what}.", hint=hint)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=found == "zip")
    except pickle.UnpicklingError as error:
        _refuse(path, error)
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        raise ModelFileError(
            f"{path}: cannot be read as a torch checkpoint: {str(error).splitlines()[0] if str(error) else error!r}",
            hint="Download it again. If it is larger than this machine's memory, convert it to .safetensors elsewhere.",
        ) from error


def _refuse(path: Path, error: Exception) -> NoReturn:
    if wanted := _GLOBAL.search(str(error)):
        raise ModelFileError(
            f"{path}: refused: this pickle wants to run {wanted[1]}, and a pickle that runs code can do anything.",
            hint="If you trust its source, convert it to .safetensors in a sandbox; or find a safetensors version.",
        ) from error
    raise ModelFileError(
        f"{path}: refused: the pickle holds something other than tensors and plain values, or is damaged.",
        hint="Download it again, or find a safetensors version.",
    ) from error


def _state_dict(loaded: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The dict of tensors in what the pickle held, and the names of what else it held."""
    from torch import Tensor

    if not isinstance(loaded, Mapping):
        raise ModelFileError(f"{path}: holds a {type(loaded).__name__}, not a dict of named tensors.")
    level = "state_dict" if isinstance(loaded.get("state_dict"), Mapping) else None
    if level is None and not any(isinstance(value, Tensor) for value in loaded.values()):
        levels = [name for name, value in loaded.items() if _all_tensors(value)]
        if len(levels) > 1:
            raise ModelFileError(
                f"{path}: holds several sets of tensors: {', '.join(map(str, levels))}.",
                hint="Save the one you want as a file of its own.",
            )
        level = levels[0] if levels else None
    inner = loaded if level is None else loaded[level]

    tensors: dict[str, Tensor] = {}
    ignored = [] if level is None else [str(name) for name in loaded if name != level]
    for name, value in inner.items():
        if not isinstance(value, Tensor):
            ignored.append(str(name))
        elif not isinstance(name, str) or not is_unicode(name):
            raise ModelFileError(f"{path}: a tensor is named {name!r}; a name must be Unicode text.")
        else:
            tensors[name] = value
    if not tensors:
        raise ModelFileError(f"{path}: holds no tensors.", hint="Is this a training log or an optimiser state?")
    return tensors, tuple(sorted(ignored))


def _all_tensors(value: Any) -> bool:
    from torch import Tensor

    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, Tensor) for one in value.values())
