"""DARE: Drop And REscale (Yu et al., "Language Models are Super Mario", arXiv 2311.03099, section 3.2).

Shapes: every tensor has the shape of ``delta``, of any rank.
"""

import torch
from torch import Tensor

from daremerge_core.kernels import select


def drop(delta: Tensor, keep: Tensor, drop_rate: float, *, rescale: bool) -> Tensor:
    """m ⊙ δ / (1 − p): δ where ``keep``, scaled so that its expectation stays δ; zero elsewhere.

    A drop rate of 1 gives zeros, and a dropped element is zero even where δ is NaN or infinite. Written as a product:
    a GPU divides by a number in a way of its own, and its last bit would differ from the CPU's.
    """
    kept = delta * (1.0 / (1.0 - drop_rate)) if rescale and drop_rate < 1.0 else delta
    return select(keep, kept)


def votes(delta: Tensor, *, by_count: bool) -> Tensor:
    """What each element adds to a sign election: its value, or one vote for its sign."""
    return torch.sign(delta) if by_count else delta


def elect(delta: Tensor, balance: Tensor) -> Tensor:
    """δ where its sign is that of ``balance`` (0-d), zero elsewhere; a balance of zero keeps all."""
    return torch.where(delta * torch.sign(balance).to(delta.dtype) < 0.0, 0.0, delta)
