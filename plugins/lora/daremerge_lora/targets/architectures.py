"""The architectures whose LoRAs are understood: their networks, and what each format calls those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..formats import Writable
from .tables import Entry, Found, Table
from .text_encoders import CLIP, T5
from .transformers import FLUX_TRANSFORMER, SD3_TRANSFORMER
from .unets import SD_UNET, SDXL_REFINER_UNET, SDXL_UNET

__all__ = ["ARCHITECTURES", "PARTS", "Architecture", "Part", "locate"]

Part = Literal["unet", "te1", "te2", "te3"]
"""A network that a LoRA may change: the denoiser, the first and second CLIP, T5."""

PARTS: Mapping[Part, str] = {
    "unet": "denoiser",
    "te1": "first text encoder",
    "te2": "second CLIP text encoder",
    "te3": "T5 text encoder",
}
"""What messages call them."""


@dataclass(frozen=True)
class Network:
    """One network of an architecture."""

    table: Table
    prefixes: Mapping[Writable, str]
    """Format → what it puts before a layer's name."""
    native: frozenset[Writable] = frozenset()
    """The formats that use the native names, fused weights and all: ComfyUI for a denoiser, and kohya where its trainer
    runs the authors' code."""

    def name(self, format: Writable, entry: Entry) -> str:
        """What a module that changes this layer is called; of a fused weight in a native format, the whole of it."""
        name = entry.native if format in self.native else entry.diffusers
        return self.prefixes[format] + (name.replace(".", "_") if format == "kohya" else name)


@dataclass(frozen=True)
class Architecture:
    """A family of models whose layers have the same names and widths."""

    name: str
    title: str
    networks: Mapping[Part, Network]
    width: int | None = None
    """What the keys of its attention are projected from (of U-Nets: the text encoding), if every size has the same."""

    def find(self, module: str) -> tuple[Part, Found] | None:
        """The layer that a LoRA's module of this name changes; None where this architecture has no such layer."""
        part, name, underscored = locate(module)
        network = self.networks.get(part)
        found = network.table.find(name, underscored=underscored) if network else None
        return None if found is None else (part, found)


def _denoiser(table: Table, component: str, *, native: tuple[Writable, ...]) -> Network:
    prefixes: dict[Writable, str] = {"kohya": "lora_unet_", "diffusers": f"{component}.", "comfy": "diffusion_model."}
    return Network(table, prefixes, frozenset(native))


def _encoder(table: Table, kohya: str, diffusers: str, comfy: str) -> Network:
    prefixes: dict[Writable, str] = {
        "kohya": f"lora_{kohya}_",
        "diffusers": f"{diffusers}.",
        "comfy": f"text_encoders.{comfy}.transformer.",
    }
    return Network(table, prefixes)


_SD_UNET = _denoiser(SD_UNET, "unet", native=("comfy",))

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        "sd15",
        "Stable Diffusion 1.5",
        {"unet": _SD_UNET, "te1": _encoder(CLIP, "te", "text_encoder", "clip_l")},
        width=768,
    ),
    Architecture(
        "sd2",
        "Stable Diffusion 2",
        {"unet": _SD_UNET, "te1": _encoder(CLIP, "te", "text_encoder", "clip_h")},
        width=1024,
    ),
    Architecture(
        "sdxl",
        "SDXL",
        {
            "unet": _denoiser(SDXL_UNET, "unet", native=("comfy", "kohya")),
            "te1": _encoder(CLIP, "te1", "text_encoder", "clip_l"),
            "te2": _encoder(CLIP, "te2", "text_encoder_2", "clip_g"),
        },
        width=2048,
    ),
    Architecture(
        "sdxl-refiner",
        "SDXL refiner",
        {
            "unet": _denoiser(SDXL_REFINER_UNET, "unet", native=("comfy", "kohya")),
            "te1": _encoder(CLIP, "te", "text_encoder", "clip_g"),
        },
        width=1280,
    ),
    Architecture(
        "sd3",
        "Stable Diffusion 3",
        {
            "unet": _denoiser(SD3_TRANSFORMER, "transformer", native=("comfy", "kohya")),
            "te1": _encoder(CLIP, "te1", "text_encoder", "clip_l"),
            "te2": _encoder(CLIP, "te2", "text_encoder_2", "clip_g"),
            "te3": _encoder(T5, "te3", "text_encoder_3", "t5xxl"),
        },
    ),
    Architecture(
        "flux",
        "Flux",
        {
            "unet": _denoiser(FLUX_TRANSFORMER, "transformer", native=("comfy", "kohya")),
            "te1": _encoder(CLIP, "te1", "text_encoder", "clip_l"),
            "te3": _encoder(T5, "te3", "text_encoder_2", "t5xxl"),
        },
        width=3072,
    ),
)
"""Where two fit equally well, the first is meant."""


_UNDERSCORED: tuple[tuple[str, Part], ...] = (
    ("lora_unet_", "unet"),
    ("lora_transformer_", "unet"),  # OneTrainer
    ("lycoris_", "unet"),  # SimpleTuner
    ("lora_te_", "te1"),
    ("lora_te1_", "te1"),
    ("lora_te2_", "te2"),
    ("lora_te3_", "te3"),
)
_DOTTED: tuple[tuple[str, Part], ...] = (
    ("model.diffusion_model.", "unet"),
    ("diffusion_model.", "unet"),
    ("unet.", "unet"),
    ("transformer.", "unet"),
    ("text_encoder.", "te1"),
    ("text_encoder_2.", "te2"),
    ("text_encoder_3.", "te3"),
    ("text_encoders.clip_l.transformer.", "te1"),
    ("text_encoders.clip_h.transformer.", "te1"),
    ("text_encoders.clip_g.transformer.", "te2"),
    ("text_encoders.t5xxl.transformer.", "te3"),
    ("clip_l.transformer.", "te1"),
    ("clip_h.transformer.", "te1"),
    ("clip_g.transformer.", "te2"),
    ("t5xxl.transformer.", "te3"),
)
_PEFT_ROOT = "base_model.model."


def locate(module: str) -> tuple[Part, str, bool]:
    """The network that a module's name speaks of, the layer's name in it, and whether that has underscores for dots.

    T5 is told by its layers' names, whatever its number: it is Flux's second text encoder, and SD3's third.
    """
    for prefix, part in _UNDERSCORED:
        if module.startswith(prefix):
            name = module.removeprefix(prefix)
            return ("te3" if part != "unet" and name.startswith("encoder_") else part, name, True)
    name, part = module.removeprefix(_PEFT_ROOT), "unet"
    for prefix, one in _DOTTED:
        if name.startswith(prefix):
            name, part = name.removeprefix(prefix).removeprefix(_PEFT_ROOT), one
            break
    if name.startswith("text_model."):
        part = "te1" if part == "unet" else part
    elif name.startswith("encoder."):
        part = "te3"
    if ".processor.to_" in name:  # diffusers' attention processors held the LoRA, and had no list of outputs
        name = name.replace(".processor.to_", ".to_")
        name += ".0" if name.endswith(".to_out") else ""
    return part, name, False
