"""Saving a checkpoint by streaming: no part of it is held in memory as a whole."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..node import Call, Node
from ..recipes import recipe_of, to_yaml
from ..running import Stopped
from ..saving import DTYPES, as_checkpoint, next_path, write

__all__ = ["save", "workflow_metadata"]

PREFIX = "checkpoints/daremerge"
DTYPE = "fp16"


def save() -> Node:
    own = [
        io.Model.Input("model", tooltip="The model to save, with all its patches applied."),
        io.Clip.Input("clip", optional=True, tooltip="The text encoder to save in the same file."),
        io.Vae.Input("vae", optional=True, tooltip="The VAE to save in the same file."),
        io.String.Input(
            "filename_prefix",
            optional=True,
            default=PREFIX,
            tooltip="Folder and beginning of the name, in ComfyUI's output folder; a number is added.",
        ),
        io.Combo.Input(
            "dtype",
            optional=True,
            options=list(DTYPES),
            default=DTYPE,
            tooltip="How weights are stored. keep: as they are in memory, which without a GPU is fp32 for many models.",
        ),
    ]

    def run(call: Call) -> Any:
        path = next_path(call.get("filename_prefix", PREFIX))
        model = as_checkpoint(call["model"], call.get("clip"), call.get("vae"))
        line = write(model, path, dtype=call.get("dtype", DTYPE), metadata=_metadata(call))
        return io.NodeOutput(str(path), ui={"text": (line,)})

    return Node(
        id="daremerge.save.checkpoint",
        title="Save Checkpoint (streaming)",
        category="save",
        description="Writes model, text encoder and VAE to a checkpoint file, tensor by tensor, in the dtype of your "
        "choice. A merge of this pack is written down in it as a recipe.",
        inputs=lambda: own,
        outputs=[io.String.Output(display_name="path", tooltip="The file that was written.")],
        run=run,
        is_output=True,
    )


def _metadata(call: Call) -> dict[str, str]:
    found = {"format": "pt", **workflow_metadata(call)}
    try:
        found["daremerge.recipe"] = to_yaml(recipe_of(call["model"]))
    except Stopped:  # not a merge, or one of models that are no files
        return found
    return found


def workflow_metadata(call: Call) -> dict[str, str]:
    """The workflow, as ComfyUI puts it into what it saves, unless it was started with --disable-metadata."""
    from comfy.cli_args import args

    if args.disable_metadata:
        return {}
    found = {"prompt": json.dumps(call.prompt)} if call.prompt else {}
    return found | {name: json.dumps(value) for name, value in (call.workflow or {}).items()}
