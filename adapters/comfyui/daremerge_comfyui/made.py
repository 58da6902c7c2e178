"""What a merged MODEL or CLIP remembers of its making, for reports and recipes."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .graph import Source, Step, Value
from .running import Stopped

__all__ = ["Made", "asleep", "made_of", "remember"]

_KEY = "daremerge"


@dataclass(frozen=True)
class Made:
    """The graph that a result was made by. It does not keep the models in it alive: ComfyUI decides on that."""

    step: Step
    patches: Any
    """ComfyUI's name for the patches that were there when the result was made."""
    summary: str

    def graph(self) -> Step:
        """The graph, its models in place. Raises :class:`~daremerge_comfyui.running.Stopped` where one is gone."""
        found = _mapped(self.step, _awake, {})
        assert isinstance(found, Step)
        return found


def remember(result: Any, step: Step, summary: str) -> Any:
    """``result``, a new clone of a MODEL or CLIP, with the graph it was made by."""
    patcher = getattr(result, "patcher", result)
    patcher.attachments[_KEY] = Made(asleep(step), patcher.patches_uuid, summary)
    return result


def asleep(step: Step) -> Step:
    """The graph without a hold on its models, each of which brings the graph of its own making."""
    found = _mapped(step, _asleep, {})
    assert isinstance(found, Step)
    return found


def made_of(value: Any) -> tuple[Made | None, bool]:
    """How a MODEL or CLIP was made, if by a node of this pack, and whether other nodes have patched it since."""
    patcher = getattr(value, "patcher", value)
    made = patcher.attachments.get(_KEY)
    return made, made is not None and made.patches != patcher.patches_uuid


def _mapped(value: Value, leaf: Any, done: dict[int, Value]) -> Value:
    """A graph with every leaf replaced, each step and leaf once."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Source):
        done[id(value)] = leaf(value)
    else:
        inputs = {port: _each(one, leaf, done) for port, one in value.inputs.items()}
        done[id(value)] = replace(value, inputs=inputs)
    return done[id(value)]


def _each(value: Value | Sequence[Value] | None, leaf: Any, done: dict[int, Value]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_mapped(one, leaf, done) for one in value]
    return None if value is None else _mapped(value, leaf, done)  # type: ignore[arg-type]


def _asleep(source: Source) -> Source:
    found = getattr(getattr(source.value, "patcher", source.value), "attachments", {}).get(_KEY)
    made = found.step if found is not None else getattr(source.value, "made", None)
    try:
        return replace(source, value=weakref.ref(source.value), made=made)
    except TypeError:  # a plain dict, of another pack's gradient: small enough to keep
        return source


def _awake(source: Source) -> Source:
    if not isinstance(source.value, weakref.ref):
        return source
    value = source.value()
    if value is None:
        raise Stopped(
            "one of the models that went into this merge is no longer in memory, so it cannot be looked at again\n"
            "Run the workflow again with the merge and its loaders in it."
        )
    return replace(source, value=value)
