"""Where a value on the canvas comes from, so that a recipe file can say it: read from the workflow that is running."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["File", "Made", "Origin", "Unknown", "WithLora", "origin_of"]


@dataclass(frozen=True)
class File:
    """A file in one of ComfyUI's model folders."""

    folder: str
    """ComfyUI's word for the folder, such as ``checkpoints``."""
    name: str
    """The path inside it, as the loader's list shows it."""


@dataclass(frozen=True)
class WithLora:
    """A value that a LoRA was put into."""

    of: Origin
    lora: File
    unet_strength: float
    clip_strength: float


@dataclass(frozen=True)
class Unknown:
    """A value from a node that a recipe has no word for."""

    node: str
    """Its class."""
    of: Origin | None = None
    """Where the value it changed came from, if that is known."""


@dataclass(frozen=True)
class Made:
    """A value that a node of this pack made, and that remembers how."""


Origin = File | WithLora | Made | Unknown

_LOADERS: Mapping[str, tuple[str, str]] = {
    "CheckpointLoaderSimple": ("ckpt_name", "checkpoints"),
    "CheckpointLoader": ("ckpt_name", "checkpoints"),
    "unCLIPCheckpointLoader": ("ckpt_name", "checkpoints"),
    "UNETLoader": ("unet_name", "diffusion_models"),
    "CLIPLoader": ("clip_name", "text_encoders"),
    "LoraModelLoader": ("lora_name", "loras"),
    "daremerge.lora.load": ("lora_name", "loras"),
}
_LORA_NODES = ("LoraLoader", "LoraLoaderModelOnly", "DM_LoRALoaderTags")


def origin_of(prompt: Mapping[str, Any] | None, name: str) -> Origin | None:
    """Where the value of the running node's input ``name`` comes from; None outside of a workflow."""
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    node = (prompt or {}).get(context.node_id) if context else None
    return None if node is None or prompt is None else _follow(prompt, node["inputs"].get(name))


def _follow(prompt: Mapping[str, Any], link: Any) -> Origin | None:
    if not (isinstance(link, list) and len(link) == 2) or str(link[0]) not in prompt:
        return None
    node = prompt[str(link[0])]
    kind, inputs = node["class_type"], node["inputs"]
    if kind in _LOADERS:
        field, folder = _LOADERS[kind]
        if isinstance(inputs.get(field), str):
            return File(folder, inputs[field])
    if kind.startswith(("daremerge.", "DM_")) and kind not in _LORA_NODES:
        return Made()
    below = _follow(prompt, inputs.get("model" if link[1] == 0 or "clip" not in inputs else "clip"))
    if kind in _LORA_NODES and below is not None and isinstance(inputs.get("lora_name"), str):
        strength = inputs.get("strength_model"), inputs.get("strength_clip", 0.0)
        if all(isinstance(one, (int, float)) for one in strength):
            return WithLora(below, File("loras", inputs["lora_name"]), float(strength[0]), float(strength[1]))
    return Unknown(kind, below)
