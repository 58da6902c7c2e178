"""What is wrong, or worth knowing, of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["SEVERITIES", "Finding", "Severity", "by_severity"]

Severity = Literal["error", "warning", "note"]

SEVERITIES: dict[Severity, str] = {
    "error": "the model will not work as it should",
    "warning": "look at it before using or merging the model",
    "note": "good to know",
}
"""Gravest first."""


@dataclass(frozen=True)
class Finding:
    """One finding on one tensor, or on the model (then without a key)."""

    severity: Severity
    what: str
    """The kind of finding in a few words, the same for all of its kind: ``"NaN"``, ``"missing"``."""
    detail: str
    key: str | None = None
    count: int | None = None
    """Elements, rows or tensors that it concerns."""
    data: dict[str, Any] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        return {
            "severity": self.severity,
            "what": self.what,
            "tensor": self.key,
            "count": self.count,
            "detail": self.detail,
            **self.data,
        }


def by_severity(finding: Finding) -> int:
    """Sorts the gravest first."""
    return list(SEVERITIES).index(finding.severity)
