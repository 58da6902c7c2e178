"""The old pack's edits of a model, and its LoRA loader."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..generated import merged_output
from ..graph import Source, Step
from ..lora_files import lora_names, read_lora, stamp
from ..node import Call, Node
from ..running import report
from ..values import Lora, lora_value, mask_value
from . import inputs
from .merges import blend

__all__ = ["nodes"]

MODEL = io.Model.Output(display_name="MODEL", tooltip="The model with the change as a patch.")


def nodes() -> list[Node]:
    return [_normalize(), _noise(), _lora_loader()]


def _normalize() -> Node:
    own = [
        inputs.model("model_a", "The model to normalise."),
        inputs.model("model_b", "The model whose norms are taken."),
        inputs.choice(
            "method",
            ("q_norm", "all", "none", "attn_only"),
            "attn_only",
            "attn_only: queries and keys against each other, so that attention stays the same; q_norm: queries alone; "
            "all: every layer; none: nothing.",
        ),
        inputs.choice("magnify", ("off", "on"), "off", "Scale by the inverse: away from B's norms."),
        inputs.KEEP,
    ]

    def run(call: Call) -> list[Any]:
        if call["method"] == "none":
            return [call["model_a"]]
        step = Step(
            "edit.normalize",
            {"method": call["method"], "magnify": call["magnify"] == "on"},
            {
                "model": Source(call["model_a"], call.origin("model_a")),
                "like": Source(call["model_b"], call.origin("model_b")),
            },
        )
        return [merged_output(call["model_a"], step, call.get("keep_in", "auto"))]

    return Node(
        id="DM_NormalizeModel",
        title="Normalize Model",
        category="util",
        description="Scales one model's parameters to the norms of another's.",
        inputs=lambda: own,
        outputs=[MODEL],
        run=run,
    )


def _noise() -> Node:
    own = [
        inputs.model("model", "The model to add noise to."),
        inputs.choice("operation", ("random", "gaussian"), "gaussian", "Uniform from −0.5 to 0.5, or gaussian."),
        inputs.rate("ratio", 0.98, "1 adds no noise, 0 all of it."),
        inputs.rate("mean", 0.05, "Mean of gaussian noise."),
        inputs.rate("std", 0.01, "Standard deviation of gaussian noise."),
        inputs.seed(),
        inputs.layers(default="*.to_v*"),
        inputs.method(),
        inputs.MODEL_MASK,
        inputs.KEEP,
    ]

    def run(call: Call) -> list[Any]:
        gaussian = call["operation"] == "gaussian"
        options = {
            "operation": "gaussian" if gaussian else "uniform",
            **({"mean": call["mean"], "std": call["std"]} if gaussian else {}),
            "ratio": call["ratio"],
            "seed": call["seed"],
            "include": call["layers"],
            "blend": blend(call["method"]),
        }
        ports: dict[str, Any] = {"model": Source(call["model"], call.origin("model"))}
        if call.get("model_mask") is not None:
            ports["mask"] = mask_value(call["model_mask"])
        return [merged_output(call["model"], Step("edit.noise", options, ports), call.get("keep_in", "auto"))]

    return Node(
        id="DM_InjectNoise",
        title="Inject Noise",
        category="util",
        description="Adds noise to some layers of a model.",
        inputs=lambda: own,
        outputs=[MODEL],
        run=run,
    )


def _lora_loader() -> Node:
    def own() -> list[io.Input]:
        return [
            io.Model.Input("model", tooltip="The model that the LoRA is put into."),
            io.Clip.Input("clip", tooltip="The text encoder that the LoRA is put into."),
            inputs.choice("lora_name", lora_names(), None, "A file in the loras folder."),
            inputs.number("strength_model", 1.0, -20.0, 20.0, "How strongly the model changes."),
            inputs.number("strength_clip", 1.0, -20.0, 20.0, "How strongly the text encoder changes."),
            inputs.integer("tag_limit", 10, 1, 100, "How many tags are given."),
        ]

    def run(call: Call) -> list[Any]:
        import comfy.sd

        lora = read_lora(call["lora_name"])
        model, clip = comfy.sd.load_lora_for_models(
            call["model"], call["clip"], dict(lora), call["strength_model"], call["strength_clip"]
        )
        return [model, clip, ", ".join(_tags(lora, call["tag_limit"]))]

    return Node(
        id="DM_LoRALoaderTags",
        title="LoRA Loader (Tags)",
        category="lora",
        description="Puts a LoRA into a model and its text encoder, and gives the tags it was trained with.",
        inputs=own,
        outputs=[
            io.Model.Output(display_name="MODEL", tooltip="The model with the LoRA as a patch."),
            io.Clip.Output(display_name="CLIP", tooltip="The text encoder with the LoRA as a patch."),
            io.String.Output(display_name="STRING", tooltip="The most frequent tags, parted by commas."),
        ],
        run=run,
        fingerprint=stamp,
    )


def _tags(lora: Lora, limit: int) -> list[str]:
    found = report(Step("report.lora", {"show": "tags"}, {"lora": lora_value(lora)}))
    return [one["tag"] for one in found.data["tags"]][:limit]
