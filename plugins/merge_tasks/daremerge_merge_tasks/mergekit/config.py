"""A mergekit configuration, checked: its models, its parameters, and what is not supported, refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from daremerge_core.errors import RecipeError, nearest
from daremerge_core.printable import shortened

from .settings import Setting, as_flag, as_rules, settled

__all__ = ["Config", "Input", "read"]

DTYPES: Mapping[str, str] = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}

_REFUSED: Mapping[str, str] = {
    "slices": "Where every slice takes all layers of its models, list the models under `models` instead.",
    "modules": "List the models under `models`.",
    "tokenizer": "Leave it out: the result has the vocabulary of the first model or the base.",
    "chat_template": "Leave it out, and write the chat template into the tokenizer's files yourself.",
}
_KNOWN = ("models", "base_model", "merge_method", "parameters", "dtype", "out_dtype", "tokenizer_source")
_SUFFIX = re.compile(r"\.(safetensors|ckpt|pt|pth|bin|gguf)$", re.IGNORECASE)
_MOST_MODELS = 256
_RESERVED = frozenset({"base", "merged", "models", "steps", "output"})


@dataclass(frozen=True)
class Input:
    """A model with what the configuration says of it alone."""

    name: str
    path: str
    parameters: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Config:
    """What a configuration asks for."""

    source: str
    method: str
    inputs: tuple[Input, ...]
    """Every model in mergekit's order: as listed, then the base where it is not among them."""
    base: Input | None
    parameters: Mapping[str, Any]
    dtype: str | None

    @property
    def tuned(self) -> tuple[Input, ...]:
        """The models but the base."""
        return tuple(one for one in self.inputs if one is not self.base)

    def setting(self, parameter: str, default: float | None = None, *, model: Input | None = None) -> Setting:
        """A parameter: the model's own rules, then those for all, then the default.

        Raises RecipeError where there is no default and some tensors would be without a value.
        """
        rules = []
        for where, given in self._scopes(model):
            if given.get(parameter) is not None:
                rules += as_rules(given[parameter], where=f"{where}.{parameter}")
        found = settled(rules + (list(Setting.of(default).rules) if default is not None else []))
        if found is None:
            whose = f"{self.source}: {model.where} ({model.path})" if model else f"{self.source}"
            problem = "has no value for tensors that no filter fits" if rules else "is missing"
            raise RecipeError(
                f"{whose}: {parameter} {problem}",
                hint=f"{self.method} needs `{parameter}`" + (", for each model or for all." if model else "."),
            )
        return found

    def number(self, parameter: str, default: float, *, model: Input | None = None) -> float:
        """A parameter that is the same everywhere. Raises RecipeError where it varies."""
        found = self.setting(parameter, default, model=model).constant
        if found is None:
            raise RecipeError(
                f"{self._found_at(parameter, model)}: {parameter} that varies is not supported in {self.method}",
                hint="Write one number.",
            )
        return found

    def shared(self, parameter: str, default: float) -> float:
        """A parameter that mergekit has by model and the method here has once."""
        found = {self.number(parameter, default, model=one) for one in self.tuned}
        if len(found) > 1:
            raise RecipeError(
                f"{self.source}: {parameter} that differs between models is not supported in {self.method}",
                hint="Write it once, under `parameters` at the end.",
            )
        return found.pop()

    def whole(self, parameter: str, default: int) -> int:
        """A parameter that counts something."""
        number = self.number(parameter, default)
        if number != int(number):
            raise RecipeError(f"{self._found_at(parameter)}: {number:g} is not a whole number")
        return int(number)

    def flag(self, parameter: str, default: bool) -> bool:
        """A yes or no, of the merge as a whole."""
        given = self.parameters.get(parameter)
        return default if given is None else as_flag(given, where=self._found_at(parameter))

    def _scopes(self, model: Input | None) -> Iterable[tuple[str, Mapping[str, Any]]]:
        if model is not None:
            yield f"{self.source}: {model.where}.parameters", model.parameters
        yield f"{self.source}: parameters", self.parameters

    def _found_at(self, parameter: str, model: Input | None = None) -> str:
        return next((f"{where}.{parameter}" for where, given in self._scopes(model) if parameter in given), self.source)


