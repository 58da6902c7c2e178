"""Plugins that break their contract: the conformance kit fails them, and a run says whose fault it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from daremerge_core import MergeMethod, Site, view
from daremerge_core.errors import ComponentError
from daremerge_core.testing import MergeMethodTests
from daremerge_core.testing.tiny import tiny_model


class Sound(MergeMethod):
    """Half of each."""

    name = "sound"

    def merge(self, site: Site) -> Any:
        return site.a + (site.b - site.a) * site.t


class WrongShape(Sound):
    """Fault: one element too few."""

    name = "wrong-shape"

    def merge(self, site: Site) -> Any:
        return super().merge(site).reshape(-1)[1:]


class NoTensor(Sound):
    """Fault: forgets to answer."""

    name = "no-tensor"

    def merge(self, site: Site) -> Any:
        super().merge(site)


class WrongDtype(Sound):
    """Fault: whole numbers."""

    name = "wrong-dtype"

    def merge(self, site: Site) -> Any:
        return super().merge(site).int()


class WritesToItsInput(Sound):
    """Fault: an operation in place."""

    name = "writes-to-its-input"

    def merge(self, site: Site) -> Any:
        return site.a.mul_(0.5)


class GlobalRandom(Sound):
    """Fault: torch's own random numbers."""

    name = "global-random"

    def merge(self, site: Site) -> Any:
        return super().merge(site) * (1 + torch.rand(()))


class LooksBeyond(Sound):
    """Fault: depends on where the engine cuts."""

    name = "looks-beyond"

    def merge(self, site: Site) -> Any:
        return super().merge(site) + site.a.mean()


class Remembers(Sound):
    """Fault: what came before changes what comes."""

    name = "remembers"
    seen: list[float] = []

    def merge(self, site: Site) -> Any:
        self.seen.append(1.0)
        return super().merge(site) + float(len(self.seen))


class Raises(Sound):
    """Fault: a crash on some tensors."""

    name = "raises"

    def merge(self, site: Site) -> Any:
        if len(site.shape) > 1:
            raise ZeroDivisionError("of all things")
        return super().merge(site)


FAULTS = {
    WrongShape: "shape",
    NoTensor: "NoneType",
    WrongDtype: "int32",
    WritesToItsInput: "must never write into its inputs",
    GlobalRandom: "never torch's own random numbers",
    LooksBeyond: "must not look beyond its span",
    Remembers: "",
    Raises: "of all things",
}


def failures(component: type[MergeMethod]) -> list[str]:
    """What the conformance kit has against a component."""

    class Suite(MergeMethodTests):
        exact_ends = "a"

    Suite.component = component  # type: ignore[type-abstract]
    found = []
    for name in dir(Suite):
        test = getattr(Suite(), name)
        if not name.startswith("test_") or "import" in name:
            continue
        takes = test.__code__.co_varnames[: test.__code__.co_argcount]
        try:
            test(*([pytest.MonkeyPatch()] if "monkeypatch" in takes else []))
        except (Exception, pytest.fail.Exception) as error:
            found.append(f"{name}: {error}")
        except pytest.skip.Exception:
            pass
    return found


def test_what_is_sound_passes() -> None:
    assert [one for one in failures(Sound) if "field_has_help" not in one] == []


@pytest.mark.parametrize("component", FAULTS)
def test_the_kit_fails_a_fault_and_names_it(component: type[MergeMethod]) -> None:
    found = failures(component)
    assert any(FAULTS[component] in one for one in found), found


@pytest.mark.parametrize("component", [WrongShape, NoTensor, WrongDtype, Raises])
def test_a_run_says_whose_fault_it_is(component: type[MergeMethod]) -> None:
    value = view(component(a=tiny_model(0), b=tiny_model(1)), label="mine")
    key = next(key for key in value.active_keys() if len(value.meta(key).shape) > 1)
    with pytest.raises(ComponentError) as caught:
        value.read(key)
    for named in (f"merge.{component.name}", repr(key), "'mine'" if component is Raises else ""):
        assert named in caught.value.message
    assert __name__.rpartition(".")[2] in str(caught.value.hint), "not installed, so the module is named"


def test_what_is_installed_is_named_with_its_version() -> None:
    from daremerge_core.catalog import discover, distribution_of

    assert distribution_of(discover().get("merge", "power-lerp")) == "daremerge-fixture 1.0"
