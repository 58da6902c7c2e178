"""LoRA files to LORA_MODEL, and back."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from daremerge_core import MemoryModel

from ..lora_files import lora_names, read_lora, stamp
from ..node import Call, Node
from ..saving import DTYPES, next_path, write
from ..widgets import LORA
from .checkpoint import workflow_metadata

__all__ = ["load", "save"]

PREFIX = "loras/daremerge"
DTYPE = "keep"


def load() -> Node:
    return Node(
        id="daremerge.lora.load",
        title="LoRA: load",
        category="lora",
        description="A LoRA file as a value, for nodes that apply, merge, resize, convert or report on one.",
        inputs=lambda: [io.Combo.Input("lora_name", options=lora_names(), tooltip="A file in the loras folder.")],
        outputs=[LORA.Output(display_name="LORA_MODEL", tooltip="The LoRA, with its file's metadata.")],
        run=lambda call: [read_lora(call["lora_name"])],
        fingerprint=stamp,
    )


def save() -> Node:
    own = [
        LORA.Input("lora", tooltip="The LoRA to save."),
        io.String.Input(
            "filename_prefix",
            optional=True,
            default=PREFIX,
            tooltip="Folder and beginning of the name, in ComfyUI's output folder; a number is added.",
        ),
        io.Combo.Input(
            "dtype", optional=True, options=list(DTYPES), default=DTYPE, tooltip="How the LoRA's tensors are stored."
        ),
    ]

    def run(call: Call) -> Any:
        lora = call["lora"]
        path = next_path(call.get("filename_prefix", PREFIX))
        metadata = {**getattr(lora, "metadata", {}), **workflow_metadata(call)}
        line = write(MemoryModel(lora), path, dtype=call.get("dtype", DTYPE), metadata=metadata)
        return io.NodeOutput(str(path), ui={"text": (line,)})

    return Node(
        id="daremerge.lora.save",
        title="LoRA: save",
        category="lora",
        description="Writes a LoRA to a file, with its metadata.",
        inputs=lambda: own,
        outputs=[io.String.Output(display_name="path", tooltip="The file that was written.")],
        run=run,
        is_output=True,
    )
