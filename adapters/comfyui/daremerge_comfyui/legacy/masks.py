"""The old pack's masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..graph import Source, Step
from ..node import Call, Node
from ..running import value_of
from ..values import ModelMask, mask_value
from ..widgets import MASK
from . import inputs

__all__ = ["nodes"]

OUT = MASK.Output(display_name="MODEL_MASK", tooltip="Which weights' elements may change; computed when used.")

OPERATIONS = ("random", "gaussian", "true", "false")
ARGUMENTS = [
    inputs.rate("arg_one", 0.0, "random: the share of elements that is selected. gaussian: the mean of the draws."),
    inputs.rate("arg_two", 0.0, "gaussian: the standard deviation of the draws; those above the mean select."),
]


def nodes() -> list[Node]:
    return [
        _node(
            "DM_SimpleMasker",
            "Simple Masker",
            "A mask of everything, of nothing, or of a random share of a model's elements.",
            [
                inputs.model("model", "The model whose weights the mask is for."),
                inputs.choice("operation", OPERATIONS, "true", "What is selected."),
                *ARGUMENTS,
                inputs.seed(),
            ],
            lambda call: [_drawn(call, {"model": _source(call, "model")})],
        ),
        _node(
            "DM_MagnitudeMasker",
            "Magnitude Masker",
            "Selects the elements that moved most, or least, between two models.",
            [
                inputs.model("model_a", "The model whose changes are looked at."),
                inputs.model("model_b", "What the changes are counted from: the base both models were tuned from."),
                inputs.rate("threshold", 0.0, "The quantile: the share of each layer's elements that lies below."),
                inputs.choice(
                    "threshold_type",
                    ("median", "quantile"),
                    "median",
                    "The same: the quantile is exact at any size. Kept for old workflows.",
                ),
                inputs.choice("select", ("above", "below"), "below", "The elements that moved more, or less."),
            ],
            lambda call: [
                Step(
                    "mask.magnitude",
                    {name: call[name] for name in ("threshold", "threshold_type", "select")},
                    {"model": _source(call, "model_a"), "base": _source(call, "model_b")},
                )
            ],
        ),
        _node(
            "DM_QuadMasker",
            "Quad Masker",
            "Four random masks that do not overlap and together cover everything.",
            [inputs.model("model", "The model whose weights the masks are for."), inputs.seed()],
            lambda call: [
                Step(
                    "mask.partition",
                    {"count": 4, "index": index, "seed": call["seed"]},
                    {"model": _source(call, "model")},
                )
                for index in range(1, 5)
            ],
            outputs=4,
        ),
        _node(
            "DM_MaskOperations",
            "Mask Operations",
            "Set operations on two masks.",
            [
                inputs.mask("mask_a", "The first mask."),
                inputs.mask("mask_b", "The second mask."),
                inputs.choice(
                    "operation",
                    ("union", "intersect", "difference", "xor"),
                    "union",
                    "In either, in both, in the first alone, or in exactly one of them.",
                ),
            ],
            lambda call: [
                Step(
                    f"mask.{call['operation']}",
                    {},
                    {"masks": [mask_value(call["mask_a"]), mask_value(call["mask_b"])]},
                )
            ],
        ),
        _node(
            "DM_MaskEdit",
            "Mask Edit",
            "Replaces a mask in some layers. The mask that comes in stays as it is.",
            [
                inputs.mask("mask", "The mask to change."),
                inputs.choice("operation", OPERATIONS, "random", "What is selected in these layers."),
                *ARGUMENTS,
                inputs.seed(),
                inputs.layers(),
            ],
            _edited,
        ),
    ]


def _node(
    id: str,
    title: str,
    description: str,
    own: list[io.Input],
    steps: Callable[[Call], list[Step]],
    *,
    outputs: int = 1,
) -> Node:
    def run(call: Call) -> list[Any]:
        found = steps(call)
        for step in found:
            value_of(step)  # what headers show to be wrong is said here, not by the node that uses the mask
        return [ModelMask(step) for step in found]

    return Node(
        id=id,
        title=title,
        category="mask",
        description=description,
        inputs=lambda: own,
        outputs=[OUT] if outputs == 1 else [_numbered(number) for number in range(1, outputs + 1)],
        run=run,
    )


def _numbered(number: int) -> io.Output:
    return MASK.Output(display_name="MODEL_MASK", tooltip=f"Set {number} of 4.")


def _source(call: Call, name: str) -> Source:
    return Source(call[name], call.origin(name))


def _options(call: Call) -> dict[str, Any]:
    if call["operation"] == "random":
        return {"probability": call["arg_one"], "seed": call["seed"]}
    if call["operation"] == "gaussian":
        return {"mean": call["arg_one"], "std": call["arg_two"], "threshold": call["arg_one"], "seed": call["seed"]}
    return {}


def _drawn(call: Call, ports: dict[str, Any]) -> Step:
    return Step(f"mask.{call['operation']}", _options(call), ports)


def _edited(call: Call) -> list[Step]:
    to = {"op": call["operation"], **_options(call)}
    return [Step("mask.edit", {"include": call["layers"], "to": to}, {"mask": mask_value(call["mask"])})]
