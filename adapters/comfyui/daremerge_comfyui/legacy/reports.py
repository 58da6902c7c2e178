"""The old pack's reports."""

from __future__ import annotations

from collections.abc import Callable

from comfy_api.latest import io

from ..generated import report_output, report_outputs
from ..graph import Source, Step
from ..lora_files import lora_names, read_lora, stamp
from ..node import Call, Node
from ..running import report
from ..values import gradient_value, lora_value, mask_value
from . import inputs

__all__ = ["nodes"]

SIZE_OR_DETAILS = inputs.choice("report", ("size", "details"), "size", "A line for each block, or for each layer.")


def nodes() -> list[Node]:
    return [
        _node(
            "DM_ModelReporting",
            "Model Reporting",
            "A picture of one layer's weights, or of the whole model.",
            lambda: [
                inputs.model("model", "The model to look at."),
                io.String.Input(
                    "layer",
                    default="",
                    multiline=None,
                    tooltip="The layer: its name, or the end of it. Empty: the whole model.",
                ),
                inputs.choice(
                    "scaling",
                    ("mean", "log", "max", "min", "std", "none"),
                    "mean",
                    "What the weights are divided by before they are drawn, or log.",
                ),
            ],
            lambda call: Step(
                "report.model",
                {"scaling": call["scaling"], **({"layer": call["layer"].strip()} if call["layer"].strip() else {})},
                {"model": Source(call["model"], call.origin("model"))},
            ),
        ),
        _node(
            "DM_MaskReporting",
            "Mask Reporting",
            "What a mask selects, block by block or layer by layer.",
            lambda: [inputs.mask("mask", "The mask to look at."), SIZE_OR_DETAILS],
            lambda call: Step("report.mask", {"show": call["report"]}, {"mask": mask_value(call["mask"])}),
        ),
        _node(
            "DM_LoRAReporting",
            "LoRA Reporting",
            "What a LoRA was trained on and what it changes.",
            lambda: [
                inputs.choice("lora_name", lora_names(), None, "A file in the loras folder."),
                inputs.choice(
                    "report",
                    ("tags", "size", "details"),
                    "tags",
                    "The tags it was trained with, a line for each block, or one for each module.",
                ),
                inputs.integer("limit", 10, 1, 100, "How many tags are shown."),
            ],
            lambda call: Step(
                "report.lora",
                {"show": call["report"], "limit": call["limit"]},
                {"lora": lora_value(read_lora(call["lora_name"]))},
            ),
            reads_file=True,
        ),
        _node(
            "DM_GradientReporting",
            "Gradient Reporting",
            "The ratios of a layer gradient, block by block or layer by layer.",
            lambda: [inputs.gradient("gradient", "The gradient to look at."), SIZE_OR_DETAILS],
            lambda call: Step(
                "report.gradient", {"show": call["report"]}, {"gradient": gradient_value(call["gradient"])}
            ),
        ),
    ]


def _node(
    id: str,
    title: str,
    description: str,
    own: Callable[[], list[io.Input]],
    step: Callable[[Call], Step],
    *,
    reads_file: bool = False,
) -> Node:
    return Node(
        id=id,
        title=title,
        category="report",
        description=description,
        inputs=own,
        outputs=report_outputs(),
        run=lambda call: report_output(report(step(call)), shown=False),
        fingerprint=stamp if reads_file else None,
    )
