"""The old pack's layer gradients."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..graph import Source, Step
from ..node import Call, Node
from ..values import LayerGradient, gradient_value
from ..weights import patcher_of
from ..widgets import GRADIENT
from . import inputs

__all__ = ["block", "mbw", "nodes", "shell_times_attention"]

MODEL = inputs.model("model", "The model whose layers the gradient is for.")
OUT = [GRADIENT.Output(display_name="LAYER_GRADIENT", tooltip="A ratio for each layer: 1 keeps A, 0 takes B.")]

ANY = {"outside": "allow"}
"""Ratios outside 0 to 1 extrapolate, as they always did in these nodes."""


def nodes() -> list[Node]:
    return [
        _node(
            "DM_GradientOperations",
            "Gradient Operations",
            "Puts two gradients together, layer by layer.",
            [
                inputs.gradient("gradient_a", "The first gradient."),
                inputs.gradient("gradient_b", "The second gradient."),
                inputs.choice(
                    "operation",
                    ("mean", "min", "max", "add", "subtract", "multiply", "divide"),
                    "mean",
                    "What is done with the two ratios of a layer.",
                ),
                inputs.choice(
                    "join", ("inner", "outer"), "inner", "Layers that both have, or also those that only one has."
                ),
            ],
            lambda call: Step(
                f"gradient.{call['operation']}",
                {"join": call["join"], **ANY},
                {"gradients": [gradient_value(call["gradient_a"]), gradient_value(call["gradient_b"])]},
            ),
        ),
        _node(
            "DM_GradientEdit",
            "Gradient Edit",
            "Changes the ratios of some layers. The gradient that comes in stays as it is.",
            [
                inputs.gradient("gradient", "The gradient to change."),
                inputs.choice(
                    "operation",
                    ("set", "add", "subtract", "multiply", "divide"),
                    "set",
                    "What is done with the ratio of each layer.",
                ),
                inputs.rate("value", 0.0, "The ratio to set, or the number to add, subtract, multiply or divide by."),
                inputs.layers(),
            ],
            lambda call: Step(
                "gradient.edit",
                {"operation": call["operation"], "value": call["value"], "include": call["layers"], **ANY},
                {"gradient": gradient_value(call["gradient"])},
            ),
        ),
        _node(
            "DM_BlockGradient",
            "Block Gradient",
            "A ratio for each kind of U-Net block.",
            [MODEL, *inputs.blocks()],
            block,
        ),
        _node(
            "DM_ShellGradient",
            "Shell Gradient",
            "A ratio for each of three shells around the middle of the U-Net, like those of an onion.",
            [MODEL, *inputs.shells()],
            shell,
        ),
        _node(
            "DM_AttentionGradient",
            "Attention Gradient",
            "A ratio for each kind of layer in the transformer blocks.",
            [MODEL, *inputs.attention()],
            attention,
        ),
        _node(
            "DM_MBWGradient",
            "MBW Gradient",
            "A ratio for every single U-Net block.",
            [MODEL, *inputs.mbw()],
            mbw,
        ),
    ]


def _node(id: str, title: str, description: str, own: list[io.Input], step: Any) -> Node:
    return Node(
        id=id,
        title=title,
        category="gradient",
        description=description,
        inputs=lambda: own,
        outputs=OUT,
        run=lambda call: [LayerGradient(step(call))],
    )


def _model(call: Call) -> Source:
    """The model that a gradient is for: of a merge, model A."""
    name = "model" if "model" in call.inputs else "model_a"
    return Source(call[name], call.origin(name))


def block(call: Call) -> Step:
    names = ("time", "label", "input", "middle", "output", "out")
    return Step("gradient.block", {name: call[name] for name in names}, {"model": _model(call)})


def shell(call: Call) -> Step:
    names = ("exterior", "interior", "core")
    return Step("gradient.shell", {name: call[name] for name in names}, {"model": _model(call)})


def attention(call: Call) -> Step:
    names = {"norm": "norm", "attn": "attn", "ff": "ff_net"}
    options = {name: call[old] for name, old in names.items() if call[f"process_{old}"]}
    return Step("gradient.attention", options, {"model": _model(call)})


def shell_times_attention(call: Call) -> Step:
    return Step("gradient.multiply", ANY, {"gradients": [shell(call), attention(call)]})


def mbw(call: Call) -> Step:
    """By name, so that the three parts of the middle block may differ. Widgets for blocks that are not there rest."""
    model = _model(call)
    patcher, _ = patcher_of(model.value)
    present = {".".join(key.split(".")[1:3]) for key in patcher.model_state_dict("diffusion_model.")}
    present |= {name.partition(".")[0] for name in present}
    old = {"time": "time_embed", "label": "label_emb", "out": "out"}
    widgets = [one.id for one in inputs.mbw()]
    names = {old.get(widget, widget): call[widget] for widget in widgets}
    layers = {f"*diffusion_model.{name}.*": ratio for name, ratio in names.items() if name in present}
    return Step("gradient.pattern", {"layers": layers}, {"model": model})
