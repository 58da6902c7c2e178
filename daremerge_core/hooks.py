"""The closed list of hooks a plugin can implement.

A plugin is a module named by an entry point in the group ``daremerge``. Hooks collect and observe;
choosing a component by name never goes through one.

====================================  =====================================================
``plugin.py`` of your distribution    what it gives
====================================  =====================================================
``@hookimpl``                         your components appear as commands, recipe ops, nodes
``def daremerge_components(): …``
====================================  =====================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .components import Component
    from .engine import Summary
    from .layout import LayoutSpec
    from .plan import Plan
    from .stores.sink import Sink
    from .values import Model

__all__ = ["PROJECT", "Hooks", "hookimpl"]

PROJECT = "daremerge"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Decorate a plugin's hook functions with this."""


class Hooks:
    """The hook specifications. An implementation may take fewer arguments than listed."""

    @hookspec
    def daremerge_components(self) -> Sequence[type[Component]]:  # type: ignore[empty-body]
        """The component classes this plugin ships."""

    @hookspec(firstresult=True)
    def daremerge_open(self, path: Path) -> Model | None:
        """Open ``path`` as a model, or None when its format is not this plugin's. The first result wins."""

    @hookspec(firstresult=True)
    def daremerge_create(self, path: Path, plan: Plan) -> Sink | None:
        """A sink that writes ``plan`` to ``path``, or None when its format is not this plugin's."""

    @hookspec(firstresult=True)
    def daremerge_recipe(self, data: Mapping[str, Any], source: str) -> dict[str, Any] | None:
        """A recipe, as plain data, from another tool's configuration, or None when it is not one this plugin knows.

        Asked of a file that has no ``output``, which every recipe has. ``source`` is its name, for messages.
        """

    @hookspec
    def daremerge_layouts(self) -> Sequence[LayoutSpec]:  # type: ignore[empty-body]
        """Architectures this plugin knows."""

    @hookspec
    def daremerge_planned(self, plan: Plan) -> Sequence[str]:  # type: ignore[empty-body]
        """Warnings to show before any work is done."""

    @hookspec
    def daremerge_finished(self, plan: Plan, summary: Summary) -> None:
        """A run has ended and its output is in place."""
