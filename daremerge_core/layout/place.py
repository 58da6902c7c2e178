"""Where a tensor lies in its model, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PARTS", "ROLES", "Place"]

PARTS: tuple[str, ...] = ("unet", "clip", "vae", "lm", "other")
"""What a merge may be limited to: the denoiser (U-Net or transformer), the text encoders, the
autoencoder, the decoder of a language model, and whatever is none of these."""

ROLES: dict[str, str] = {
    "attn.q": "projects to the queries",
    "attn.k": "projects to the keys",
    "attn.v": "projects to the values",
    "attn.qkv": "queries, keys and values in one tensor",
    "attn.out": "projects attention's output back",
    "attn.norm": "normalises queries or keys (QK-norm)",
    "attn": "any other part of attention: position bias, sinks",
    "ff": "feed-forward layers, gates and experts",
    "fused": "attention and feed-forward in one tensor (Flux single blocks)",
    "norm": "layer, group and RMS normalisation",
    "conv": "convolutions of residual blocks, and a first convolution",
    "proj": "in and out of a spatial transformer (proj_in, proj_out); not attention itself",
    "embed": "token, position and patch embeddings, and the entry of another stream",
    "time": "the timestep: its embedding, and its projections inside blocks",
    "label": "other conditioning vectors: size and class labels, pooled text, guidance",
    "mod": "modulation of a block by the conditioning (adaLN)",
    "skip": "shortcuts around a residual block whose width changes",
    "resample": "down- and upsampling",
    "head": "the last projection to the output",
    "scale": "scalars: logit scale, scales of quantised weights",
    "other": "none of these, or unknown",
}
"""Every role, with its meaning. Roles of attention, and only they, have ``attn`` as their first word."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies.

    ``depth`` runs from 0 at the first block that a forward pass visits to 1 at the last. It is None for
    what stands beside the stack (the embeddings of time and label, which every block reads) and for
    what lies in no known block.
    """

    key: str
    """The tensor's name, as asked."""
    name: str
    """The canonical name, which random streams are drawn for: one name whatever the file's prefixes."""
    part: str
    """One of :data:`PARTS`."""
    block: str | None
    """The block's name within its part, such as ``input_blocks.1`` or ``clip_l.layers.3``."""
    depth: float | None
    role: str
    """One of :data:`ROLES`."""
