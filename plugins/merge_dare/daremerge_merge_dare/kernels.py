"""The tensor-wide election that may follow DARE, of ComfyUI-DareMerge.

Shapes: every tensor has the shape of ``delta``, of any rank.
"""

import torch
from torch import Tensor


def votes(delta: Tensor, *, by_count: bool) -> Tensor:
    """What each element adds to a sign election: its value, or one vote for its sign."""
    return torch.sign(delta) if by_count else delta


def elect(delta: Tensor, balance: Tensor) -> Tensor:
    """δ where its sign is that of ``balance`` (0-d), zero elsewhere; a balance of zero keeps all."""
    return torch.where(delta * torch.sign(balance).to(delta.dtype) < 0.0, 0.0, delta)
