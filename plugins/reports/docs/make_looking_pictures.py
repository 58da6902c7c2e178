"""Draw the README's pictures of `mask`, `gradient`, `model` and `health`: ``python make_looking_pictures.py``.

Every one is what the report itself draws, of a made-up checkpoint with the names of SDXL and its sides cut short.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from daremerge_core import GradientFamily, MemoryModel, Reporter, view
from daremerge_core.layout import Place, detect
from daremerge_core.rendering.pictures import to_png
from daremerge_core.stores import BitMask
from daremerge_core.testing import report_of
from daremerge_core.testing.layouts import load
from daremerge_reports.gradient import GradientReport
from daremerge_reports.health import HealthReport
from daremerge_reports.mask import MaskReport
from daremerge_reports.model import ModelReport

HERE = Path(__file__).parent
SIDE = 40
CONTEXT = ".4.1.transformer_blocks.0.attn2.to_k.weight"
"""Its width is what SDXL is recognised by."""
LAYER = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_v.weight"

Weights = dict[str, Tensor]


def checkpoint() -> Weights:
    """Weights whose size depends on the role and, least in the middle, on the depth."""
    generator = torch.Generator().manual_seed(4)
    metas = load("sdxl")
    layout = detect(metas)
    weights: Weights = {}
    for key, meta in metas.items():
        shape = tuple(min(size, SIDE) for size in meta.shape)
        if key.endswith(CONTEXT):
            shape = (SIDE, 2048)
        if key == LAYER:
            shape = (120, 160)
        place = layout.place(key)
        size = {"attn": 0.03, "ff": 0.015, "norm": 0.01}.get(place.role.split(".")[0], 0.02)
        depth = 0.5 if place.depth is None else place.depth
        values = torch.randn(shape, generator=generator) * size * (1 + 2 * abs(depth - 0.5))
        if place.role == "norm" and key.endswith("weight"):
            values += 1
        weights[key] = values.half()
    rows = torch.linspace(0, 6.28, 120).cos()[:, None] * torch.linspace(0, 12.6, 160).sin()
    weights[LAYER] = (weights[LAYER].float() * (1 + 0.8 * rows)).half()
    return weights


def mask(weights: Weights) -> BitMask:
    """Attention wholly at the entrance and ever less of it, some of the rest, and nothing of the VAE."""
    layout = detect(load("sdxl"))
    generator = torch.Generator().manual_seed(5)
    selected: Weights = {}
    for key, values in weights.items():
        place = layout.place(key)
        depth = 0.5 if place.depth is None else place.depth
        share = 1.1 - depth if place.role.startswith("attn") else 0.3 + 0.3 * abs(depth - 0.5)
        selected[key] = torch.rand(values.shape, generator=generator) < (0.0 if place.part == "vae" else share)
    return BitMask(MemoryModel(selected))


class Valley(GradientFamily):
    """Keeps A at both ends, takes B in the middle; attention keeps more of A. Norms are left alone."""

    name = "valley"

    def ratio(self, place: Place) -> float | None:
        if place.depth is None or (place.part != "unet" and place.role == "norm"):
            return None
        ratio = abs(2 * place.depth - 1) ** 1.5
        return 0.5 + 0.5 * ratio if place.role.startswith("attn") else ratio


def ill(weights: Weights) -> Weights:
    """Something wrong in five places."""
    unet = "model.diffusion_model"
    ill = {key: values for key, values in weights.items() if not key.startswith("conditioner.embedders.1.model.ln")}
    changes = {
        f"{unet}.input_blocks.5.1.transformer_blocks.0.attn1.to_q.weight": lambda w: w * torch.nan,
        f"{unet}.middle_block.1.transformer_blocks.5.attn2.to_v.weight": lambda w: w * 500,
        f"{unet}.output_blocks.2.1.transformer_blocks.3.ff.net.2.weight": torch.zeros_like,
        f"{unet}.out.2.bias": torch.zeros_like,
        "first_stage_model.decoder.up.1.block.0.conv1.weight": lambda w: w.float() * 1e7,
    }
    return ill | {key: change(weights[key]) for key, change in changes.items()}


def main() -> None:
    weights = checkpoint()
    model = MemoryModel(weights)
    reporters: dict[str, Reporter] = {
        "mask": MaskReport(mask=mask(weights)),
        "gradient": GradientReport(gradient=view(Valley(model=model))),
        "model": ModelReport(model=model),
        "layer": ModelReport(model=model, layer=LAYER),
        "health": HealthReport(model=MemoryModel(ill(weights))),
    }
    for name, reporter in reporters.items():
        (HERE / f"{name}.png").write_bytes(to_png(report_of(reporter), "light"))


if __name__ == "__main__":
    main()
