"""The catalog: every installed component, found by entry points and looked up by (kind, name).

A plugin that fails to import is recorded with its reason and the rest goes on. Two components of the same
(kind, name) are an error that names both distributions.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Any

import pluggy

from .components import KINDS, Component
from .errors import CatalogError, nearest
from .hooks import PROJECT, Hooks

__all__ = ["API_VERSION", "SHIPPED", "Catalog", "Plugin", "discover", "distribution_of", "shipped_by"]

API_VERSION = 1
"""The version of what :mod:`daremerge_core` offers plugins. A plugin may set ``DAREMERGE_API = 1`` to say what it
was written for; one written for a newer version is refused by name."""

SHIPPED: dict[str, dict[str, str]] = {
    "daremerge-edits": {"edit": "clamp noise normalize rescale"},
    "daremerge-gradients": {
        "gradient": "add attention block depth divide edit max mbw mean min multiply parts pattern shell subtract"
    },
    "daremerge-lora": {"lora": "apply convert extract merge resize", "report": "lora"},
    "daremerge-masks": {
        "mask": "difference edit false gaussian intersect invert magnitude overlap partition pattern random "
        "sign-agreement true union xor"
    },
    "daremerge-merge-basic": {
        "merge": "add-difference bislerp colorize cosine cubic cyclic gradient hslerp lerp scaled-add slerp slice"
    },
    "daremerge-merge-dare": {"merge": "dare", "sparsify": "dare"},
    "daremerge-merge-tasks": {
        "merge": "breadcrumbs breadcrumbs-ties consensus dare-linear dare-ties della della-linear iso-c iso-cts "
        "karcher linear model-stock multislerp nearswap nuslerp passthrough sce task-arithmetic tasks ties tsv-m wudi",
        "sparsify": "breadcrumbs della magnitude",
        "refine": "lines svc",
    },
    "daremerge-reports": {"report": "conflict diff gradient health mask merge model"},
}
"""Which distribution of the project ships what: what to install when a recipe names a missing component."""


def shipped_by(kind: str, name: str | None = None) -> list[str]:
    """The project's distributions that ship a component of this kind, or the one that ships this component."""
    found = ((home, names[kind].split()) for home, names in SHIPPED.items() if kind in names)
    return [home for home, names in found if name is None or name in names]


@dataclass
class Plugin:
    """One entry point: where it comes from, what it gave, or why it could not be loaded."""

    name: str
    distribution: str
    version: str
    components: list[type[Component]] = field(default_factory=list)
    error: str | None = None
    detail: str | None = None


