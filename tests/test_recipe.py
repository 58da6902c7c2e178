"""Recipes are strict, and every error names the field and what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from daremerge_core import discover
from daremerge_core.errors import RecipeError
from daremerge_core.recipe import apply_settings, load_recipe, parse_recipe, resolve
from daremerge_core.strict_yaml import parse_yaml

GOOD: dict[str, Any] = {
    "models": {"a": "a.safetensors", "b": "b.safetensors", "base": "base.safetensors"},
    "steps": {
        "moved": {"op": "mask.moved", "model": "a", "base": "base"},
        "inner": {"op": "merge.halfway", "a": "a", "b": "b", "mask": "moved"},
        "outer": {"op": "merge.power-lerp", "a": "inner", "b": "b", "mask": "moved", "power": 2},
    },
    "output": "outer",
}


def changed(path: str, value: Any) -> dict[str, Any]:
    import copy

    data = copy.deepcopy(GOOD)
    node = data
    *head, last = path.split(".")
    for part in head:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return data


def graph_of(data: dict[str, Any]) -> Any:
    return resolve(parse_recipe(data), discover())


def test_steps_come_after_what_they_need() -> None:
    order = list(graph_of(GOOD).steps)
    assert order.index("moved") < order.index("inner") < order.index("outer")


def test_the_resolved_recipe_writes_every_default_and_resolves_to_itself() -> None:
    resolved = graph_of(GOOD).resolved()
    assert resolved["steps"]["inner"]["ratio"] == 0.5
    assert graph_of(resolved).resolved() == resolved


def test_steps_and_models_the_output_does_not_need_are_left_out() -> None:
    data = changed("steps.unused", {"op": "mask.positive", "model": "a"})
    data["models"]["spare"] = "nowhere.safetensors"
    assert graph_of(data).resolved() == graph_of(GOOD).resolved()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("steps.outer.powr", 2, ["steps.outer.powr", "unknown field", "Did you mean power"]),
        ("steps.outer.power", 9.0, ["steps.outer.power", "less than or equal to 8", "9.0"]),
        ("steps.outer.power", float("nan"), ["steps.outer.power", "finite"]),
        ("steps.outer.power", "2", ["steps.outer.power", "number"]),
        ("steps.outer.power", True, ["steps.outer.power", "number"]),
        ("steps.outer.op", "merge.powerlerp", ["steps.outer.op", "Did you mean power-lerp"]),
        ("steps.outer.op", "power-lerp", ["steps.outer.op", "kind.name", "merge.power-lerp"]),
        ("steps.outer.op", "merg.power-lerp", ["steps.outer.op", "Did you mean merge"]),
        ("steps.outer.op", None, ["steps.outer", "op", "missing"]),
        ("steps.outer.a", None, ["steps.outer.a", "is required"]),
        ("steps.outer.mask", "inner", ["steps.outer.mask", "is a model", "mask is wanted"]),
        ("steps.outer.mask", "a", ["steps.outer.mask", "is a model", "mask is wanted"]),
        ("steps.outer.a", "moved", ["steps.outer.a", "is a mask", "model is wanted"]),
        ("steps.outer.a", "outer", ["cycle", "outer"]),
        ("steps.inner.a", "outer", ["cycle", "inner", "outer"]),
        ("steps.outer.parts", ["unett"], ["steps.outer.parts", "unet"]),
        ("output", "outr", ["output", "Did you mean outer"]),
        ("output", {"step": "moved", "dtype": "fp16"}, ["output.dtype", "moved", "mask"]),
        ("output", {"step": "moved", "shard_size": "1GB"}, ["output.shard_size", "moved", "mask"]),
        ("steps.outer.op", "sparsify.halve", ["steps.outer.op", "used inside"]),
        ("output", {"step": "outer", "dtype": "fp17"}, ["output.dtype", "fp16"]),
        ("outputs", "outer", ["outputs", "unknown field", "Did you mean output"]),
        ("steps.a", {"op": "mask.positive", "model": "b"}, ["'a'", "both a model and a step"]),
    ],
)
def test_a_mistake_is_named(path: str, value: Any, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        graph_of(changed(path, value))
    for word in words:
        assert word in str(caught.value)


def test_a_missing_plugin_names_the_distribution_to_install() -> None:
    from daremerge_core.catalog import Catalog

    empty = Catalog()
    data = {"models": {"a": "x", "b": "y"}, "steps": {"m": {"op": "merge.dare", "a": "a", "b": "b"}}, "output": "m"}
    with pytest.raises(RecipeError, match="pip install daremerge-merge-dare"):
        resolve(parse_recipe(data), empty)


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "", "42"])
def test_a_recipe_is_a_mapping(text: str) -> None:
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        parse_recipe(parse_yaml(text, source="r.yaml"), source="r.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", ["line 2", "given twice"]),
        ("a: &x 1\nb: *x", ["line 2", "aliases"]),
        ("a: [1, 2", ["not valid YAML"]),
        ("a: !!python/object/apply:os.system [ls]", ["not valid YAML"]),
        ("[" * 3000, ["r.yaml"]),
        ("? [1]\n: 2", ["key must be a word"]),
    ],
)
def test_bad_yaml_is_named_by_line(text: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, source="r.yaml")
    for word in words:
        assert word in str(caught.value)


def test_settings_change_fields() -> None:
    data = apply_settings(
        GOOD, ["outer.power=3.5", "steps.inner.ratio=0.25", "models.a=elsewhere/a.safetensors", "output.dtype=fp32"]
    )
    assert data["steps"]["outer"]["power"] == 3.5
    assert data["steps"]["inner"]["ratio"] == 0.25
    assert data["models"]["a"] == "elsewhere/a.safetensors"
    assert data["output"] == {"step": "outer", "dtype": "fp32"}
    assert GOOD["output"] == "outer", "the original is left alone"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("power=3", ["step.field=value"]),
        ("outr.power=3", ["Did you mean outer"]),
        ("outer.power", ["step.field=value"]),
    ],
)
def test_a_wrong_setting_is_named(setting: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        apply_settings(GOOD, [setting])
    for word in words:
        assert word in str(caught.value)


def test_a_recipe_file_that_is_missing_is_named(tmp_path: Any) -> None:
    with pytest.raises(RecipeError, match=r"nothing\.yaml: no such file"):
        load_recipe(tmp_path / "nothing.yaml")
