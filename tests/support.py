"""What tests share: where the fixtures lie, and how to write a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daremerge_core.stores.memory import MemoryModel

FIXTURES = Path(__file__).parent / "fixtures"


def save(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    """Write tensors as a safetensors file."""
    from daremerge_core.stores.writer import SafetensorsWriter

    model = MemoryModel(tensors, metadata or {})
    with SafetensorsWriter(
        path, [model.meta(key) for key in model.keys()], dict(model.metadata), overwrite=True
    ) as sink:
        for key in model.keys():
            sink.write(key, 0, model.read(key).reshape(-1))
        sink.commit()
    return path
