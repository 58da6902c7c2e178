"""A merge of the canvas as a recipe over files, which the command line and scripts can run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from daremerge_core import discover

from .generated import makes_a_model
from .graph import Source, Step, Value
from .made import made_of
from .origins import File, Made, Unknown, WithLora
from .running import Stopped

__all__ = ["recipe_of", "to_yaml"]

_SELECTORS = ("include", "exclude", "layers")


def recipe_of(model: Any = None, clip: Any = None) -> dict[str, Any]:
    """The recipe of a merged MODEL, a merged CLIP, or both on top of one another.

    Raises:
        Stopped: a value comes from a node that a recipe has no word for; names it.
    """
    writer = _Writer()
    output = ""
    for value, part, socket in ((model, "unet", "model"), (clip, "clip", "clip")):
        if value is None:
            continue
        made, patched = made_of(value)
        if made is None or patched:
            raise Stopped(
                f"the {socket} was not merged by a node of this pack, or another node has patched it since, so there "
                "is no recipe of it\nConnect the output of the merge itself."
            )
        output = writer.add(made.step, part, over=output)
    if not output:
        raise Stopped("nothing is connected\nConnect a merged model, a merged text encoder, or both.")
    return {"models": writer.models, "steps": writer.steps, "output": output}


def to_yaml(recipe: Mapping[str, Any]) -> str:
    """The recipe as a person would write it."""
    import yaml

    text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=110)
    return f"# Models are sought beside this file, and on the canvas in ComfyUI's model folders.\n{text}"


@dataclass
class _Writer:
    """A recipe under way."""

    models: dict[str, str] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _kept: list[object] = field(default_factory=list)
    """What the ids above stand for, so that none is used again meanwhile."""

    def add(self, step: Step, part: str, *, over: str = "") -> str:
        """The name of the step, written with all below it.

        Args:
            part: the part of the checkpoint that merges are limited to.
            over: a finished step to put this one on top of, where both start from the same file.
        """
        if id(step) in self._names:
            return self._names[id(step)]
        cls = discover().op(step.op)
        anchor = next(iter(step.inputs), None)
        ports: dict[str, Any] = {}
        for port, value in step.inputs.items():
            if isinstance(value, (list, tuple)):
                ports[port] = [self._reference(one, port, part) for one in value]
            elif value is not None:
                ports[port] = self._reference(value, port, part, over=over if port == anchor else "")
        name = self._free(step.op.partition(".")[2])
        limited = {"parts": [part]} if makes_a_model(cls) else {}
        self.steps[name] = {"op": step.op, **ports, **limited, **_for_files(step.options)}
        self._names[id(step)] = name
        self._kept.append(step)
        return name

    def _reference(self, value: Value, port: str, part: str, *, over: str = "") -> str:
        if isinstance(value, Step):
            return self.add(value, part, over=over)
        return self._origin(value.origin, value, port, part, over)

    def _origin(self, origin: Any, source: Source, port: str, part: str, over: str) -> str:
        if isinstance(origin, File):
            return over if over and self._is_under(over, origin) else self._model(origin, port)
        if isinstance(origin, WithLora):
            below = self._origin(origin.of, source, port, part, over)
            name = self._free("lora")
            self.steps[name] = {
                "op": "lora.apply",
                "model": below,
                "loras": [self._model(origin.lora, "lora")],
                "unet_strength": origin.unet_strength,
                "clip_strength": origin.clip_strength,
                "parts": [part],
            }
            return name
        if source.made is not None and (origin is None or isinstance(origin, Made)):
            return self.add(source.made, part, over=over)
        node = f" of the node {origin.node}" if isinstance(origin, Unknown) else ""
        raise Stopped(
            f"what came through {port} is the output{node}, which a recipe cannot say\n"
            "Save that model first, and load it with a loader node; then its file can be named."
        )

    def _is_under(self, name: str, file: File) -> bool:
        """Whether a finished step starts from this file."""
        while name in self.steps:
            step = self.steps[name]
            name = next((str(one[0] if isinstance(one, list) else one) for key, one in step.items() if key != "op"), "")
        return self.models.get(name) == file.name

    def _model(self, file: File, port: str) -> str:
        known = next((name for name, path in self.models.items() if path == file.name), None)
        if known is None:
            stem = re.sub(r"\W+", "_", PurePath(file.name).stem).strip("_").lower()
            known = self._free(stem or port)
            self.models[known] = file.name
        return known

    def _free(self, wish: str) -> str:
        name, number = wish, 2
        while name in self.models or name in self.steps:
            name, number = f"{wish}-{number}", number + 1
        return name


def _for_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with layers named as a file names them: a checkpoint puts ``model.`` before the canvas's names."""
    found = dict(options)
    for name in _SELECTORS:
        if isinstance(found.get(name), str):
            found[name] = _anywhere(found[name])
        elif isinstance(found.get(name), dict):
            found[name] = {_anywhere(key): value for key, value in found[name].items()}
    return found


def _anywhere(selector: str) -> str:
    return re.sub(r"(^|[\s,{!])diffusion_model\.", r"\1*diffusion_model.", selector)
