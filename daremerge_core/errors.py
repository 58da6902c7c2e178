"""Errors written for the person who meets them.

Every error a user can cause is a :class:`DaremergeError`. Its text says what is wrong, where
(step, tensor, field or file) and what to do next. The command line prints that text and exits with
:attr:`DaremergeError.exit_code`; nothing else in the program catches it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CatalogError",
    "ComponentError",
    "DaremergeError",
    "DeviceMemoryError",
    "Interrupted",
    "ModelFileError",
    "OutputError",
    "PlanError",
    "RecipeError",
    "SelectorError",
    "nearest",
]


_LONGEST_WORD = 200


class DaremergeError(Exception):
    """Something the user can mend. ``hint`` is the next step, printed on its own line."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ModelFileError(DaremergeError):
    """A model, mask or gradient file is missing, damaged, unsafe or of an unknown format."""


class OutputError(DaremergeError):
    """The output cannot be written where the user asked."""


class SelectorError(DaremergeError):
    """A layer selector is malformed or matches nothing."""


class RecipeError(DaremergeError):
    """A recipe does not parse, names an unknown field or step, or has a cycle."""


class PlanError(DaremergeError):
    """A recipe is well formed but cannot work on these models."""


class CatalogError(DaremergeError):
    """A component is unknown, defined twice, or its plugin could not be loaded."""


class ComponentError(DaremergeError):
    """A plugin's component broke its contract while running (wrong shape, an exception, …)."""

    exit_code = 1


class DeviceMemoryError(DaremergeError):
    """The accelerator ran out of memory. The result does not depend on the device, so another one may be tried."""

    exit_code = 1


class Interrupted(DaremergeError):
    """The user stopped the run; nothing was left behind."""

    exit_code = 130


def nearest(word: str, known: Iterable[str], *, count: int = 3) -> str:
    """``' Did you mean x, y?'`` for the known words most like ``word``, or an empty string; so for what is no word."""
    if len(word) > _LONGEST_WORD:  # comparing takes time that grows with the square
        return ""
    close = difflib.get_close_matches(word, sorted(set(known)), n=count, cutoff=0.5)
    return f" Did you mean {', '.join(close)}?" if close else ""
