"""The blends' numerics: from A at t = 0 to B at t = 1.

Shapes: ``a`` and ``b`` have one shape, of any rank, and the result has it too, unless a kernel says more. Dtypes:
float32 or float64, the same for all. No kernel writes into its arguments; at an end the result *is* an argument.

Every bit is determined: tensors meet only in single additions, subtractions, multiplications and divisions, and
sums have a fixed order. ``torch.lerp``, ``addcmul`` and ``add(alpha=…)`` fuse a multiplication with an addition
where the processor can, in vectors but not in what is left over, so that bits would depend on where a span begins;
``torch.sin`` and ``torch.acos`` differ between vectors and leftovers as well. Angles are therefore Python floats, one
at a time; their last bit is the C library's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

from daremerge_core import kernels as core

from . import shares

__all__ = [
    "add_difference",
    "bislerp",
    "cosine",
    "cubic",
    "cyclic",
    "gradient",
    "gradient_share",
    "hslerp",
    "lerp",
    "products",
    "scaled_add",
    "slerp",
    "slice_",
]

P = ParamSpec("P")

PARALLEL = 0.9995
"""|cos θ| above which slerp is lerp, as is customary: there the arc bulges from its chord by at most 1/8000 of its
radius, and between opposite tensors no arc is shorter than another."""

ROWS_BLOCK = 1 << 16
"""Elements that methods by rows work on at once, to stay in the CPU's caches; no part of the result's definition."""


def exact_ends(
    blend: Callable[Concatenate[Tensor, Tensor, float, P], Tensor],
) -> Callable[Concatenate[Tensor, Tensor, float, P], Tensor]:
    """A blend that answers A itself at t = 0 and B itself at t = 1: no rounding, no NaN from the other side."""

    @wraps(blend)
    def exact(a: Tensor, b: Tensor, t: float, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if t == 0.0:
            return a
        if t == 1.0:
            return b
        return blend(a, b, t, *args, **kwargs)

    return exact


# --- one share of B for a whole tensor ---------------------------------------------------------------


@exact_ends
def lerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """a + t(b − a). An element that A and B share stays as it is. Outside 0..1 the line goes on."""
    return core.lerp(a, b, t)


def cosine(a: Tensor, b: Tensor, t: float) -> Tensor:
    """:func:`lerp` at :func:`.shares.cosine`."""
    return lerp(a, b, shares.cosine(t))


def cubic(a: Tensor, b: Tensor, t: float) -> Tensor:
    """:func:`lerp` at :func:`.shares.cubic`."""
    return lerp(a, b, shares.cubic(t))


def scaled_add(a: Tensor, b: Tensor, t: float) -> Tensor:
    """:func:`lerp` at :func:`.shares.scaled_add`, whose ``ZeroDivisionError`` at t = −1 it raises too."""
    return lerp(a, b, shares.scaled_add(t))


def add_difference(a: Tensor, difference: Tensor, amount: float) -> Tensor:
    """a + amount · difference; a itself where ``amount`` is 0."""
    return a if amount == 0.0 else a + difference * amount


# --- a share of B for each position along the last dimension ------------------------------------------


def _taken(t: float, size: int) -> int:
    """round(t·size), half to even, between 0 and size: how many of ``size`` positions a share of t is."""
    return min(max(round(t * size), 0), size)


@exact_ends
def slice_(a: Tensor, b: Tensor, t: float, position: Tensor, size: int) -> Tensor:
    """B at the first round(t·size) positions, A at the rest.

    Args:
        position: int64, of the shape of ``a``: each element's index along the last dimension, 0..size − 1.
        size: the last dimension's size; 1 for a 0-d tensor.
    """
    return torch.where(position < _taken(t, size), b, a)


@exact_ends
def cyclic(a: Tensor, b: Tensor, t: float, position: Tensor, size: int) -> Tensor:
    """B at k = round(t·size) positions spread evenly, A at the rest; ``position`` and ``size`` as in :func:`slice_`.

    Position i is B where ⌊(i + 1)k / size⌋ steps up from ⌊ik / size⌋: Bresenham's line, in integers, so that there
    are exactly k and the gaps between them differ by one at most.
    """
    taken = _taken(t, size)
    return torch.where(position * taken % max(size, 1) >= size - taken, b, a)


@exact_ends
def gradient(a: Tensor, b: Tensor, t: float, position: Tensor, size: int) -> Tensor:
    """B's share is a ramp with its peak at t along the last dimension, t on average (:func:`gradient_share`)."""
    return _lerp_each(a, b, gradient_share(position, size, t, a.dtype))


