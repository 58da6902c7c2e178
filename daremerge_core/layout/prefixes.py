"""What a tensor's prefix alone says: its part, and its canonical name.

Both depend on nothing but the tensor's own name, so random streams, which are drawn for the canonical
name, do not depend on which other tensors a file holds.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CONTAINERS", "Container", "canonical", "container"]


class Container(NamedTuple):
    """A prefix under which a checkpoint keeps one part."""

    prefix: str
    part: str
    canonical: str | None = None
    """What the prefix becomes in a canonical name; None keeps it."""


# The first that matches counts. Only pure changes of prefix are here: where ComfyUI also renames or splits the
# tensors behind it (OpenCLIP's fused QKV), the two sides do not hold the same tensors and keep their own names.
CONTAINERS: tuple[Container, ...] = (
    Container("model.diffusion_model.", "unet", "diffusion_model."),
    Container("diffusion_model.", "unet"),
    Container("cond_stage_model.transformer.", "clip", "clip_l.transformer."),
    Container("cond_stage_model.", "clip"),
    Container("conditioner.embedders.0.transformer.", "clip", "clip_l.transformer."),
    Container("conditioner.", "clip"),
    Container("text_encoders.", "clip", ""),
    Container("clip_l.", "clip"),
    Container("clip_g.", "clip"),
    Container("clip_h.", "clip"),
    Container("t5xxl.", "clip"),
    Container("first_stage_model.", "vae", "vae."),
    Container("vae.", "vae"),
)


def container(key: str) -> Container | None:
    """The container that ``key`` lies in, or None."""
    return next((one for one in CONTAINERS if key.startswith(one.prefix)), None)


def canonical(key: str) -> str:
    """``model.diffusion_model.x`` → ``diffusion_model.x``, as ComfyUI names it; other names as they are."""
    found = container(key)
    if found is None or found.canonical is None:
        return key
    return found.canonical + key[len(found.prefix) :]
