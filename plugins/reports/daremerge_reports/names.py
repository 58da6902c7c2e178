"""What to call the models of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from daremerge_core import Model

__all__ = ["name_models"]


def name_models(models: Mapping[str, Model]) -> dict[str, str]:
    """A name for each model by its word in the report: its file's, with as many folders as tell it from the others.

    A model that is a step's result has the step's name, and one that is neither is called by its word.
    """
    paths = {word: PurePath(path) for word, model in models.items() if (path := getattr(model, "path", None))}
    names = {word: getattr(model, "label", None) or word for word, model in models.items()}
    return names | {
        word: _shortest(path, [other for other in paths.values() if other != path]) for word, path in paths.items()
    }


def _shortest(path: PurePath, others: list[PurePath]) -> str:
    for count in range(1, len(path.parts) + 1):
        tail = path.parts[-count:]
        if all(other.parts[-count:] != tail for other in others):
            return str(PurePath(*tail))
    return str(path)
