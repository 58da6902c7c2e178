"""The folder that ComfyUI loads as a node pack: everything is in :mod:`daremerge_comfyui`, beside this file."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """Called by ComfyUI, once."""
    from .daremerge_comfyui.extension import DareMerge

    return DareMerge()
