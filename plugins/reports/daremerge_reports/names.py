"""What to call the models of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath

from daremerge_core import Model

__all__ = ["name_models"]


def name_models(models: Mapping[str, Model]) -> dict[str, str]:
    """A name for each model by its word in the report: its file's, with as much as tells it from the others.

    A model that is a step's result has the step's name, and one that is neither is called by its word.
    """
    paths = {word: PurePath(path) for word, model in models.items() if (path := getattr(model, "path", None))}
    names = {word: getattr(model, "label", None) or word for word, model in models.items()}
    return names | {word: _shortest(path, {*paths.values()} - {path}) for word, path in paths.items()}


def _shortest(path: PurePath, others: set[PurePath]) -> str:
    taken = [set(_names(other)) for other in others]
    return next((name for name in _names(path) if not any(name in names for names in taken)), str(path))


def _names(path: PurePath) -> Iterator[str]:
    """``model``, ``model.safetensors``, ``folder/model.safetensors`` …"""
    yield path.stem
    for count in range(1, len(path.parts) + 1):
        yield str(PurePath(*path.parts[-count:]))
