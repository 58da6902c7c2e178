"""Names, dtypes and shapes of real checkpoints, without their weights.

For tests and benchmarks that must meet what users have: whole files as their makers published them (fp16 for the
Stable Diffusion models; bf16 and fp16 for Flux), each as gzipped JSON ``{name: [dtype, shape]}``.
"""

from __future__ import annotations

import gzip
import json
from importlib.resources import files

from ...values import TensorMeta

__all__ = ["NAMES", "load"]

NAMES: tuple[str, ...] = ("sd15", "sdxl", "sd3", "flux-dev")
"""The checkpoints there are."""


def load(name: str) -> dict[str, TensorMeta]:
    """Every tensor of a checkpoint of :data:`NAMES`, in the order of its file; ``KeyError`` for another name."""
    if name not in NAMES:
        raise KeyError(f"no layout {name!r}; there are {', '.join(NAMES)}")
    packed = files(__package__).joinpath(f"{name}.json.gz").read_bytes()
    tensors = json.loads(gzip.decompress(packed))
    return {key: TensorMeta(key, dtype, tuple(shape)) for key, (dtype, shape) in tensors.items()}
