"""Where a checkpoint keeps each network, and which of its layers' names it uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from daremerge_core.values import Model

from ..modules import Target
from .architectures import ARCHITECTURES, Architecture, Part
from .tables import Entry, Found, Table
from .text_encoders import CLIP, T5

__all__ = ["Checkpoint", "Holding", "survey"]


class Holding(NamedTuple):
    """A network as one checkpoint holds it."""

    table: Table
    prefix: str
    native: bool
    """Whether its tensors have the native names rather than diffusers'."""

    def key(self, entry: Entry) -> str:
        """The tensor in which a layer's weight is, or is a part."""
        return self.prefix + entry.key(native=self.native)

    def target(self, found: Found, shape: Sequence[int]) -> Target:
        """What a module changes in a tensor of this shape, of one dimension or more.

        ``found`` has one entry, or all of a native weight.
        """
        entry = found.entries[0]
        rows = entry.rows(shape[0]) if self.native and not found.native else None
        other = found.native != self.native
        swapped = other and entry.swaps and len(shape) == 2 and shape[0] == 2 * shape[1]
        return Target(self.key(entry), rows, transposed=other and entry.transposed, swapped=swapped)


@dataclass(frozen=True)
class Checkpoint:
    """What :func:`survey` finds."""

    architecture: Architecture
    holdings: Mapping[Part, Holding]


_DENOISERS = ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer.", "")

_ENCODERS: Mapping[Part, tuple[Table, tuple[tuple[str, bool], ...]]] = {
    "te1": (
        CLIP,
        (
            ("cond_stage_model.transformer.", False),
            ("cond_stage_model.model.", True),
            ("conditioner.embedders.0.transformer.", False),
            ("conditioner.embedders.0.model.", True),
            ("text_encoders.clip_l.transformer.", False),
            ("text_encoders.clip_h.transformer.", False),
            ("clip_l.transformer.", False),
            ("clip_h.transformer.", False),
            ("text_encoder.", False),
            ("", False),
        ),
    ),
    "te2": (
        CLIP,
        (
            ("conditioner.embedders.1.model.", True),
            ("text_encoders.clip_g.transformer.", False),
            ("clip_g.transformer.", False),
            ("text_encoder_2.", False),
        ),
    ),
    "te3": (
        T5,
        (
            ("text_encoders.t5xxl.transformer.", False),
            ("t5xxl.transformer.", False),
            ("text_encoder_2.", False),
            ("text_encoder_3.", False),
            ("", False),
        ),
    ),
}
"""Prefix, and whether the names after it are native (OpenCLIP's)."""


def survey(model: Model) -> Checkpoint | None:
    """The networks of a checkpoint, found by how many tensors each description explains; None where it has none."""
    keys = frozenset(model.keys())
    holdings: dict[Part, Holding] = {}
    tables = {id(one.networks["unet"].table): one.networks["unet"].table for one in ARCHITECTURES}.values()
    denoiser = _best(
        keys, (Holding(table, prefix, native) for prefix in _DENOISERS for table in tables for native in (True, False))
    )
    if denoiser is not None:
        holdings["unet"] = denoiser
    for part, (table, places) in _ENCODERS.items():
        found = _best(keys, (Holding(table, prefix, native) for prefix, native in places))
        if found is not None:
            holdings[part] = found
    if not holdings:
        return None
    return Checkpoint(_architecture(model, holdings), holdings)


def _best(keys: frozenset[str], choices: Iterable[Holding]) -> Holding | None:
    """The description that explains most tensors, the first of equals."""
    inside: dict[str, frozenset[str]] = {}
    best, most = None, 0
    for one in choices:
        if one.prefix not in inside:
            length = len(one.prefix)
            inside[one.prefix] = frozenset(key[length:] for key in keys if key.startswith(one.prefix))
        if (count := len(inside[one.prefix] & one.table.keys(native=one.native))) > most:
            best, most = one, count
    return best


def _architecture(model: Model, holdings: Mapping[Part, Holding]) -> Architecture:
    denoiser = holdings.get("unet")
    if denoiser is None:  # text encoders alone
        wanted = "sdxl" if "te2" in holdings else "flux" if "te3" in holdings else "sd15"
        return next(one for one in ARCHITECTURES if one.name == wanted)
    fitting = [one for one in ARCHITECTURES if one.networks["unet"].table is denoiser.table]
    context = _context(model, denoiser)
    return next((one for one in fitting if one.width == context), fitting[0])


def _context(model: Model, denoiser: Holding) -> int | None:
    """The width of the text encoding, from the first cross-attention there is."""
    keys = frozenset(model.keys())
    for entry in denoiser.table.entries:
        if entry.diffusers.endswith("attn2.to_k") and (key := denoiser.key(entry)) in keys:
            return model.meta(key).shape[-1]
    return None
