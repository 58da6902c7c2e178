"""From a LoRA's modules to a checkpoint's tensors, and from a checkpoint's tensors to the names of modules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from daremerge_core.errors import ModelFileError, PlanError
from daremerge_core.values import Model

from ..formats import WRITABLE, LoraFile, Writable
from ..modules import Module, Target
from .architectures import ARCHITECTURES, PARTS, Architecture, locate
from .checkpoints import Checkpoint, survey
from .tables import Entry, Found

__all__ = ["Matching", "architecture_in", "architecture_of", "match", "module_names"]


@dataclass(frozen=True)
class Matching:
    """What each module of a LoRA changes in one checkpoint. Every module is in ``targets`` or in ``reasons``."""

    targets: Mapping[str, Target]
    """Module's name → what it changes, in the LoRA's order."""
    reasons: Mapping[str, str]
    """Module's name → why it changes nothing."""

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The modules that find no target: of a text encoder that the checkpoint lacks, of another architecture …"""
        return tuple(self.reasons)


def match(lora: LoraFile, model: Model) -> Matching:
    """Find what each module changes, from headers alone.

    The checkpoint may be whole or a bare denoiser, with the names of its authors, ComfyUI or diffusers. A module whose
    change does not have the weight's shape is unmatched. Raises :class:`~daremerge_core.errors.ModelFileError` for a
    module whose tensors do not fit together.
    """
    checkpoint = survey(model)
    keys = frozenset(model.keys())
    targets: dict[str, Target] = {}
    reasons: dict[str, str] = {}
    for name, module in lora.modules.items():
        answer = _target(lora, module, model, keys, checkpoint)
        if isinstance(answer, Target):
            targets[name] = answer
        else:
            reasons[name] = answer
    return Matching(MappingProxyType(targets), MappingProxyType(reasons))


def _target(
    lora: LoraFile, module: Module, model: Model, keys: frozenset[str], checkpoint: Checkpoint | None
) -> Target | str:
    """What a module changes, or why nothing."""
    if checkpoint is None:
        return "the checkpoint is of no known architecture"
    part = locate(module.name)[0]
    located = checkpoint.architecture.find(module.name)
    if located is None:
        if part not in checkpoint.architecture.networks:
            return f"{checkpoint.architecture.title} has no {PARTS[part]}"
        return f"{checkpoint.architecture.title} has no layer of this name"
    part, found = located
    holding = checkpoint.holdings.get(part)
    if holding is None:
        return f"the checkpoint has no {PARTS[part]}"
    key = holding.key(found.entries[0])
    if len(found.entries) > 1 and not holding.native:
        return f"the checkpoint holds its weight as {len(found.entries)} tensors: convert the LoRA to diffusers' names"
    if key not in keys:
        return f"the checkpoint has no tensor {key}"
    shape = model.meta(key).shape
    if not shape:
        return f"the checkpoint's tensor {key} is a single number"
    target = holding.target(found, shape)
    return _misfit(lora, module, model, keys, target) or target


def _misfit(lora: LoraFile, module: Module, model: Model, keys: frozenset[str], target: Target) -> str:
    """Why a module's change cannot be added to what its name stands for; empty if it can."""
    weight = list(model.meta(target.key).shape)
    if target.transposed:
        weight.reverse()
    if target.rows is not None:
        weight[0] = target.rows[1] - target.rows[0]
    shape = lora.shape(module)
    # Factors may be matrices where the weight is a convolution's, and convolutions of 1 x 1 where it is a matrix.
    if shape and (shape[0] != weight[0] or math.prod(shape) != math.prod(weight)):
        return f"its change has the shape {_shown(shape)}, the weight {_shown(weight)}"
    if "diff_b" in module.tensors:
        change = lora.model.meta(module.tensors["diff_b"]).shape
        if target.bias not in keys:
            return f"it changes a bias, and the checkpoint has no tensor {target.bias}"
        if math.prod(change) != weight[0]:
            return f"its change of the bias has the shape {_shown(change)}, the bias ({weight[0]},)"
    return ""