def read(data: Mapping[str, Any], *, source: str) -> Config:
    """A configuration from plain data. Raises RecipeError naming the first field that is not supported."""
    given = {key: value for key, value in data.items() if value is not None}
    for key, hint in _REFUSED.items():
        if key in given:
            raise RecipeError(f"{source}: {key} {'are' if key.endswith('s') else 'is'} not supported", hint=hint)
    for key in given:
        if key not in _KNOWN:
            raise RecipeError(f"{source}: unknown field {shortened(key)}.{nearest(str(key), _KNOWN)}")
    method = given.get("merge_method")
    if not isinstance(method, str):
        raise RecipeError(f"{source}: merge_method is not a name", hint="For example: merge_method: ties")
    _check_tokenizer(given, source)
    base_path = _path(given["base_model"], f"{source}: base_model") if "base_model" in given else None
    inputs = _inputs(given.get("models"), base_path, source)
    return Config(
        source=source,
        method=method,
        inputs=inputs,
        base=next((one for one in inputs if one.path == base_path), None),
        parameters=_mapping(given.get("parameters"), f"{source}: parameters"),
        dtype=_dtype(given, source),
    )


def _check_tokenizer(given: Mapping[str, Any], source: str) -> None:
    chosen = given.get("tokenizer_source", "base")
    if chosen != "base":
        raise RecipeError(
            f"{source}: tokenizer_source {shortened(chosen)} is not supported",
            hint="Write `tokenizer_source: base`, which keeps the base's vocabulary, or leave it out.",
        )


def _dtype(given: Mapping[str, Any], source: str) -> str | None:
    """The storage dtype. mergekit's ``dtype`` is what it computes in, and so stores where nothing else is said."""
    for field in ("out_dtype", "dtype"):
        if field in given:
            word = str(given[field]).removeprefix("torch.")
            if word not in DTYPES:
                raise RecipeError(
                    f"{source}: {field} {shortened(given[field])} is not supported.{nearest(word, DTYPES)}",
                    hint=f"One of {', '.join(DTYPES)}.",
                )
            return DTYPES[word]
    return None


def _inputs(listed: Any, base_path: str | None, source: str) -> tuple[Input, ...]:
    if not isinstance(listed, list) or not listed:
        raise RecipeError(f"{source}: `models` is missing", hint="List the models to merge: models: [{model: …}, …]")
    if len(listed) > _MOST_MODELS:
        raise RecipeError(f"{source}: {len(listed)} models; {_MOST_MODELS} are the most")
    found: list[Input] = []
    for index, raw in enumerate(listed):
        where = f"models[{index}]"
        entry = _mapping(raw, f"{source}: {where}")
        unknown = [key for key in entry if key not in ("model", "parameters")]
        if unknown:
            known = nearest(str(unknown[0]), ("model", "parameters"))
            raise RecipeError(f"{source}: {where}: unknown field {shortened(unknown[0])}.{known}")
        path = _path(entry.get("model"), f"{source}: {where}.model")
        if any(one.path == path for one in found):
            raise RecipeError(
                f"{source}: {where}: {shortened(path)} is listed twice", hint="Add its weights up in one entry."
            )
        parameters = _mapping(entry.get("parameters"), f"{source}: {where}.parameters")
        name = "base" if path == base_path else _name(path, {one.name for one in found})
        found.append(Input(name, path, parameters, where))
    if base_path is not None and all(one.path != base_path for one in found):
        found.append(Input("base", base_path, {}, "base_model"))
    return tuple(found)


def _path(raw: Any, where: str) -> str:
    """A model's path, as written."""
    if not isinstance(raw, str) or not raw:
        raise RecipeError(f"{where}: {shortened(raw)} is not supported", hint="Write the model's path, as text.")
    if "+" in raw:
        raise RecipeError(
            f"{where}: {shortened(raw)}: a model with a LoRA is not supported",
            hint="Put the LoRA into the model first, and write the path of the result.",
        )
    if "@" in raw:
        raise RecipeError(
            f"{where}: {shortened(raw)}: a revision is not supported", hint="Download it and write its path."
        )
    return raw


def _name(path: str, taken: Iterable[str]) -> str:
    """A plain word for a model: the end of its path, numbered where that is taken."""
    last = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    word = re.sub(r"\W+", "_", _SUFFIX.sub("", last), flags=re.ASCII).strip("_")
    word = word if word[:1].isalpha() and word not in _RESERVED else f"model_{word}".rstrip("_")
    used, name, number = {*taken, *_RESERVED}, word, 2
    while name in used:
        name, number = f"{word}_{number}", number + 1
    return name


def _mapping(raw: Any, where: str) -> Mapping[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise RecipeError(f"{where}: {shortened(raw)} is not a mapping", hint="Write `name: value`, a line each.")
    return raw
