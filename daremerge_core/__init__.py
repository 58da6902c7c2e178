"""daremerge: merge model checkpoints, byte for byte reproducibly, in bounded memory.

This is what a plugin's author imports::

    from daremerge_core import MergeMethod, hookimpl

and what a script imports::

    from daremerge_core import merge_recipe, open_model

Everything here is resolved on first use, so that importing :mod:`daremerge_core` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .api import merge_recipe as merge_recipe
    from .catalog import API_VERSION as API_VERSION
    from .catalog import Catalog as Catalog
    from .catalog import discover as discover
    from .components import BlendRef as BlendRef
    from .components import GradientEditor as GradientEditor
    from .components import GradientFamily as GradientFamily
    from .components import GradientRef as GradientRef
    from .components import LoraRef as LoraRef
    from .components import LoraTool as LoraTool
    from .components import MaskEditor as MaskEditor
    from .components import Masker as Masker
    from .components import MaskerRef as MaskerRef
    from .components import MaskRef as MaskRef
    from .components import MergeMethod as MergeMethod
    from .components import ModelEdit as ModelEdit
    from .components import ModelRef as ModelRef
    from .components import MultiMergeMethod as MultiMergeMethod
    from .components import Numbers as Numbers
    from .components import RecipeRef as RecipeRef
    from .components import Refiner as Refiner
    from .components import RefinerRef as RefinerRef
    from .components import Reporter as Reporter
    from .components import Shares as Shares
    from .components import Sparsifier as Sparsifier
    from .components import SparsifierRef as SparsifierRef
    from .components import WeightedBy as WeightedBy
    from .errors import DaremergeError as DaremergeError
    from .hooks import hookimpl as hookimpl
    from .layout import Layout as Layout
    from .layout import LayoutSpec as LayoutSpec
    from .layout import Place as Place
    from .site import Site as Site
    from .stores import open_model as open_model
    from .stores.memory import MemoryModel as MemoryModel
    from .survey import Survey as Survey
    from .values import Gradient as Gradient
    from .values import Mask as Mask
    from .values import Model as Model
    from .values import Report as Report
    from .values import Span as Span
    from .values import TensorMeta as TensorMeta
    from .views import view as view

_HOMES = {
    "api": ["merge_recipe"],
    "catalog": ["API_VERSION", "Catalog", "discover"],
    "components": [
        "BlendRef",
        "GradientEditor",
        "GradientFamily",
        "GradientRef",
        "LoraRef",
        "LoraTool",
        "MaskEditor",
        "MaskRef",
        "Masker",
        "MaskerRef",
        "MergeMethod",
        "ModelEdit",
        "ModelRef",
        "MultiMergeMethod",
        "Numbers",
        "RecipeRef",
        "Refiner",
        "RefinerRef",
        "Reporter",
        "Shares",
        "Sparsifier",
        "SparsifierRef",
        "WeightedBy",
    ],
    "errors": ["DaremergeError"],
    "hooks": ["hookimpl"],
    "layout": ["Layout", "LayoutSpec", "Place"],
    "site": ["Site"],
    "stores": ["open_model"],
    "stores.memory": ["MemoryModel"],
    "survey": ["Survey"],
    "values": ["Gradient", "Mask", "Model", "Report", "Span", "TensorMeta"],
    "views": ["view"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
