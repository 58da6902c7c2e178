"""Which elements of which tensors make an attention's queries, keys and values: by name, role and shape alone.

An attention computes softmax(QKᵀ/√d) V. Its projections are separate tensors, or fused ones whose rows are those of
Q, then K, then V (OpenCLIP's ``in_proj``, the ``qkv`` of diffusion transformers, Phi's ``qkv_proj``); the first layer
of Flux's single blocks has the rows of an MLP behind them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from daremerge_core import Model, Place

Projection = Literal["query", "key", "value", "rest"]

OUTPUTS = ("o_proj", "out_proj", "proj", "to_out.0", "to_out")
"""What the projection of an attention's output is called, beside a fused one."""

JOINT = {"x_block": "block", "context_block": "block", "img_attn": "attn", "txt_attn": "attn"}
"""Name segments of the two streams of a joint attention (SD3, Flux), whose queries meet the keys of both: they are
one attention."""


class Section(NamedTuple):
    """A run of a tensor's elements in row-major order, as far as ``stop``."""

    projection: Projection
    stop: int


def layer_of(key: str) -> str:
    """The layer a parameter is of: ``mlp.fc1`` for ``mlp.fc1.bias``, ``attn.in_proj`` for ``attn.in_proj_weight``."""
    return re.sub(r"[._](weight|bias)$", "", key)


def is_bias(key: str) -> bool:
    return key.endswith((".bias", "_bias"))


def attention_of(key: str) -> str:
    """The attention that a projection is of: the module that holds it, the two streams of a joint one under one name.

    ``attn1`` for ``attn1.to_q.weight``, ``block.attn`` for ``x_block.attn.qkv.bias`` of SD3.
    """
    return ".".join(JOINT.get(segment, segment) for segment in _module_of(key).split("."))


def sections(place: Place, model: Model) -> Sequence[Section] | None:
    """How a tensor's elements divide into projections of an attention.

    None for a tensor that is no projection to queries, keys or values; nothing for a fused one whose shape says
    that its rows are not Q, K and V one after the other.
    """
    numel = model.meta(place.key).numel
    if place.role == "attn.q":
        return [Section("query", numel)]
    if place.role == "attn.k":
        return [Section("key", numel)]
    if place.role == "attn.v":
        return [Section("value", numel)]
    if place.role not in ("attn.qkv", "fused"):
        return None
    weight = _shape(model, f"{place.key[:-4]}weight" if is_bias(place.key) else place.key)
    rows, columns = weight if len(weight) == 2 else (0, 0)
    if place.role == "fused":
        # Q, K and V are square here, and what follows is the MLP; the second fused layer has fewer rows than that.
        return _fused(numel // rows, columns, columns, rows) if rows > 3 * columns > 0 else None
    # What comes out of an attention is as wide as its queries; with grouped queries, keys and values are narrower.
    queries = next((shape[1] for shape in _outputs(place.key, model) if len(shape) == 2), columns)
    shared, odd = divmod(rows - queries, 2)
    return _fused(numel // rows, queries, shared, rows) if shared > 0 and not odd else []


def _fused(width: int, queries: int, keys: int, rows: int) -> list[Section]:
    """Sections of a tensor with these numbers of rows, each ``width`` elements: of Q, of K and of V, and in all."""
    values = queries + 2 * keys
    found = [Section("query", queries), Section("key", queries + keys), Section("value", values)]
    if values < rows:
        found.append(Section("rest", rows))
    return [Section(projection, width * stop) for projection, stop in found]


def _module_of(key: str) -> str:
    return re.sub(r"\.[0-9]+$", "", layer_of(key)).rpartition(".")[0]


def _outputs(key: str, model: Model) -> Sequence[tuple[int, ...]]:
    return [_shape(model, f"{_module_of(key)}.{output}.weight") for output in OUTPUTS]


def _shape(model: Model, key: str) -> tuple[int, ...]:
    """Shape of a tensor, () for one that the model lacks."""
    try:
        return model.meta(key).shape
    except KeyError:
        return ()
