"""What a LoRA says of itself: the tags it was trained on, and everything else worth knowing.

Metadata is text from a stranger: whatever stands there, reading it never fails. At most it says nothing, and why.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daremerge_core import strict_json
from daremerge_core.dtypes import nbytes
from daremerge_core.errors import ModelFileError
from daremerge_core.stores.files import open_regular
from daremerge_core.stores.header import is_unicode, read_header
from daremerge_core.stores.safetensors_file import SafetensorsFile

from .formats import LoraFile
from .modules import Module
from .targets import architecture_of, locate

__all__ = ["TAGS", "Tags", "hashes", "info", "tags"]

TAGS = "ss_tag_frequency"
"""Where kohya's trainer writes how often each tag stands in the captions: JSON, dataset → tag → count."""

_MOST = 10**15
"""No data set has more captions; a larger count is nonsense."""


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of a LoRA, most frequent first; those of one count in the order of the file."""

    pairs: tuple[tuple[str, int], ...]
    """Tag and count, summed over the datasets."""
    reason: str = ""
    """Why there are none; empty where there are."""
    ignored: int = 0
    """Entries that are no tag with a count, and were left out."""


def tags(metadata: Mapping[str, str], limit: int | None = None) -> Tags:
    """The tags a LoRA was trained on, at most ``limit`` of them; ``ValueError`` for a negative limit."""
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be 0 or more, not {limit}")
    if TAGS not in metadata:
        return Tags((), f"the metadata holds no {TAGS}")
    try:
        table = strict_json.loads(metadata[TAGS], constants=True)
    except strict_json.JsonError as error:
        return Tags((), f"{TAGS} is not valid JSON: {error}")
    if not isinstance(table, dict):
        return Tags((), f"{TAGS} is not a table of datasets")
    counts: Counter[str] = Counter()
    ignored = 0
    for dataset in table.values():
        if not isinstance(dataset, dict):
            ignored += 1
            continue
        for tag, count in dataset.items():
            if (name := tag.strip()) and is_unicode(name) and _is_count(count):
                counts[name] += int(count)
            else:
                ignored += 1
    if not counts:
        what = f"nothing that is a tag with a count ({ignored} entries)" if ignored else "no tags"
        return Tags((), f"{TAGS} holds {what}", ignored)
    return Tags(tuple(counts.most_common(limit)), "", ignored)


def _is_count(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= _MOST and value == int(value)  # of NaN and infinity the first comparison is false


_BASE_MODEL = (
    "ss_base_model_version",
    "modelspec.architecture",
    "ss_sd_model_name",
    "ss_sd_model_hash",
    "ss_new_sd_model_hash",
    "ss_v2",
)
_TRAINING = (
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "ss_learning_rate",
    "ss_unet_lr",
    "ss_text_encoder_lr",
    "ss_optimizer",
    "ss_lr_scheduler",
    "ss_lr_warmup_steps",
    "ss_steps",
    "ss_max_train_steps",
    "ss_epoch",
    "ss_num_epochs",
    "ss_num_train_images",
    "ss_num_reg_images",
    "ss_batch_size_per_device",
    "ss_total_batch_size",
    "ss_gradient_accumulation_steps",
    "ss_resolution",
    "ss_clip_skip",
    "ss_seed",
    "ss_mixed_precision",
    "ss_noise_offset",
    "ss_min_snr_gamma",
    "ss_prior_loss_weight",
    "ss_training_comment",
)
_DESCRIPTION = "modelspec."
_THUMBNAIL = "modelspec.thumbnail"
_MODEL_HASH = "sshs_model_hash"
_STATED_HASHES = (_MODEL_HASH, "sshs_legacy_hash")


def info(lora: LoraFile, *, hashed: bool = False) -> dict[str, Any]:
    """What a LoRA is, as JSON-serialisable data; tensors are read for alpha alone, and all of a file if ``hashed``.

    ``ranks``, ``alphas``, ``scales``, ``families``, ``formats`` and ``parts`` list the values found, most common first,
    with the number of modules that have each; ``dtypes`` with that of tensors. ``notes`` says what could not be read.
    """
    model, modules = lora.model, list(lora.modules.values())
    architecture = architecture_of(lora)
    notes: list[str] = []
    metas = [model.meta(key) for key in model.keys()]
    metadata = {name: text for name, text in model.metadata.items() if text not in ("", "None")}
    stated = {name: metadata[name] for name in _STATED_HASHES if name in metadata}
    computed = hashes(model.path) if hashed and isinstance(model, SafetensorsFile) else {}
    if computed and stated.get(_MODEL_HASH, computed["data"]) != computed["data"]:
        notes.append(f"{_MODEL_HASH} is not the hash of these tensors: they have changed since it was written")
    return {
        "file": lora.name,
        "architecture": architecture.name if architecture else "unknown",
        "modules": len(modules),
        "formats": _counted(Counter(lora.formats.values())),
        "families": _counted(Counter("dora" if module.is_dora else module.family for module in modules)),
        "ranks": _counted(Counter(_quietly(lora.rank, module, notes) for module in modules)),
        "alphas": _counted(Counter(_quietly(lora.alpha, module, notes) for module in modules)),
        "scales": _counted(Counter(_quietly(lora.scale, module, notes) for module in modules)),
        "parts": _counted(Counter(locate(name)[0] for name in lora.modules)),
        "dtypes": _counted(Counter(meta.dtype for meta in metas)),
        "tensors": len(metas),
        "parameters": sum(meta.numel for meta in metas),
        "bytes": sum(nbytes(meta.dtype, meta.numel) for meta in metas),
        "unknown": list(lora.unknown),
        "base_model": {name: metadata[name] for name in _BASE_MODEL if name in metadata},
        "training": {name: metadata[name] for name in _TRAINING if name in metadata},
        "description": {
            name.removeprefix(_DESCRIPTION): f"{len(text)} characters" if name == _THUMBNAIL else text
            for name, text in metadata.items()
            if name.startswith(_DESCRIPTION)
        },
        "hashes": {**computed, **stated},
        "notes": list(dict.fromkeys(notes)),
    }


def _counted(counts: Counter[Any]) -> list[dict[str, Any]]:
    return [{"value": value, "count": count} for value, count in counts.most_common()]


def _quietly(ask: Callable[[Module], float | None], module: Module, notes: list[str]) -> float | None:
    """What a method of the LoRA answers of a module, or None with a note where it raises."""
    try:
        value = ask(module)
    except ModelFileError as error:
        notes.append(error.message)
        return None
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def hashes(path: Path) -> dict[str, str]:
    """The hashes by which a safetensors file is known, in hex.

    ``sha256`` is of the whole file, as model sites list it. ``data`` is of the tensors' bytes alone: what kohya's
    trainer writes as ``sshs_model_hash``, and sites call AutoV3 by its first 12 digits; so it stays the same when only
    metadata changes. Raises :class:`~daremerge_core.errors.ModelFileError` for what cannot be read.
    """
    whole, data = hashlib.sha256(), hashlib.sha256()
    with open_regular(path) as file:
        read_header(file, path)
        file.seek(0)
        prefix = file.read(8)
        header = file.read(int.from_bytes(prefix, "little"))
        whole.update(prefix + header)
        while block := file.read(1 << 18):
            whole.update(block)
            data.update(block)
    return {"sha256": whole.hexdigest(), "data": data.hexdigest()}
