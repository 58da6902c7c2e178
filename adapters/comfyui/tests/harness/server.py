"""A ComfyUI server of one's own: a folder of its own, a port of its own, stopped in the end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

__all__ = ["PACK", "PLUGINS", "Server", "serving"]

PACK = Path(__file__).parents[2]
"""The node pack: what a user has in ``custom_nodes``."""

PLUGINS = PACK.parents[1] / "tests" / "fixtures" / "site"
"""A plugin that somebody else wrote, installed beside ComfyUI."""

STARTS_WITHIN = 180
"""Seconds: a machine with a cold disk takes a minute to import everything."""


SETTINGS = {
    # A first start opens the template browser, over the canvas.
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.32.9",
    "Comfy.Minimap.Visible": False,
}


class Server:
    """A running ComfyUI."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"
        self._process = process

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    def is_up(self) -> bool:
        """Whether it answers. Raises where the process has ended, with what it said."""
        if self._process.poll() is not None:
            raise RuntimeError(f"ComfyUI ended with {self._process.returncode}:\n{self.log()}")
        try:
            with urlopen(f"{self.url}/system_stats", timeout=5):
                return True
        except (URLError, TimeoutError, ConnectionError):
            return False


@contextmanager
def serving(folder: Path, packs: Mapping[str, Path]) -> Iterator[Server]:
    """A server over ``folder``, with these node packs under these names in its ``custom_nodes``.

    ComfyUI reads the packs in the order that the file system lists them; links are as good as folders to it.
    """
    custom_nodes = folder / "custom_nodes"
    custom_nodes.mkdir(parents=True)
    settings = folder / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    for name, pack in packs.items():
        (custom_nodes / name).symlink_to(pack, target_is_directory=True)
    port = _free_port()
    command = [sys.executable, str(Path(__file__).with_name("launch.py")), *_options(folder, port)]
    # Unbuffered, so that what a request made it say is in the log when the request has been answered.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(PLUGINS)}
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        server = Server(folder, port, process)
        _wait_for(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _options(folder: Path, port: int) -> list[str]:
    return [
        "--cpu",
        "--disable-api-nodes",
        "--disable-auto-launch",
        "--base-directory",
        str(folder),
        "--port",
        str(port),
        "--database-url",
        "sqlite:///:memory:",
    ]


def _wait_for(server: Server) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while not server.is_up():
        if time.monotonic() > deadline:
            raise TimeoutError(f"ComfyUI did not answer within {STARTS_WITHIN} s:\n{server.log()}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
