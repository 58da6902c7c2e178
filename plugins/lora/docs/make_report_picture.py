"""Draw report.png, the README's picture of ``report lora``: ``python make_report_picture.py`` (needs matplotlib).

A LoRA with the names and shapes that one for SD 1.5 has; its numbers are made up, largest in the middle of the U-Net.
"""

from __future__ import annotations

import json
from pathlib import Path

from daremerge_core import MemoryModel
from daremerge_core.layout import detect
from daremerge_core.rendering import write_report
from daremerge_core.testing import report_of
from daremerge_core.testing.layouts import HeaderModel, load
from daremerge_lora.formats import open_lora
from daremerge_lora.report import LoraReport
from daremerge_lora.targets import match
from daremerge_lora.testing import random_lora

TAGS = {"8_hero": {"hero": 96, "cape": 71, "smile": 40, "night": 22, "rooftop": 17, "rain": 9}}


def example() -> MemoryModel:
    model = HeaderModel(load("sd15"))
    layout = detect({key: model.meta(key) for key in model.keys()})
    lora = random_lora(model, rank=8, size=0.02)
    tensors = {key: lora.read(key) for key in lora.keys()}
    file = open_lora(lora)
    for name, target in match(file, model).targets.items():
        depth = layout.place(target.key).depth
        up = file.modules[name].tensors["up"]
        tensors[up] = tensors[up] * (0.3 if depth is None else 1.2 - abs(depth - 0.55))
    return MemoryModel(tensors, {"ss_tag_frequency": json.dumps(TAGS)})


if __name__ == "__main__":
    report = report_of(LoraReport(lora=example()))
    write_report(report, Path(__file__).parent / "report.png", overwrite=True)
