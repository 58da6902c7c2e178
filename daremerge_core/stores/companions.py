"""What lies beside the weights in a Hugging Face folder, and belongs to them: configuration and tokenizer.

A merge of folders carries these files over from the model that gives the result its tensors, so that the new folder
loads like the old ones.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .. import strict_json
from ..errors import ModelFileError
from .header import is_unicode

__all__ = ["companions_of", "copy_companions", "is_companion"]

NAMES = (
    "added_tokens.json",
    "chat_template.*",
    "config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer*",
    "vocab.*",
    "*.tiktoken",
)
"""Names of such files, as patterns. Code (``*.py``) is not carried: it may be of another licence, and it runs."""

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

LARGEST = 200_000_000
"""Bytes of such a file; what is larger is no configuration."""


def is_companion(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in NAMES)


def companions_of(folder: Path) -> dict[str, Path]:
    """The files beside the weights by name, in order. Folders within the folder are not looked at.

    Nor are links that lead elsewhere, except into a download cache: who unpacks a folder from a stranger and publishes
    a merge of it must not publish a file of his own along with it.
    """
    try:
        found = sorted(folder.iterdir()) if os.path.isdir(folder) else []
    except OSError as error:
        raise ModelFileError(f"{folder}: the folder cannot be listed: {error.strerror}.") from error
    mine = (one for one in found if is_companion(one.name) and os.path.isfile(one) and _belongs(one))
    return {one.name: one for one in mine if one.stat().st_size < LARGEST}


def _belongs(path: Path) -> bool:
    """Whether a file lies in its folder, or among the ``blobs`` of Hugging Face's cache, each named by its hash."""
    real = Path(os.path.realpath(path))
    return real.parent == Path(os.path.realpath(path.parent)) or (
        real.parent.name == "blobs" and _HASH.fullmatch(real.name) is not None
    )


def copy_companions(companions: Mapping[str, Path], folder: Path, *, dtype: str | None = None) -> None:
    """Copy them into ``folder``.

    Args:
        dtype: torch's name of the dtype that the weights are now stored in, where it was changed: ``config.json`` says
            so then.
    """
    for name, path in companions.items():
        data = path.read_bytes()
        (folder / name).write_bytes(_with_dtype(data, dtype) if name == "config.json" and dtype else data)


def _with_dtype(config: bytes, dtype: str) -> bytes:
    try:
        table: Any = strict_json.loads(config, constants=True)
    except strict_json.JsonError:
        return config
    if not isinstance(table, dict):
        return config
    named = [key for key in ("torch_dtype", "dtype") if key in table] or ["torch_dtype"]
    text = json.dumps(table | dict.fromkeys(named, dtype), indent=2, ensure_ascii=False)
    if not is_unicode(text):  # half of a surrogate pair, which only its escape can spell
        text = json.dumps(table | dict.fromkeys(named, dtype), indent=2)
    return (text + "\n").encode()
