"""What a browser says to a ComfyUI server, and what it hears."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen
from uuid import uuid4

from websockets.sync.client import connect

__all__ = ["Client", "Event", "Prompt", "Refused", "Run"]

Prompt = Mapping[str, Mapping[str, Any]]
"""Node id → ``{"class_type": …, "inputs": …}``: a workflow's API form."""

SECONDS = 240
"""How long a run may go without a word."""

_LAST = frozenset({"execution_success", "execution_error", "execution_interrupted"})


class Refused(Exception):
    """A prompt that the server does not take."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.error: Mapping[str, Any] = answer["error"]
        self.node_errors: Mapping[str, Any] = answer["node_errors"]
        super().__init__(json.dumps(answer, indent=1))


@dataclass(frozen=True)
class Event:
    """One message of the server."""

    kind: str
    data: Mapping[str, Any]


@dataclass
class Run:
    """What came of a prompt."""

    id: str
    events: list[Event] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Node id → what the node shows."""

    @property
    def end(self) -> Event:
        return self.events[-1]

    @property
    def error(self) -> Mapping[str, Any] | None:
        return self.end.data if self.end.kind == "execution_error" else None

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        return [event.data for event in self.events if event.kind == kind]

    def executed(self) -> set[str]:
        """The nodes that ran, rather than being taken from the cache."""
        return {data["node"] for data in self.of_kind("executing") if data["node"] is not None}


class Client:
    """One browser tab."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.id = uuid4().hex

    def object_info(self) -> dict[str, Any]:
        """Every node as the front end sees it."""
        found: dict[str, Any] = self.get("/object_info")
        return found

    def interrupt(self) -> None:
        self._post("/interrupt", {})

    def free(self) -> None:
        """Forget cached results and unload models: the next prompt computes everything again."""
        self._post("/free", {"unload_models": True, "free_memory": True})

    def view(self, image: Mapping[str, str]) -> bytes:
        """The bytes of a picture that a node shows."""
        with urlopen(f"http://{self.address}/view?{urlencode(image)}", timeout=30) as answer:
            found: bytes = answer.read()
            return found

    def history(self, id: str) -> dict[str, Any]:
        """What is kept of a run: written a moment after the message that it has ended."""
        deadline = time.monotonic() + 10
        while id not in (found := self.get(f"/history/{id}")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server keeps no history of the run {id}")
            time.sleep(0.05)
        kept: dict[str, Any] = found[id]
        return kept

    def start(self, prompt: Prompt, workflow: Mapping[str, Any] | None = None) -> str:
        """The id of the run. Raises :class:`Refused`."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        answer = self._post("/prompt", {"prompt": prompt, "client_id": self.id, "extra_data": extra})
        name: str = answer["prompt_id"]
        return name

    def run(
        self,
        prompt: Prompt,
        workflow: Mapping[str, Any] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Run:
        """Runs a prompt to its end, whichever that is.

        Args:
            on_event: called with each message as it arrives.
        """
        with connect(f"ws://{self.address}/ws?clientId={self.id}", max_size=None) as socket:
            run = Run(self.start(prompt, workflow))
            while not run.events or run.end.kind not in _LAST:
                message = socket.recv(SECONDS)
                if isinstance(message, bytes):  # a preview picture
                    continue
                found = json.loads(message)
                event = Event(found["type"], found["data"])
                if event.data.get("prompt_id") != run.id:
                    continue
                run.events.append(event)
                if on_event is not None:
                    on_event(event)
        run.outputs = self.history(run.id)["outputs"]
        return run

    def succeed(self, prompt: Prompt, workflow: Mapping[str, Any] | None = None) -> Run:
        """Runs a prompt that must come to a good end."""
        run = self.run(prompt, workflow)
        assert run.end.kind == "execution_success", _told(run, prompt)
        return run

    def fail(self, prompt: Prompt) -> str:
        """What the canvas shows of a prompt that must fail: which node, and why."""
        run = self.run(prompt)
        assert run.error is not None, f"the run ended with {run.end.kind}"
        return f"{run.error['node_type']}: {run.error['exception_message']}"

    def get(self, path: str) -> Any:
        """What the server has at a path, as JSON."""
        with urlopen(f"http://{self.address}{path}", timeout=60) as answer:
            return json.load(answer)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        request = Request(
            f"http://{self.address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urlopen(request, timeout=60) as answer:
                found = answer.read()
        except HTTPError as error:
            with error:
                raise Refused(json.load(error)) from None
        return json.loads(found) if found else None


def _told(run: Run, prompt: Prompt) -> str:
    if run.error is None:
        return f"the run ended with {run.end.kind}"
    trace: Sequence[str] = run.error["traceback"]
    node = prompt.get(run.error["node_id"], {})
    return f"{run.error['node_type']}: {run.error['exception_message']}\n{json.dumps(node)}\n{''.join(trace)}"