class Catalog:
    """Installed components and the hooks of the plugins they came from."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(Hooks)
        self.plugins: list[Plugin] = []
        self._by_kind: dict[str, dict[str, tuple[type[Component], Plugin]]] = {kind: {} for kind in KINDS}

    @property
    def hook(self) -> Any:
        """Call a hook of every plugin: ``catalog.hook.daremerge_planned(plan=plan)``."""
        return self.manager.hook

    def register(self, module: ModuleType | object, *, name: str, distribution: str = "", version: str = "") -> Plugin:
        """Register one plugin module; a plugin that breaks the rules is recorded with the reason, not raised.

        Raises:
            CatalogError: it defines a component that another plugin already has.
        """
        plugin = Plugin(name, distribution or name, version)
        self.plugins.append(plugin)
        try:
            wanted = getattr(module, "DAREMERGE_API", API_VERSION)
            if wanted > API_VERSION:
                raise CatalogError(
                    f"it needs plugin API {wanted}; this daremerge-core offers {API_VERSION}",
                    hint="Update daremerge-core: pip install -U daremerge-core",
                )
            self.manager.register(module, name=name)
            self.manager.check_pending()
            caller = self.manager.subset_hook_caller(
                "daremerge_components",
                [other for other in self.manager.get_plugins() if other is not module],
            )
            found = [cls for group in caller() for cls in group]
            for cls in found:
                _check_component(cls)
        except Exception as error:  # one broken plugin must not take the host down
            if self.manager.is_registered(module):
                self.manager.unregister(module)
            plugin.error = _reason(error)
            plugin.detail = traceback.format_exc()
            return plugin
        for cls in found:
            self._add(cls, plugin)
        plugin.components = found
        return plugin

    def unregister(self, name: str) -> None:
        """Forget a plugin and its components."""
        self.manager.unregister(name=name)
        self.plugins = [plugin for plugin in self.plugins if plugin.name != name]
        for table in self._by_kind.values():
            for key in [key for key, (_, plugin) in table.items() if plugin.name == name]:
                del table[key]

    def _add(self, cls: type[Component], plugin: Plugin) -> None:
        table = self._by_kind[cls.kind]
        if cls.name in table:
            _, other = table[cls.name]
            raise CatalogError(
                f"{cls.kind}.{cls.name} is defined twice: by {other.distribution} and by {plugin.distribution}",
                hint=f"Uninstall one of them: pip uninstall {plugin.distribution}",
            )
        table[cls.name] = (cls, plugin)

    def names(self, kind: str) -> list[str]:
        return sorted(self._by_kind.get(kind, {}))

    def get(self, kind: str, name: str) -> type[Component]:
        """The component class called ``name``; ``_`` and ``-`` are the same.

        Raises:
            CatalogError: there is none; names the nearest ones, or the distribution to install.
        """
        table = self._by_kind.get(kind)
        if table is None:
            raise CatalogError(f"there is no kind {kind!r}.{nearest(kind, KINDS)}", hint=f"Kinds: {', '.join(KINDS)}")
        normal = name.replace("_", "-")
        if normal in table:
            return table[normal][0]
        for home in shipped_by(kind, normal):
            raise CatalogError(f"{kind}.{normal} is not installed", hint=f"It comes with {home}: pip install {home}")
        known = ", ".join(sorted(table)) or "none"
        raise CatalogError(f"there is no {kind} called {name!r}.{nearest(normal, table)}", hint=f"Installed: {known}")

    def all(self, kind: str) -> list[type[Component]]:
        return [self._by_kind[kind][name][0] for name in self.names(kind)]

    def plugin_of(self, cls: type[Component]) -> Plugin:
        return self._by_kind[cls.kind][cls.name][1]

    def op(self, op: str) -> type[Component]:
        """The component of a recipe's ``op: kind.name``."""
        kind, dot, name = op.partition(".")
        if not dot:
            found = [f"{one}.{op}" for one in KINDS if op.replace("_", "-") in self._by_kind[one]]
            hint = f"Did you mean {', '.join(found)}?" if found else "For example: merge.lerp"
            raise CatalogError(f"op {op!r} must be written kind.name", hint=hint)
        return self.get(kind, name)


def _check_component(cls: object) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Component)):
        raise TypeError(f"daremerge_components must return component classes, not {cls!r}")
    if not cls.name or cls.name != cls.name.lower().replace("_", "-").strip():
        raise TypeError(f"{cls.__name__}.name must be lower-case words joined by hyphens, not {cls.name!r}")
    if cls.kind not in KINDS:
        raise TypeError(f"{cls.__name__} must subclass one of {', '.join(k.__name__ for k in KINDS.values())}")


def _reason(error: BaseException) -> str:
    text = str(error).strip().replace("\n", " ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def load(entry_points: Iterable[metadata.EntryPoint]) -> Catalog:
    """A catalog of these entry points, each isolated from the others' failures."""
    catalog = Catalog()
    for entry_point in sorted(entry_points, key=lambda one: (one.name, one.value)):
        dist = entry_point.dist
        name, version = (dist.name, dist.version) if dist else (entry_point.name, "")
        try:
            module = entry_point.load()
        except Exception as error:  # recorded; `daremerge plugins` shows it
            catalog.plugins.append(
                Plugin(entry_point.name, name, version, error=_reason(error), detail=traceback.format_exc())
            )
            continue
        catalog.register(module, name=entry_point.name, distribution=name, version=version)
    return catalog


@cache
def discover() -> Catalog:
    """The catalog of everything installed in this environment (read once per process)."""
    return load(metadata.entry_points(group=PROJECT))


def distribution_of(cls: type[Component]) -> str:
    """What a component comes with, for an error: ``daremerge-merge-dare 0.1.0``; its module where that is not known."""
    try:
        plugin = discover().plugin_of(cls)
    except KeyError:
        return cls.__module__
    return f"{plugin.distribution} {plugin.version}".strip() or cls.__module__