def _shown(shape: tuple[int, ...] | list[int]) -> str:
    return str(tuple(shape))


def architecture_in(model: Model) -> Architecture | None:
    """The architecture of a checkpoint; None for one that is not known."""
    checkpoint = survey(model)
    return None if checkpoint is None else checkpoint.architecture


def architecture_of(lora: LoraFile) -> Architecture | None:
    """The architecture that knows most of a LoRA's modules; None where no module's name is known.

    Of several, the one whose formats spell most of the names so, as kohya's do for SD 1.5 and SDXL; then the one whose
    attention has the width that the modules show, which tells SD 1.5 from 2, and SD3 from Flux; then the first.
    """
    ranks = {one.name: _familiarity(lora, one) for one in ARCHITECTURES}
    best = max(ranks.values())
    if best == (0, 0):
        return None
    fitting = [one for one in ARCHITECTURES if ranks[one.name] == best]
    width = _width(lora, fitting[0]) if len(fitting) > 1 else None
    return next((one for one in fitting if one.width == width), fitting[0])


def _familiarity(lora: LoraFile, architecture: Architecture) -> tuple[int, int]:
    """How many of the modules' names the architecture knows, and how many it would write like that."""
    known = spelt = 0
    for name in lora.modules:
        if (located := architecture.find(name)) is not None:
            part, found = located
            known += 1
            spelt += any(architecture.networks[part].name(one, found.entries[0]) == name for one in WRITABLE)
    return known, spelt


def _width(lora: LoraFile, architecture: Architecture) -> int | None:
    """What the first module that shows it says of :attr:`Architecture.width`."""
    for name, module in lora.modules.items():
        located = architecture.find(name)
        if located is not None and located[1].entries[0].diffusers.endswith(_SHOWS_WIDTH):
            with suppress(ModelFileError):  # a damaged module tells nothing
                if len(shape := lora.shape(module)) > 1:
                    return shape[1]
    return None


_SHOWS_WIDTH = (
    *("attn2.to_k", "attn2.to_v"),
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    # Of the text encoder, whose output is what a U-Net's keys are projected from.
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1"),
)


def module_names(model: Model, format: Writable) -> list[tuple[str, Target]]:
    """What a LoRA of this format calls every linear and convolution of a checkpoint that trainers know.

    In the checkpoint's order. A format that names fused weights gives one module for each, others one for each part.
    Raises :class:`~daremerge_core.errors.PlanError` for a checkpoint of no known architecture, and for one whose
    separate weights the format can only name fused.
    """
    checkpoint = survey(model)
    if checkpoint is None:
        raise PlanError(
            "The checkpoint is of no architecture whose LoRA names are known.",
            hint=f"Known are {', '.join(one.title for one in ARCHITECTURES)}.",
        )
    order = {key: index for index, key in enumerate(model.keys())}
    named: list[tuple[str, Target]] = []
    for part, holding in checkpoint.holdings.items():
        network = checkpoint.architecture.networks.get(part)
        if network is None:
            continue
        native = format in network.native
        for found in _layers(holding.table.by_native, native=native):
            key = holding.key(found.entries[0])
            if key not in order or len(shape := model.meta(key).shape) < 2:
                continue
            if len(found.entries) > 1 and not holding.native:
                raise PlanError(
                    f"The format {format} has no name for {key} alone: it is a part of {found.entries[0].native}.",
                    hint="Use the format diffusers for a checkpoint with diffusers' names.",
                )
            named.append((network.name(format, found.entries[0]), holding.target(found, shape)))
    return sorted(named, key=lambda one: (order[one[1].key], one[1].rows or (0, 0)))


def _layers(by_native: Mapping[str, tuple[Entry, ...]], *, native: bool) -> list[Found]:
    if native:
        return [Found(parts, True) for parts in by_native.values()]
    return [Found((entry,), False) for parts in by_native.values() for entry in parts]
