"""Handwritten digits, and a small network that learns them: enough to see what a merge keeps and loses.

scikit-learn's digits come with the package: 1797 images of 8 × 8 pixels in 10 classes, nothing to download. A base
network learns them upright; each fine-tune learns them under one change (turned, inverted, mirrored), so that base and
fine-tunes relate as a foundation model and its fine-tunes do, and how much of a skill a merge kept is a percentage.

A network is a plain state dict of float32 tensors (:data:`Weights`), which is what gets saved and merged. Functions
are pure: the same arguments give the same weights, and torch's global random and thread settings are left as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine import one_thread_per_op
from ..errors import DaremergeError

__all__ = ["TASKS", "Digits", "Split", "Weights", "accuracy", "fine_tune", "load_digits", "pretrain"]

Weights = dict[str, Tensor]
"""Tensor name → float32 tensor."""

PIXELS, WIDTH, CLASSES = 64, 512, 10
BATCH = 32

TASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "rotated": lambda images: images.rot90(1, dims=(1, 2)),
    "negative": lambda images: -images,
    "mirrored": lambda images: images.flip(2),
}
"""What each fine-tune learns: a change of ``(count, 8, 8)`` images in [−1, 1]."""


@dataclass(frozen=True)
class Split:
    """Images ``(count, 8, 8)`` in [−1, 1], float32, −1 is paper; labels ``(count,)`` 0 to 9, int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Digits:
    """Three disjoint splits: 60 % to train on, 20 % to tune options on, 20 % to report."""

    train: Split
    validation: Split
    test: Split


def load_digits(seed: int) -> Digits:
    """The digits, shuffled by ``seed`` and split.

    Raises:
        DaremergeError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise DaremergeError(
            "the demo needs scikit-learn for its handwritten digits",
            hint='Install it: pip install "daremerge-core[demo]"',
        ) from None
    found = datasets.load_digits()
    images = torch.from_numpy(found.images).float() / 8 - 1  # pixels come as 0 to 16
    labels = torch.from_numpy(found.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    first, second = round(0.6 * len(order)), round(0.8 * len(order))
    parts = (order[:first], order[first:second], order[second:])
    return Digits(*(Split(images[part], labels[part]) for part in parts))


def pretrain(digits: Digits, *, seed: int, epochs: int = 30) -> Weights:
    """A base network: learns the digits upright, shifted by up to a pixel and noisy, from scratch."""
    with torch.random.fork_rng(devices=[]):  # layers initialise themselves from the global generator
        torch.manual_seed(seed)
        network = _network()
    return _train(network, digits.train, seed=seed, epochs=epochs, rate=1e-3, change=_jitter)


def fine_tune(base: Weights, digits: Digits, task: str, *, seed: int, epochs: int = 10) -> Weights:
    """``base`` trained further on the images of one of :data:`TASKS`."""
    network = _network()
    network.load_state_dict(base)
    changed = Split(TASKS[task](digits.train.images), digits.train.labels)
    return _train(network, changed, seed=seed, epochs=epochs, rate=3e-4, change=lambda images, _: images)


def accuracy(weights: Weights, split: Split, task: str) -> float:
    """Percentage of a split's images, changed as ``task`` says, whose digit the network names."""
    network = _network()
    network.load_state_dict(weights)
    with torch.inference_mode():
        named = network(TASKS[task](split.images)).argmax(dim=1)
    return float((named == split.labels).double().mean()) * 100


def _network() -> nn.Module:
    """64-512-512-512-10 with LayerNorm and GELU: 567k parameters. Takes ``(count, 8, 8)``, answers logits."""

    def layer(width: int) -> list[nn.Module]:
        return [nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()]

    return nn.Sequential(nn.Flatten(), *layer(PIXELS), *layer(WIDTH), *layer(WIDTH), nn.Linear(WIDTH, CLASSES))


def _train(
    network: nn.Module,
    split: Split,
    *,
    seed: int,
    epochs: int,
    rate: float,
    change: Callable[[Tensor, torch.Generator], Tensor],
) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    with one_thread_per_op():  # tensors this small are slower on more, and sums in another order
        for _ in range(epochs):
            for batch in torch.randperm(len(split.labels), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
                optimizer.zero_grad()
                F.cross_entropy(network(change(split.images[batch], generator)), split.labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by −1, 0 or 1 pixel both ways, with noise of standard deviation 0.2."""
    count, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1), value=-1.0)
    down, right = torch.randint(0, 3, (2, count, 1), generator=generator)
    rows = (down + torch.arange(height))[:, :, None]
    columns = (right + torch.arange(width))[:, None, :]
    moved = padded[torch.arange(count)[:, None, None], rows, columns]
    return moved + 0.2 * torch.randn(moved.shape, generator=generator)
