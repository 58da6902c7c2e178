"""Checkpoints saved by ``torch.save``: ``.ckpt``, ``.pt``, ``.pth`` and ``.bin``, without running what they contain."""

from __future__ import annotations

import io
import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

from ..errors import ModelFileError
from ..printable import shortened
from .files import EXPLAINED, guess_format, open_regular
from .header import name_problem
from .memory import MemoryModel

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TorchPickle"]

_AGAIN = "Download it again, or find a safetensors version."
_PICKLE = "/data.pkl"
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
    _check_zip(path) if found == "zip" else _check_old(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=found == "zip")
    except pickle.UnpicklingError as error:
        _refuse(path, error)
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        raise ModelFileError(
            f"{path}: cannot be read as a torch checkpoint: {str(error).splitlines()[0] if str(error) else error!r}",
            hint="Download it again. If it is larger than this machine's memory, convert it to .safetensors elsewhere.",
        ) from error


def _check_zip(path: Path) -> None:
    """Refuse an archive that ``torch.save`` does not write: packed, ambiguous, or with a pickle that misbehaves."""
    import zipfile

    from .pickle_scan import PickleProblem, scan  # which few models need

    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = {entry.filename for entry in entries}
            pickles = [entry for entry in entries if entry.filename.endswith(_PICKLE)]
            with open_regular(path) as file:
                file.seek(-22, os.SEEK_END)
                ends_plainly = file.read(4) == b"PK\x05\x06"  # so every reader of zip archives finds the same entries
            if not ends_plainly or len(names) < len(entries) or len(pickles) != 1:
                raise ModelFileError(f"{path}: refused: the zip archive is ambiguous or damaged.", hint=_AGAIN)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ModelFileError(
                    f"{path}: refused: the zip archive is compressed, which torch never does.", hint=_AGAIN
                )
            if sum(entry.file_size for entry in entries) > size:
                raise ModelFileError(
                    f"{path}: refused: the zip archive promises more than the file holds.", hint=_AGAIN
                )
            with archive.open(pickles[0]) as stream:
                scan(io.BytesIO(stream.read()))
    except PickleProblem as error:
        _refuse(path, error)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelFileError(f"{path}: the zip archive is damaged: {error}.", hint=_AGAIN) from None


def _check_old(path: Path) -> None:
    """As :func:`_check_zip`, for a file of torch 1.5 or older: five pickles, then the storages that the last lists."""
    from .pickle_scan import PickleProblem, scan

    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        try:
            scanned = [scan(cast("IO[bytes]", view)) for _ in range(5)]
        except PickleProblem as error:
            _refuse(path, error)
    if lost := scanned[3].storages - scanned[4].texts:
        raise ModelFileError(f"{path}: damaged: the data of storage {shortened(min(lost))} is not in it.", hint=_AGAIN)


def _refuse(path: Path, error: Exception) -> NoReturn:
    if wanted := _GLOBAL.search(str(error)):
        raise ModelFileError(
            f"{path}: refused: this pickle wants to run {wanted[1]}, and a pickle that runs code can do anything.",
            hint="If you trust its source, convert it to .safetensors in a sandbox; or find a safetensors version.",
        ) from error
    raise ModelFileError(
        f"{path}: refused: the pickle holds something other than tensors and plain values, or is damaged.",
        hint=_AGAIN,
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
        elif not isinstance(name, str):
            raise ModelFileError(f"{path}: a tensor is named {shortened(name)}; a name must be Unicode text.")
        elif problem := name_problem(name):
            raise ModelFileError(f"{path}: tensor {shortened(name)}: {problem}.")
        elif _is_stretched(value):
            raise ModelFileError(
                f"{path}: tensor {name!r} of shape {list(value.shape)} shows the same elements again and again.",
                hint="Save it as a tensor of its own: tensor.contiguous().",
            )
        else:
            tensors[name] = value
    if not tensors:
        raise ModelFileError(f"{path}: holds no tensors.", hint="Is this a training log or an optimiser state?")
    return tensors, tuple(sorted(ignored))


def _is_stretched(tensor: Tensor) -> bool:
    """Whether a tensor has more bytes than the storage under it, by strides of 0: a few bytes may claim to be many."""
    import torch

    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_nested:
        return False  # refused elsewhere
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _all_tensors(value: Any) -> bool:
    from torch import Tensor

    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, Tensor) for one in value.values())
