"""The core's words, as the canvas says them."""

from __future__ import annotations

import re

__all__ = ["canvas_words"]


def canvas_words(text: str) -> str:
    """``--on-mismatch`` → ``on_mismatch``: where the command line has a flag, a node has a widget."""
    return re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), text)
