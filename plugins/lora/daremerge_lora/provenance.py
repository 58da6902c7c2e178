"""What a new LoRA file says of itself in its metadata: no more than is known to be true of it.

Kohya's ``ss_*`` fields describe a training, and the Stability AI model specification's ``modelspec.*`` a published
file. A file made from others was not trained, so few of their fields hold. Nothing here depends on when or where it is
made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from daremerge_core import strict_json

from .made import NewModule

__all__ = ["of_extraction", "of_merge", "of_resize"]

_BASE_VERSIONS = {"sd15": "sd_v1", "sdxl": "sdxl_base_v1-0", "flux": "flux1"}
"""What kohya's scripts write in ``ss_base_model_version``, where the architecture tells. (SD 2 has two versions.)"""

_SPECIFIED = {"sd15": "stable-diffusion-v1/lora", "sdxl": "stable-diffusion-xl-v1-base/lora"}
"""``modelspec.architecture`` where one name covers all models of an architecture."""

_UNTRUE_WHEN_CHANGED = (
    "sshs_",
    "modelspec.hash",
    "modelspec.date",
    "ss_session_id",
    "ss_output_name",
    "lora_adapter_metadata",
    "adapter_config",
)
"""Beginnings of fields that hold hashes of the old tensors, dates, names of the old file, or its scales."""

_TAGS = "ss_tag_frequency"


def of_resize(metadata: Mapping[str, str], modules: Sequence[NewModule]) -> dict[str, str]:
    """The training is that of the LoRA resized; its hashes and ranks are not."""
    kept = {key: value for key, value in metadata.items() if not key.startswith(_UNTRUE_WHEN_CHANGED)}
    return kept | _network(modules)


def of_merge(inputs: Sequence[Mapping[str, str]], modules: Sequence[NewModule]) -> dict[str, str]:
    """What all inputs agree on of base model and architecture, and the tags of each under its own datasets."""
    shared = ("ss_base_model_version", "ss_v2", "modelspec.architecture", "modelspec.implementation")
    found = {key: value for key in shared if (value := _agreed(one.get(key) for one in inputs))}
    tags = _tags(inputs)
    return found | ({_TAGS: json.dumps(tags, ensure_ascii=False)} if tags else {}) | _network(modules)


def of_extraction(architecture: str, modules: Sequence[NewModule]) -> dict[str, str]:
    """The architecture, where it is known.

    Args:
        architecture: its name, ``sdxl``.
    """
    found: dict[str, str] = {}
    if architecture in _BASE_VERSIONS:
        found["ss_base_model_version"] = _BASE_VERSIONS[architecture]
    if architecture in _SPECIFIED:
        found["modelspec.architecture"] = _SPECIFIED[architecture]
    return found | _network(modules)


def _network(modules: Sequence[NewModule]) -> dict[str, str]:
    """Kohya's fields of the network: its ranks as they are, ``Dynamic`` where there are several."""
    ranks = {one.rank for one in modules if one.rank}
    if not ranks:
        return {"ss_network_module": "networks.lora"}
    said = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    return {"ss_network_module": "networks.lora", "ss_network_dim": said, "ss_network_alpha": said}


def _agreed(values: Iterable[str | None]) -> str | None:
    """The value that all who say something say."""
    said = {value for value in values if value}
    return said.pop() if len(said) == 1 else None


def _tags(inputs: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Dataset → tag → count, of all inputs; a dataset's name that comes again is told apart by its input's number."""
    found: dict[str, Any] = {}
    for index, metadata in enumerate(inputs, start=1):
        for dataset, counts in _table(metadata.get(_TAGS, "{}")).items():
            found[dataset if dataset not in found else f"{dataset} ({index})"] = counts
    return found


def _table(text: str) -> dict[str, Any]:
    """A JSON object; empty for anything else: tags that cannot be read are no reason to refuse a merge."""
    try:
        found = strict_json.loads(text)
    except strict_json.JsonError:
        return {}
    return found if isinstance(found, dict) else {}
