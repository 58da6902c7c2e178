"""Real checkpoints without their weights, for tests and benchmarks that must meet what users have."""

from __future__ import annotations

from ..layout.published import NAMES, HeaderModel, load

__all__ = ["NAMES", "HeaderModel", "load"]