def gradient_share(position: Tensor, size: int, t: float, dtype: torch.dtype) -> Tensor:
    """B's share at each position: w(x) = t + s(m − |x − t|), x = (i + ½) / size, for t within 0..1.

    m is the mean of |x − t| over the positions, so the mean share is t. The slope s is the steepest that leaves every
    share between 0 and 1: w reaches 0 at the farthest end for t ≤ ½, and 1 at the peak for t ≥ ½; at t = ½ it goes
    from 0 over 1 to 0. A t outside 0..1 counts as the nearer end.
    """
    t = min(max(t, 0.0), 1.0)
    mean = (t * t + (1.0 - t) * (1.0 - t)) / 2.0  # of |x − t| over a continuous x
    slope = min(t / (max(t, 1.0 - t) - mean), (1.0 - t) / mean)
    x = (position.to(dtype) + 0.5) * (1.0 / max(size, 1))  # not divided: a GPU would round differently
    share = t + ((_mean_distance(size, t) - (x - t).abs()) * slope)
    return share.clamp(0.0, 1.0)  # against rounding only


def _mean_distance(size: int, t: float) -> float:
    """The mean of |x − t| over x = (i + ½) / size, i = 0..size − 1."""
    if size == 0:
        return 0.0
    below = min(max(math.ceil(t * size - 0.5), 0), size)  # how many positions lie below t
    return (2 * below - size) * t / size + (size * size - 2 * below * below) / (2.0 * size * size)


