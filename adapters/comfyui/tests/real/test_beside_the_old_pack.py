"""Somebody who installs this pack and leaves the old one: ComfyUI says nothing of it, so the pack does."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.server import PACK, serving

OLD_PACK = Path(__file__).with_name("old_pack")


@pytest.mark.parametrize("order", [("old", "daremerge"), ("daremerge", "old")], ids=["loaded before", "loaded after"])
def test_a_warning(order: tuple[str, str], tmp_path: Path) -> None:
    """ComfyUI reads the folders in the order of the file system: both are tried under names in either order."""
    packs = {"old": OLD_PACK, "daremerge": PACK}
    with serving(tmp_path, {name: packs[name] for name in order}) as server:
        said = [line for line in server.log().splitlines() if line.startswith("daremerge: ")]
    assert any("1 nodes, such as DM_QuadMasker, are also defined by custom_nodes.old" in line for line in said)
