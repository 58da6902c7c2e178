"""For people who write plugins: conformance suites, tiny checkpoints, real layouts, and a pytest plugin.

Subclass a suite in your plugin's tests and name your component; pytest does the rest::

    from daremerge_core.testing import MergeMethodTests
    from my_plugin import PowerLerp

    class TestPowerLerp(MergeMethodTests):
        component = PowerLerp
"""

from __future__ import annotations

from .conformance import (
    ComponentTests,
    GradientFamilyTests,
    MaskerTests,
    MergeMethodTests,
    ModelEditTests,
    ReporterTests,
    SparsifierTests,
)
from .reports import report_of
from .tiny import tiny_model, tiny_tensors

__all__ = [
    "ComponentTests",
    "GradientFamilyTests",
    "MaskerTests",
    "MergeMethodTests",
    "ModelEditTests",
    "ReporterTests",
    "SparsifierTests",
    "report_of",
    "tiny_model",
    "tiny_tensors",
]