def _lerp_each(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """a + w(b − a) with a share w for each element; from the nearer end, so 0 and 1 are exact."""
    difference = b - a
    return torch.where(share < 0.5, a + difference * share, b - difference * (1.0 - share))


# --- along an arc ------------------------------------------------------------------------------------


def products(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a·b, a·a and b·b element by element in float64; their sums over a tensor are what :func:`slerp` needs."""
    a, b = a.double(), b.double()
    return a * b, a * a, b * b


@exact_ends
def slerp(a: Tensor, b: Tensor, t: float, ab: float, aa: float, bb: float) -> Tensor:
    """sin((1 − t)θ)/sin θ · a + sin(tθ)/sin θ · b, where cos θ = ab / (√aa √bb).

    Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985, on unnormalised tensors. It is lerp where
    |cos θ| > 0.9995 or where there is no angle: a tensor of zeros, or one that is not finite.

    Args:
        ab, aa, bb: Σab, Σa², Σb² over the whole tensor of which ``a`` and ``b`` may be a span.
    """
    weights = _arc_weights(_cosine_of_angle(ab, aa, bb), t)
    if weights is None:
        return lerp(a, b, t)
    return a * weights[0] + b * weights[1]


def _cosine_of_angle(ab: float, aa: float, bb: float) -> float:
    """ab / (√aa √bb); NaN where a length is zero or not finite."""
    lengths = math.sqrt(aa) * math.sqrt(bb)
    return ab / lengths if 0.0 < lengths < math.inf else math.nan


def _arc_weights(cos_theta: float, t: float) -> tuple[float, float] | None:
    """Slerp's weights of A and B; None where it is lerp."""
    if not abs(cos_theta) <= PARALLEL:  # NaN too
        return None
    theta = math.acos(cos_theta)
    return math.sin((1.0 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


@exact_ends
def bislerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Each row's direction along an arc, its length along a line.

    slerp(a/‖a‖, b/‖b‖, t) · ((1 − t)‖a‖ + t‖b‖) for each row: of a matrix its row, of a convolution weight
    (out, in, …) all that one output channel reads, of a vector the whole vector. Rows that are parallel in the sense of
    :func:`slerp`, or have no angle, are lerp. After ComfyUI's latent upscaler of that name.

    Shape: ``a`` and ``b`` are tensors, or some of their rows.
    """
    return _by_rows(_bislerp_rows, a, b, t)


def _bislerp_rows(a: Tensor, b: Tensor, t: float) -> Tensor:
    """:func:`bislerp` of matrices (rows, n, …)."""
    shape = a.shape
    a, b = a.flatten(1), b.flatten(1)  # (rows, n)
    ab, aa, bb = (_sum_along(product, 1) for product in products(a, b))  # (rows,)
    cosines = map(_cosine_of_angle, ab.tolist(), aa.tolist(), bb.tolist())
    weights = [_arc_weights(one, t) or (math.nan, math.nan) for one in cosines]
    arc = torch.tensor(weights, dtype=torch.float64, device=a.device)  # (rows, 2); NaN where the row is lerp
    norms = torch.stack([aa.sqrt(), bb.sqrt()], 1)  # (rows, 2)
    length = norms[:, :1] * (1.0 - t) + norms[:, 1:] * t  # (rows, 1)
    scale = (arc * length / norms).to(a.dtype)  # (rows, 2)
    curved = a * scale[:, :1] + b * scale[:, 1:]
    return torch.where(arc[:, :1].isnan(), lerp(a, b, t), curved).reshape(shape)


@exact_ends
def hslerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """lerp, and on the first channel a bump: sin(2πt)/6 · ‖b − a‖, the norm taken over the channels.

    Channels are dimension 1, the inputs of a weight (out, in, …), or the only dimension there is. The bump rises to
    ‖b − a‖/6 at t = ¼, falls to −‖b − a‖/6 at t = ¾, and is zero at both ends, halfway, and where A equals B.

    Shape: ``a`` and ``b`` are tensors, or some of their rows.
    """
    return _by_rows(_hslerp_rows, a, b, t)


def _hslerp_rows(a: Tensor, b: Tensor, t: float) -> Tensor:
    """:func:`hslerp` of tensors (rows, channels, …)."""
    difference = b.double() - a.double()
    norm = _sum_along(difference * difference, 1).sqrt()  # (rows, …)
    bump = (norm * (math.sin(2.0 * math.pi * t) / 6.0)).to(a.dtype)
    blended = lerp(a, b, t)
    return torch.cat([(blended[:, 0] + bump).unsqueeze(1), blended[:, 1:]], 1)


def _by_rows(blend: Callable[[Tensor, Tensor, float], Tensor], a: Tensor, b: Tensor, t: float) -> Tensor:
    """A blend whose rows do not depend on each other, a cacheful of rows at a time; a vector is one row."""
    if not a.numel():
        return a
    rows_a, rows_b = (one if one.dim() > 1 else one.reshape(1, -1) for one in (a, b))
    step = max(ROWS_BLOCK * rows_a.shape[0] // a.numel(), 1)
    result = torch.empty_like(rows_a, memory_format=torch.contiguous_format)
    for start in range(0, rows_a.shape[0], step):
        block = slice(start, start + step)
        result[block] = blend(rows_a[block], rows_b[block], t)
    return result.reshape(a.shape)


def _sum_along(values: Tensor, dim: int) -> Tensor:
    """The sum along one dimension, by a fixed binary tree.

    ``torch.sum`` picks its order of additions by vector width and thread count; see
    :func:`daremerge_core.kernels.tree_sum`.
    """
    size = values.shape[dim]
    missing = (1 << max(size - 1, 0).bit_length()) - size
    if missing:
        zeros = values.new_zeros([*values.shape[:dim], missing, *values.shape[dim + 1 :]])
        values = torch.cat([values, zeros], dim)
    while values.shape[dim] > 1:
        low, high = values.chunk(2, dim)
        values = low + high
    return values.squeeze(dim)
