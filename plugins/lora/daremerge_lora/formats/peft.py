"""The scale of a PEFT adapter that brings its configuration along.

diffusers writes it into the file's metadata as ``lora_adapter_metadata``: JSON, each field after the name of its
component (``unet.lora_alpha``). A file may hold PEFT's own ``adapter_config`` there instead. Hu et al.,
arXiv:2106.09685, scale by alpha / rank; Kalajdzievski, arXiv:2312.03732 (rsLoRA), by alpha / √rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from daremerge_core import strict_json
from daremerge_core.printable import shortened

__all__ = ["COMPONENTS", "PeftConfig", "read_configs"]

COMPONENTS: tuple[str, ...] = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
"""diffusers' names for the networks of a pipeline that a LoRA may change."""

_FLAT = "lora_adapter_metadata"
_OWN = "adapter_config"
_LITERAL = re.compile(r"\^?([\w.-]|\\\.)+\$?")


class PeftConfig:
    """What of one adapter's configuration decides its scales. Raises ``ValueError`` for one that says nonsense."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._alpha = None if fields.get("lora_alpha") is None else _number("lora_alpha", fields["lora_alpha"])
        self._root = fields.get("use_rslora") or False
        if not isinstance(self._root, bool):
            raise ValueError(f"use_rslora must be true or false, not {shortened(self._root)}")
        pattern = fields.get("alpha_pattern") or {}
        if not isinstance(pattern, dict):
            raise ValueError(f"alpha_pattern must map names to numbers, not be {shortened(pattern)}")
        self._pattern = {_suffix(name): _number("alpha_pattern", alpha) for name, alpha in pattern.items()}

    def scale(self, module: str, rank: int) -> float:
        """The scale of one module, named without its component; 1 where the configuration gives no alpha."""
        found = (alpha for name, alpha in self._pattern.items() if module == name or module.endswith(f".{name}"))
        alpha = next(found, self._alpha)
        if alpha is None:
            return 1.0
        return alpha / math.sqrt(rank) if self._root else alpha / rank


def read_configs(metadata: Mapping[str, str]) -> dict[str, PeftConfig]:
    """Component (or ``""`` for a file of one network) → its configuration, as far as the metadata has any.

    Raises ``ValueError`` where it is there and cannot be read: the scales depend on it.
    """
    for name in (_FLAT, _OWN):
        if name in metadata:
            try:
                return {component: PeftConfig(fields) for component, fields in _by_component(metadata[name]).items()}
            except ValueError as error:
                raise ValueError(f"metadata {name!r}: {error}") from None
    return {}


def _by_component(text: str) -> dict[str, dict[str, Any]]:
    table = strict_json.loads(text)
    if not isinstance(table, dict):
        raise ValueError("it must be a JSON object")
    found: dict[str, dict[str, Any]] = {}
    for key, value in table.items():
        component, _, field = key.partition(".")
        if component in COMPONENTS and field:
            found.setdefault(component, {})[field] = value
        else:
            found.setdefault("", {})[key] = value
    return found


def _number(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
        raise ValueError(f"{field} must be a number, not {shortened(value)}")
    return float(value)


def _suffix(pattern: str) -> str:
    """A pattern that is a name, or its end. PEFT takes regular expressions; files in the wild hold names."""
    if not _LITERAL.fullmatch(pattern):
        raise ValueError(f"alpha_pattern holds the regular expression {shortened(pattern)}; only names are understood")
    return pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
