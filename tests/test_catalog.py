"""The catalog finds plugins by entry points, isolates broken ones, and refuses two of one name."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from support import FIXTURES

from daremerge_core import MergeMethod, discover, hookimpl
from daremerge_core.catalog import Catalog, load
from daremerge_core.errors import CatalogError


def plugin(*classes: type, **attributes: object) -> ModuleType:
    module = ModuleType("made_up")

    @hookimpl
    def daremerge_components() -> list[type]:
        return list(classes)

    module.daremerge_components = daremerge_components  # type: ignore[attr-defined]
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def test_the_fixture_plugin_is_found_with_no_edit_to_the_core() -> None:
    cls = discover().get("merge", "power-lerp")
    assert discover().plugin_of(cls).distribution == "daremerge-fixture"


def test_hyphens_and_underscores_are_the_same() -> None:
    assert discover().get("merge", "power_lerp") is discover().get("merge", "power-lerp")


def test_a_plugin_that_does_not_import_is_recorded_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FIXTURES / "broken"))
    catalog = load(metadata.entry_points(group="daremerge"))
    broken = next(one for one in catalog.plugins if one.name == "broken")
    assert broken.distribution == "daremerge-broken"
    assert "a_module_that_is_not_installed" in (broken.error or "")
    assert "Traceback" in (broken.detail or "")
    assert "power-lerp" in catalog.names("merge")


def test_a_duplicate_name_names_both_distributions() -> None:
    class One(MergeMethod):
        """One."""

        name = "same"

    class Two(MergeMethod):
        """Two."""

        name = "same"

    catalog = Catalog()
    catalog.register(plugin(One), name="one", distribution="dist-one")
    with pytest.raises(CatalogError, match=r"merge\.same is defined twice: by dist-one and by dist-two"):
        catalog.register(plugin(Two), name="two", distribution="dist-two")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (plugin(int), "component classes"),
        (plugin(type("Unnamed", (MergeMethod,), {"__doc__": "x"})), "lower-case"),
        (plugin(type("Loud", (MergeMethod,), {"name": "LOUD"})), "lower-case"),
        (plugin(DAREMERGE_API=99), "plugin API 99"),
    ],
)
def test_a_plugin_that_breaks_the_rules_is_recorded_with_the_reason(module: ModuleType, reason: str) -> None:
    catalog = Catalog()
    found = catalog.register(module, name="bad", distribution="dist-bad")
    assert reason in (found.error or "")
    assert catalog.names("merge") == []


def test_a_misspelt_hook_is_recorded() -> None:
    @hookimpl
    def daremerge_componets() -> list[type]:
        return []

    module = plugin()
    module.daremerge_componets = daremerge_componets  # type: ignore[attr-defined]
    found = Catalog().register(module, name="typo")
    assert "daremerge_componets" in (found.error or "")


def test_an_unknown_name_gets_the_nearest_and_the_installed_ones() -> None:
    with pytest.raises(CatalogError, match="Did you mean power-lerp"):
        discover().get("merge", "powr-lerp")


def test_unregistering_forgets_the_components() -> None:
    class Passing(MergeMethod):
        """Passing."""

        name = "passing"

    catalog = Catalog()
    catalog.register(plugin(Passing), name="passing")
    catalog.unregister("passing")
    assert catalog.names("merge") == []
    assert catalog.plugins == []


def test_every_hook_is_documented() -> None:
    from daremerge_core.hooks import Hooks

    text = (Path(__file__).parent.parent / "docs" / "hooks.md").read_text(encoding="utf-8")
    for name in dir(Hooks):
        if name.startswith("daremerge_"):
            assert name in text
