"""ComfyUI's own front end, in a browser without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Page, sync_playwright

__all__ = ["Canvas", "Shown", "browsing"]

_QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
_QUIET += ("--disable-sync", "--no-first-run")

_MINUTE = 60_000

_READ_NODES = """() => window.app.graph._nodes.map(node => ({
  id: node.id,
  type: node.type,
  known: Boolean(LiteGraph.registered_node_types[node.type]),
  widgets: Object.fromEntries((node.widgets ?? []).filter(one => one.name).map(one => [one.name, one.value])),
  inputs: (node.inputs ?? []).map(one => [one.name, String(one.type), one.link != null]),
}))"""


class Shown(NamedTuple):
    """A node as the canvas has it."""

    type: str
    known: bool
    """Whether the front end has a node of this type; if not it is a red box."""
    widgets: dict[str, Any]
    linked: frozenset[str]
    """Sockets that something is connected to."""


class Canvas:
    """The page of a server."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: list[str] = []
        """What went wrong in the page."""
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def open(self, workflow: Mapping[str, Any]) -> dict[str, Shown]:
        """Loads a workflow as dropping its file on the canvas does; its nodes by id."""
        self.said.clear()
        self.page.evaluate("workflow => window.app.loadGraphData(workflow)", dict(workflow))
        return {str(one["id"]): _shown(one) for one in self.page.evaluate(_READ_NODES)}

    def prompt(self) -> dict[str, dict[str, Any]]:
        """What the run button would send, as :data:`~harness.client.Prompt`."""
        found: dict[str, dict[str, Any]] = self.page.evaluate("async () => (await window.app.graphToPrompt()).output")
        return {name: {"class_type": node["class_type"], "inputs": node["inputs"]} for name, node in found.items()}

    def workflow(self) -> dict[str, Any]:
        """What saving would write."""
        found: dict[str, Any] = self.page.evaluate("() => window.app.graph.serialize()")
        return found

    def picture(self, path: Path) -> None:
        """The whole workflow, as it looks."""
        self.page.evaluate(
            "() => { window.app.canvas.fitViewToSelectionAnimated?.(); window.app.canvas.draw(true, true) }"
        )
        self.page.screenshot(path=path)


def _shown(found: Mapping[str, Any]) -> Shown:
    linked = frozenset(name for name, _, is_linked in found["inputs"] if is_linked)
    return Shown(found["type"], found["known"], found["widgets"], linked)


@contextmanager
def browsing(url: str, *, width: int = 1600, height: int = 1000) -> Iterator[Canvas]:
    """The canvas of the server at ``url``."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=list(_QUIET))
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(_MINUTE)
            canvas = Canvas(page)
            page.goto(url)
            page.wait_for_function("() => window.app?.graph && window.app.extensionManager")
            _close_first_start(page)
            yield canvas
        finally:
            browser.close()


def _close_first_start(page: Page) -> None:
    """A first start opens the template browser, over the canvas."""
    page.wait_for_timeout(1000)
    page.keyboard.press("Escape")


def _chromium() -> str:
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        raise FileNotFoundError("no chromium found: 'apt-get install chromium', or name one in CHROMIUM")
    return found
