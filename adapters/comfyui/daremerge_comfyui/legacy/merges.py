"""The old pack's merges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.latest import io

from ..generated import merged_output
from ..graph import Source, Step
from ..node import Call, Node
from ..values import gradient_value, mask_value
from . import gradients, inputs

__all__ = ["nodes"]

A = inputs.model("model_a", "Model A: what a ratio of 1 keeps.")
B = inputs.model("model_b", "Model B: what a ratio of 0 takes.")
MODEL = io.Model.Output(display_name="MODEL", tooltip="Model A with the merge as a patch.")

GradientStep = Callable[[Call], Any]


def nodes() -> list[Node]:
    """Merges of U-Nets and of text encoders."""
    block = [*inputs.blocks(), A, B, inputs.method()]
    dare_block = [A, B, *inputs.dare(), *inputs.blocks()]
    return [
        _plain(
            "DM_AdvancedModelMerger",
            "Model Merger (Advanced)",
            "Merges two models with a layer gradient that says how strongly each layer mixes.",
            [A, B, inputs.gradient("gradient", "A ratio for each layer: 1 keeps A, 0 takes B."), inputs.method()],
            _given_gradient,
        ),
        _dare(
            "DM_AdvancedDareModelMerger",
            "Model Merger (Advanced/DARE)",
            "DARE: adds a random share of B's changes to A, with a layer gradient that says how strongly.",
            [A, B, inputs.gradient("gradient", "A ratio for each layer: 1 keeps A, 0 takes B."), *inputs.dare()],
            _given_gradient,
        ),
        _plain(
            "DM_BlockModelMerger",
            "Model Merger (Block)",
            "Merges two models with a ratio for each kind of U-Net block.",
            block,
            gradients.block,
        ),
        _dare(
            "DM_DareModelMergerBlock",
            "Model Merger (Block/DARE)",
            "DARE with a ratio for each kind of U-Net block.",
            dare_block,
            gradients.block,
        ),
        _dare(
            "DM_DareModelMergerMBW",
            "Model Merger (MBW/DARE)",
            "DARE with a ratio for every single U-Net block (MBW).",
            [*inputs.mbw(), A, B, *inputs.dare()],
            gradients.mbw,
        ),
        _dare(
            "DM_DareModelMergerElement",
            "Model Merger (Attention/DARE)",
            "DARE with the product of two ratios: of a layer's shell, and of its kind in a transformer block.",
            [A, B, *inputs.dare(), *inputs.shells(), *inputs.attention()],
            gradients.shell_times_attention,
        ),
        _clip(),
        # Ids of earlier releases, which published workflows still have.
        _dare(
            "DM_DareModelMerger",
            "Model Merger (DARE, old id)",
            "The earlier id of Model Merger (Block/DARE).",
            dare_block,
            gradients.block,
            is_deprecated=True,
        ),
        _plain(
            "DM_MaskedModelMerger",
            "Model Merger (Masked, old id)",
            "The earlier id of Model Merger (Block), where the mask must be given.",
            [*block, inputs.mask("model_mask", "Only what this mask selects may change.")],
            gradients.block,
            mask=False,
            is_deprecated=True,
        ),
    ]


def _given_gradient(call: Call) -> Any:
    return gradient_value(call["gradient"])


def _plain(
    id: str,
    title: str,
    description: str,
    own: Sequence[io.Input],
    gradient: GradientStep,
    *,
    mask: bool = True,
    is_deprecated: bool = False,
) -> Node:
    def step(call: Call) -> Step:
        return Step(f"merge.{blend(call['method'])}", {}, _ports(call, gradient(call)))

    extra = [*([inputs.MODEL_MASK] if mask else []), inputs.KEEP]
    return _node(id, title, description, [*own, *extra], step, is_deprecated)


def _dare(
    id: str,
    title: str,
    description: str,
    own: Sequence[io.Input],
    gradient: GradientStep,
    *,
    is_deprecated: bool = False,
) -> Node:
    def step(call: Call) -> Step:
        base = {"base": Source(call["base"], call.origin("base"))} if call.get("base") is not None else {}
        return Step("merge.dare", _dare_options(call), _ports(call, gradient(call)) | base)

    extra = [inputs.MODEL_MASK, inputs.BASE, inputs.KEEP]
    return _node(id, title, description, [*own, *extra], step, is_deprecated)


def _node(
    id: str,
    title: str,
    description: str,
    own: Sequence[io.Input],
    step: Callable[[Call], Step],
    is_deprecated: bool,
) -> Node:
    return Node(
        id=id,
        title=title,
        category="unet",
        description=description,
        inputs=lambda: own,
        outputs=[MODEL],
        run=lambda call: [merged_output(call["model_a"], step(call), call.get("keep_in", "auto"))],
        is_deprecated=is_deprecated,
    )


def _ports(call: Call, gradient: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "a": Source(call["model_a"], call.origin("model_a")),
        "b": Source(call["model_b"], call.origin("model_b")),
        "gradient": gradient,
    }
    if call.get("model_mask") is not None:
        found["mask"] = mask_value(call["model_mask"])
    return found


def blend(method: str) -> str:
    """The old pack's word for a way to blend → the component's name."""
    return "lerp" if method == "comfy" else method.replace("_", "-")


def _dare_options(call: Call) -> dict[str, Any]:
    return {
        "drop_rate": call["drop_rate"],
        "ties": call["ties"],
        "rescale": call["rescale"] == "on",
        "seed": call["seed"],
        "blend": blend(call["method"]),
        "iterations": call["iterations"],
    }


def _clip() -> Node:
    own = [
        io.Clip.Input("clip_a", tooltip="Text encoder A: what a ratio of 1 keeps."),
        io.Clip.Input("clip_b", tooltip="Text encoder B: what a ratio of 0 takes."),
        inputs.ties(),
        inputs.rescale(),
        inputs.rate("ratio", 1.0, "1 keeps A, 0 takes B."),
        inputs.rate("drop_rate", 0.9, "Share of the changes that is dropped at random."),
        io.Int.Input("seed", default=42, tooltip="Chooses the random numbers; the same seed gives the same result."),
        inputs.method(("comfy", "lerp", "slerp", "gradient"), None),
        inputs.iterations(),
        io.Clip.Input(
            "base",
            optional=True,
            tooltip="The text encoder that B was tuned from. With it the changes are B − base; without, B − A.",
        ),
        inputs.KEEP,
    ]

    def step(call: Call) -> Step:
        ports = {"a": "clip_a", "b": "clip_b", "base": "base"}
        found = {port: Source(call[name], call.origin(name)) for port, name in ports.items() if call.get(name)}
        return Step("merge.dare", {**_dare_options(call), "ratio": call["ratio"]}, found)

    return Node(
        id="DM_DareClipMerger",
        title="CLIP Merger (DARE)",
        category="clip",
        description="DARE for text encoders, with one ratio for all layers.",
        inputs=lambda: own,
        outputs=[io.Clip.Output(display_name="CLIP", tooltip="Text encoder A with the merge as a patch.")],
        run=lambda call: [merged_output(call["clip_a"], step(call), call.get("keep_in", "auto"))],
    )
