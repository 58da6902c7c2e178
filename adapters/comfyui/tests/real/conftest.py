"""One server and one browser for all tests: they start once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness.browser import Canvas, browsing
from harness.checkpoints import write_models
from harness.client import Client
from harness.server import PACK, Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    write_models(folder / "models")
    with serving(folder, {"daremerge": PACK}) as server:
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> Client:
    return Client(server.address)


@pytest.fixture(scope="session")
def object_info(client: Client) -> dict[str, Any]:
    return client.object_info()


@pytest.fixture(scope="session")
def canvas(server: Server) -> Iterator[Canvas]:
    with browsing(server.url) as canvas:
        yield canvas
