"""Models, masks and gradients on disk and in memory. Importing this package imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..errors import ModelFileError
from ..values import Model
from .files import EXPLAINED, guess_format, open_regular, sha256_file
from .gradient_file import GradientFile, write_gradient
from .identity import IdentityBuilder, content_identity, file_identity
from .mask_file import BitMask, MaskFile, PackedMask, hold_mask, write_mask
from .memory import MemoryModel
from .safetensors_file import SafetensorsFile
from .sharded_folder import INDEX_SUFFIX, ShardedFolder
from .sharded_writer import ShardedWriter
from .sink import Sink
from .torch_pickle import TorchPickle
from .writer import SafetensorsWriter, write_model

__all__ = [
    "BitMask",
    "GradientFile",
    "IdentityBuilder",
    "MaskFile",
    "MemoryModel",
    "PackedMask",
    "SafetensorsFile",
    "SafetensorsWriter",
    "ShardedFolder",
    "ShardedWriter",
    "Sink",
    "TorchPickle",
    "content_identity",
    "file_identity",
    "hold_mask",
    "open_model",
    "replaced_by",
    "same_file",
    "sha256_file",
    "write_gradient",
    "write_mask",
    "write_model",
]

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def open_model(path: str | os.PathLike[str], openers: Sequence[Callable[[Path], Model | None]] = ()) -> Model:
    """Open a model file or folder. ``openers`` are tried first, in order: each returns a model or None.

    Content decides before the name does: a file that is safetensors inside is opened as that under any name, and what
    is named ``.safetensors`` is never unpickled. Raises :class:`ModelFileError` for what is missing, damaged or of no
    known format.
    """
    path = Path(path)
    for opener in openers:
        if (model := opener(path)) is not None:
            return model
    if os.path.isdir(path) or path.name.endswith(INDEX_SUFFIX):
        return ShardedFolder(path)
    with open_regular(path) as file:
        found = guess_format(file.read(24))
    suffix = path.suffix.lower()
    if found == "safetensors" or suffix == ".safetensors":
        return SafetensorsFile(path)
    if suffix in _PICKLES:
        return TorchPickle(path)
    what, hint = EXPLAINED.get(found, ("is of no known format", ""))
    known = f"Can be opened: .safetensors, a folder with a {INDEX_SUFFIX[1:]}, {', '.join(_PICKLES)}."
    raise ModelFileError(f"{path}: this file {what}.", hint=f"{hint} {known}".strip())


def same_file(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    """Whether two paths lead to one file or folder, through links of any kind; False when either does not exist."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False


def replaced_by(output: str | os.PathLike[str], source: str | os.PathLike[str]) -> Path | None:
    """The file of the model ``source`` that writing ``output`` would destroy, or None.

    That is ``source`` itself, a shard or index in it, or a file inside a folder of which ``output`` takes the place.
    Raises :class:`ModelFileError` when ``source`` is a folder that cannot be listed.
    """
    target = Path(os.path.realpath(output))
    for path in _files(Path(source)):
        if same_file(target, path) or target in Path(os.path.realpath(path)).parents:
            return path
    return None


def _files(source: Path) -> Iterable[Path]:
    yield source
    folder = source.parent if source.name.endswith(INDEX_SUFFIX) else source
    if os.path.isdir(folder):
        try:
            yield from sorted(folder.iterdir())
        except OSError as error:
            raise ModelFileError(f"{folder}: the folder cannot be listed: {error.strerror}.") from error
