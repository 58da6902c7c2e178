"""How formats spell the tensors of a module: ``NAME.lora_up.weight``, ``NAME_lora.up.weight``, ``NAME.hada_w1_a`` …"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from ..modules import SLOTS, Family

__all__ = ["WRITABLE", "Spelling", "Style", "Writable", "split", "tensor_name"]

Writable = Literal["kohya", "diffusers", "comfy"]
"""A format that can be written."""

Style = Literal["lycoris", "peft", "old"]
"""Whose suffixes: ``.lora_up.weight``, ``.lora_B.weight``, or one of diffusers' before PEFT."""

WRITABLE: tuple[Writable, ...] = ("kohya", "diffusers", "comfy")

Meaning = tuple[Family | None, str]
"""A family, or None for a slot that any module may have, and the slot."""

_LYCORIS: dict[str, Meaning] = {
    ".lora_up.weight": ("lora", "up"),
    ".lora_down.weight": ("lora", "down"),
    ".lora_mid.weight": ("lora", "mid"),
    **{f".hada_{slot}": ("loha", slot) for slot in sorted(SLOTS["loha"])},
    **{f".lokr_{slot}": ("lokr", slot) for slot in sorted(SLOTS["lokr"])},
    ".diff": ("full", "diff"),
    ".diff_b": (None, "diff_b"),
    ".alpha": (None, "alpha"),
    ".dora_scale": (None, "dora_scale"),
}
"""Kohya's suffixes and LyCORIS's, which ComfyUI saves too."""

_NORMS: dict[str, Meaning] = {".w_norm": ("full", "diff"), ".b_norm": (None, "diff_b")}
"""LyCORIS's for norms."""

_PEFT: dict[str, Meaning] = {
    ".lora_B.weight": ("lora", "up"),
    ".lora_A.weight": ("lora", "down"),
    ".lora_magnitude_vector": (None, "dora_scale"),
}

_PEFT_VARIANTS: dict[str, Meaning] = {
    ".lora_B": ("lora", "up"),
    ".lora_A": ("lora", "down"),
    ".lora_magnitude_vector.weight": (None, "dora_scale"),
}

_OLD: dict[str, Meaning] = {
    f"{infix}.{factor}.weight": ("lora", factor)
    # Of attention processors, of LoRACompatibleLinear, and of text encoders.
    for infix in ("_lora", ".lora", ".lora_linear_layer")
    for factor in ("up", "down")
}
"""diffusers' names from before PEFT."""

_SUFFIXES: dict[str, tuple[Meaning, Style]] = {
    **{suffix: (meaning, "lycoris") for suffix, meaning in (_LYCORIS | _NORMS).items()},
    **{suffix: (meaning, "peft") for suffix, meaning in (_PEFT | _PEFT_VARIANTS).items()},
    **{suffix: (meaning, "old") for suffix, meaning in _OLD.items()},
}

_LONGEST = max(map(len, _SUFFIXES))

# PEFT's own state dict holds the adapter's name: `lora_A.default.weight`, `lora_magnitude_vector.default`.
_WITH_ADAPTER = re.compile(r"(\.lora_[AB]|\.lora_magnitude_vector)\.(?!weight$)[^.]+(\.weight)?$")

# The longest suffix of a tensor's name that a table knows, sought at each dot and before "_lora.".
_STARTS = re.compile(r"\.|_(?=lora\.(?:up|down)\.weight$)")


class Spelling(NamedTuple):
    """A tensor's name taken apart."""

    module: str
    slot: str
    family: Family | None
    """None for a slot that any module may have."""
    style: Style


def split(key: str) -> Spelling | None:
    """The module and the slot that a tensor's name stands for, or None where no format spells it so."""
    plain = _WITH_ADAPTER.sub(r"\1\2", key)
    for start in _STARTS.finditer(plain, max(0, len(plain) - _LONGEST)):
        at = start.start()
        if at and plain[at:] in _SUFFIXES:
            (family, slot), style = _SUFFIXES[plain[at:]]
            return Spelling(plain[:at], slot, family, style)
    return None


_WRITTEN: dict[Writable, dict[Meaning, str]] = {
    "kohya": {meaning: suffix for suffix, meaning in _LYCORIS.items()},
    "comfy": {meaning: suffix for suffix, meaning in _LYCORIS.items()},
    "diffusers": {meaning: suffix for suffix, meaning in _PEFT.items()},
}


def tensor_name(format: Writable, module: str, slot: str, family: Family = "lora") -> str:
    """The tensor's name in a file of this format.

    Raises ``ValueError`` where the format has none: diffusers' files hold plain LoRA and DoRA, and no alpha.
    """
    names = _WRITTEN[format]
    suffix = names.get((family, slot)) or names.get((None, slot))
    if suffix is None:
        raise ValueError(f"the format {format} has no tensor for {slot!r} of a {family} module")
    return module + suffix
