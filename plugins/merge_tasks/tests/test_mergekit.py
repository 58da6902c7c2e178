"""mergekit's configurations, translated: each method, values that vary, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from daremerge_core import MemoryModel, discover, view
from daremerge_core.errors import RecipeError
from daremerge_core.recipe import parse_recipe
from daremerge_core.select import Selector
from daremerge_core.strict_yaml import parse_yaml
from daremerge_merge_tasks.mergekit import is_mergekit, to_recipe
from daremerge_merge_tasks.mergekit.translate import METHODS

LAYERS = [f"model.layers.{index}" for index in range(5)]
PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm")
KEYS = ["model.embed_tokens.weight", *(f"{one}.{part}.weight" for one in LAYERS for part in PARTS), "lm_head.weight"]

MODEL = MemoryModel({key: torch.zeros(4, 4) for key in KEYS})

TWO = "models: [{model: a}, {model: b}]\n"
OVER_BASE = f"{TWO}base_model: c\n"
WEIGHED = "models: [{model: a, parameters: {weight: 0.25}}, {model: b, parameters: {weight: 0.75}}]\n"
TASKS = f"{WEIGHED}base_model: c\n"


def translate(text: str) -> dict[str, Any]:
    data = parse_yaml(text, source="mergekit.yml")
    assert is_mergekit(data)
    recipe = to_recipe(data, source="mergekit.yml")
    parse_recipe(recipe)
    return recipe


def merged(text: str) -> dict[str, Any]:
    """The only step."""
    steps = translate(text)["steps"]
    assert list(steps) == ["merged"]
    return steps["merged"]


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as error:
        translate(text)
    assert error.value.message.startswith("mergekit.yml: ")
    return str(error.value)


# --- each method --------------------------------------------------------------------------------------

OVER = {"models": ["a", "b"], "base": "base", "weights": [0.25, 0.75]}
ELECTED = {"elect": "mass", "weighted": True}

GOLDEN: list[tuple[str, str, str, dict[str, Any]]] = [
    ("linear", WEIGHED, "", {"models": ["a", "b"], "weights": [0.25, 0.75], "normalize": "weights"}),
    (
        "linear",
        OVER_BASE,
        "weight: 1, normalize: false",
        {"models": ["a", "b", "base"], "weights": 1.0, "normalize": "none"},
    ),
    ("slerp", "models: [{model: a}, {model: c}]\nbase_model: c\n", "t: 0.3", {"a": "base", "b": "a", "ratio": 0.7}),
    ("task_arithmetic", TASKS, "lambda: 0.5", {**OVER, "normalize": "none", "lambda": 0.5}),
    ("task_arithmetic", TASKS, "normalize: 1.0", {**OVER, "normalize": "weights", "lambda": 1.0}),
    (
        "ties",
        TASKS,
        "density: 0.5",
        {**OVER, **ELECTED, "density": 0.5, "over": "tensor", "normalize": "weights", "lambda": 1.0},
    ),
    (
        "dare_ties",
        TASKS,
        "density: 0.5",
        {**OVER, **ELECTED, "density": 0.5, "normalize": "none", "lambda": 1.0, "rescale": True, "seed": 0},
    ),
    (
        "dare_linear",
        TASKS,
        "rescale: false",
        {**OVER, "density": 1.0, "normalize": "none", "lambda": 1.0, "rescale": False, "seed": 0},
    ),
    (
        "breadcrumbs",
        TASKS,
        "density: 0.9, gamma: 0.02",
        {**OVER, "density": 0.9, "gamma": 0.02, "normalize": "none", "lambda": 1.0},
    ),
    (
        "breadcrumbs_ties",
        TASKS,
        "density: 0.9",
        {**OVER, **ELECTED, "density": 0.9, "gamma": 0.01, "normalize": "none", "lambda": 1.0},
    ),
    (
        "della",
        TASKS,
        "density: 0.5",
        {
            **OVER,
            **ELECTED,
            "density": 0.5,
            "epsilon": 0.3,
            "normalize": "weights",
            "lambda": 1.0,
            "rescale": True,
            "seed": 0,
        },
    ),
    (
        "della_linear",
        TASKS,
        "density: 0.5, epsilon: 0.1",
        {**OVER, "density": 0.5, "epsilon": 0.2, "normalize": "none", "lambda": 1.0, "rescale": True, "seed": 0},
    ),
    ("model_stock", OVER_BASE, "", {"models": ["a", "b"], "base": "base", "per": "tensor"}),
    ("model_stock", OVER_BASE, "filter_wise: true", {"models": ["a", "b"], "base": "base", "per": "row"}),
    ("sce", OVER_BASE, "select_topk: 0.1", {"models": ["a", "b"], "base": "base", "density": 0.1}),
    ("nuslerp", WEIGHED, "", {"a": "a", "b": "b", "ratio": 0.25, "per": "tensor"}),
    (
        "nuslerp",
        OVER_BASE,
        "weight: 0, nuslerp_flatten: false",
        {"a": "a", "b": "b", "base": "base", "ratio": 0.5, "per": "row"},
    ),
    (
        "nuslerp",
        WEIGHED,
        "nuslerp_flatten: false, nuslerp_row_wise: true",
        {"a": "a", "b": "b", "ratio": 0.25, "per": "column"},
    ),
    (
        "karcher",
        TWO,
        "max_iter: 20, tol: 1e-4",
        {"models": ["a", "b"], "iterations": 20, "tolerance": 1e-4},
    ),
    ("multislerp", WEIGHED, "", {"models": ["a", "b"], "weights": [0.25, 0.75], "normalize": "weights"}),
    ("multislerp", TASKS, "normalize_weights: false", {**OVER, "normalize": "none"}),
    ("nearswap", "models: [{model: a}]\nbase_model: c\n", "t: 1e-4", {"a": "base", "b": "a", "distance": 1e-4}),
    ("passthrough", "models: [{model: a, parameters: {scale: 0.5}}]\n", "", {"models": ["a"], "scale": 0.5}),
]


@pytest.mark.parametrize(("method", "models", "parameters", "options"), GOLDEN)
def test_method(method: str, models: str, parameters: str, options: dict[str, Any]) -> None:
    found = merged(f"{models}merge_method: {method}\nparameters: {{int8_mask: true, {parameters}}}\n")
    assert found == {"op": f"merge.{method.replace('_', '-')}", **options}


def test_every_method_is_tested() -> None:
    assert {method for method, *_ in GOLDEN} == set(METHODS)


def test_a_base_among_the_models_is_no_task_vector() -> None:
    text = "models: [{model: c, parameters: {weight: 9}}, {model: a}]\nbase_model: c\nmerge_method: ties\n"
    recipe = translate(f"{text}parameters: {{weight: 1}}\n")
    assert recipe["models"] == {"base": "c", "a": "a"}
    assert recipe["steps"]["merged"]["models"] == ["a"]


def test_a_linear_merge_with_negative_weights_is_divided_here() -> None:
    text = "models: [{model: a, parameters: {weight: 3}}, {model: b, parameters: {weight: -1}}]\nmerge_method: linear\n"
    assert merged(text) == {"op": "merge.linear", "models": ["a", "b"], "weights": [1.5, -0.5], "normalize": "none"}


@pytest.mark.parametrize(
    ("fields", "dtype"),
    [
        ("", None),
        ("dtype: float16", "fp16"),
        ("dtype: float32\nout_dtype: bfloat16", "bf16"),
        ("dtype: torch.float32", "fp32"),
    ],
)
def test_dtype(fields: str, dtype: str | None) -> None:
    output = translate(f"{TWO}merge_method: karcher\ntokenizer_source: base\n{fields}\n")["output"]
    assert output == {"step": "merged", **({"dtype": dtype} if dtype else {})}


def test_models_are_named_after_their_paths() -> None:
    paths = [
        "org/Llama-2-13B",
        "./x/Llama-2-13B/",
        "C:\\m\\merged.safetensors",
        "7b-v0.1",
        "é",
        "base",
        "x/base_2.ckpt",
    ]
    listed = "\n".join(f"  - model: '{path}'" for path in paths)
    models = translate(f"models:\n{listed}\nmerge_method: karcher\n")["models"]
    names = ["Llama_2_13B", "Llama_2_13B_2", "model_merged", "model_7b_v0_1", "model", "model_base", "base_2"]
    assert models == dict(zip(names, paths, strict=True))


def test_what_a_configuration_is() -> None:
    assert not is_mergekit({"models": {}, "steps": {}})
    assert not is_mergekit(["merge_method"])
    assert to_recipe({"models": [{"model": "a"}], "merge_method": "passthrough", "slices": None}, source="x")


# --- values that vary: what each tensor gets, against mergekit's rule --------------------------------------


def ratio(steps: dict[str, Any], name: str, key: str) -> float:
    """What the gradients plugin answers."""
    step = steps[name]
    if step["op"] == "gradient.pattern":
        found = [value for text, value in step["layers"].items() if Selector.parse(text).matches(key)]
        return found[0] if found else step["rest"]
    if step["op"] == "gradient.depth":
        assert step["along"] == "layers"
        options = {name: step[name] for name in ("along", "points", "rest")}
        depth: Any = view(discover().get("gradient", "depth")(model=MODEL, outside="allow", **options))
        return depth.ratio(key)
    first, *others = (ratio(steps, one, key) for one in step["gradients"])
    if step["op"] == "gradient.divide":
        return first / others[0]
    return first + sum(others) if step["op"] == "gradient.add" else first * others[0]


def expected(key: str, *settings: Any) -> float:
    """What mergekit answers: settings in order, each a number, a list or a list of filters."""
    layer = next((index for index, name in enumerate(LAYERS) if f"{name}." in key), 0)
    for setting in settings:
        rules = setting if isinstance(setting, list) and isinstance(setting[0], dict) else [{"value": setting}]
        for rule in rules:
            if rule.get("filter", "") in key:
                values = rule["value"] if isinstance(rule["value"], list) else [rule["value"]] * 2
                at = layer / (len(LAYERS) - 1) * (len(values) - 1)
                before = min(int(at), len(values) - 2)
                return values[before] + (at - before) * (values[before + 1] - values[before])
    raise AssertionError(f"{key} has no value")


SETTINGS: list[Any] = [
    [0, 0.5, 0.3, 0.7, 1],
    [1, 0.1],
    [0.2, 1, 0.4],
    [{"filter": "mlp", "value": 0.5}, {"value": 0}],
    [{"filter": "embed", "value": 0.25}, {"filter": "mlp", "value": 0.5}, {"value": [0, 1]}],
    [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"filter": "mlp", "value": [1, 0]}, {"value": 0.5}],
    [{"filter": "q_proj", "value": 0.75}, {"filter": "self_attn", "value": [0, 1]}, {"value": [1, 0.5]}],
    [{"filter": "layers.1.", "value": [0, 1]}, {"filter": "layers.1.", "value": 0.1}, {"value": 0}, {"value": 1}],
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_slerp_that_varies(setting: Any) -> None:
    data = {"models": [{"model": "a"}], "base_model": "c", "merge_method": "slerp", "parameters": {"t": setting}}
    steps = to_recipe(data, source="x")["steps"]
    assert "ratio" not in steps["merged"]
    for key in KEYS:
        assert ratio(steps, steps["merged"]["gradient"], key) == pytest.approx(1 - expected(key, setting), abs=1e-11)
    assert all("outside" not in step for step in steps.values())


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("factor", [1.0, -1.5])
def test_weights_that_vary(setting: Any, factor: float) -> None:
    """Other models keep their number; filters of a model come before what is said for all."""
    own = [{"filter": "q_proj", "value": factor}]
    models = [{"model": "a", "parameters": {"weight": 0.25}}, {"model": "b", "parameters": {"weight": own}}]
    data = {"models": models, "base_model": "c", "merge_method": "task_arithmetic", "parameters": {"weight": setting}}
    steps = to_recipe(data, source="x")["steps"]
    step = steps["merged"]
    assert step["weights"] == [0.25, 1.0]
    for key in KEYS:
        first, second = (1 - ratio(steps, name, key) for name in step["gradients"])
        assert first == 1.0
        assert second == pytest.approx(expected(key, own, setting), abs=1e-11)
    assert (factor < 0) == any(step.get("outside") == "allow" for step in steps.values())


def test_lambda_that_varies() -> None:
    steps = translate(f"{TASKS}merge_method: task_arithmetic\nparameters: {{lambda: [0.5, 1.5]}}\n")["steps"]
    assert steps["merged"]["lambda"] == 1.0
    assert steps[steps["merged"]["gradient"]]["outside"] == "allow"
    for key in KEYS:
        assert 1 - ratio(steps, steps["merged"]["gradient"], key) == pytest.approx(expected(key, [0.5, 1.5]))


def test_nuslerp_that_varies() -> None:
    first, second = [1, 0.5], [{"filter": "mlp", "value": 3}, {"value": 1}]
    models = [{"model": "a", "parameters": {"weight": first}}, {"model": "b", "parameters": {"weight": second}}]
    steps = to_recipe({"models": models, "merge_method": "nuslerp"}, source="x")["steps"]
    for key in KEYS:
        share = expected(key, first) / (expected(key, first) + expected(key, second))
        assert ratio(steps, steps["merged"]["gradient"], key) == pytest.approx(share)


def test_scale_that_varies() -> None:
    """The usual configuration for zeroing out what a block adds: a merge with nothing, the ratio being the scale."""
    setting = "[{filter: o_proj, value: 0}, {filter: down_proj, value: 0}, {value: 1}]"
    steps = translate(f"models: [{{model: a, parameters: {{scale: {setting}}}}}]\nmerge_method: passthrough\n")["steps"]
    assert steps == {
        "scale": {
            "op": "gradient.pattern",
            "model": "a",
            "layers": {"*o_proj*": 0.0, "*down_proj*": 0.0},
            "rest": 1.0,
        },
        "merged": {"op": "merge.passthrough", "models": ["a"], "scale": 0.0, "gradient": "scale"},
    }


def test_filters_and_lists_along_the_layers_are_few_steps() -> None:
    text = "models: [{model: a}]\nbase_model: c\nmerge_method: slerp\n"
    steps = translate(f"{text}parameters: {{t: [{{filter: mlp, value: 0.5}}, {{value: [0, 1]}}]}}\n")["steps"]
    assert list(steps) == ["t_layers", "t_where", "t_part", "t_others", "t", "merged"]


README_TIES = """
models:
  - model: psmathur/orca_mini_v3_13b
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: garage-bAInd/Platypus2-13B
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: WizardLM/WizardMath-13B-V1.0
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: TheBloke/Llama-2-13B-fp16
parameters:
  normalize: true
  int8_mask: true
dtype: float16
"""


def test_the_gradients_of_the_readme() -> None:
    recipe = translate(README_TIES)
    one, two, three = "orca_mini_v3_13b", "Platypus2_13B", "WizardMath_13B_V1_0"

    def pattern(layers: dict[str, float], rest: float | None = None) -> dict[str, Any]:
        return {"op": "gradient.pattern", "model": "base", "layers": layers, **({} if rest is None else {"rest": rest})}

    def by_layer(points: dict[str, float]) -> dict[str, Any]:
        step = {"op": "gradient.depth", "model": "base", "along": "layers", "points": points}
        return {**step, "rest": next(iter(points.values()))}

    assert recipe["models"] == {
        "base": "TheBloke/Llama-2-13B-fp16",
        one: "psmathur/orca_mini_v3_13b",
        two: "garage-bAInd/Platypus2-13B",
        three: "WizardLM/WizardMath-13B-V1.0",
    }
    assert recipe["steps"] == {
        f"weight_{one}": pattern({"*": 0.0}),
        f"weight_{two}": by_layer({"0": 1.0, "0.333333333333": 0.7, "0.666666666667": 0.3, "1": 0.0}),
        f"weight_{three}": pattern({"*mlp*": 0.5}, 1.0),
        f"density_{one}": by_layer({"0": 1.0, "0.5": 0.7, "1": 0.1}),
        f"density_{two}": pattern({"*": 0.5}),
        f"density_{three}": pattern({"*": 0.33}),
        "merged": {
            "op": "merge.ties",
            "models": [one, two, three],
            "base": "base",
            "weights": 1.0,
            "gradients": [f"weight_{one}", f"weight_{two}", f"weight_{three}"],
            "over": "tensor",
            **ELECTED,
            "normalize": "weights",
            "lambda": 1.0,
            "density": [1.0, 0.5, 0.33],
            "density_gradients": [f"density_{one}", f"density_{two}", f"density_{three}"],
        },
    }
    assert recipe["output"] == {"step": "merged", "dtype": "fp16"}


def test_equal_gradients_are_one_step_and_no_step_takes_a_models_name() -> None:
    text = "models: [{model: a}, {model: weight_a}]\nbase_model: c\nmerge_method: task_arithmetic\n"
    recipe = translate(f"{text}parameters: {{weight: [0, 1]}}\n")
    assert recipe["steps"]["merged"]["gradients"] == ["weight_a_2", "weight_a_2"]


def test_a_list_of_one_number_or_of_equal_ones_does_not_vary() -> None:
    assert merged(f"{TWO}merge_method: linear\nparameters: {{weight: [0.5]}}\n")["weights"] == 0.5
    text = f"{TWO}merge_method: linear\nparameters: {{weight: [{{filter: mlp, value: [2, 2]}}, {{value: 2}}]}}\n"
    assert merged(text)["weights"] == 2.0


# --- what is refused -----------------------------------------------------------------------------------------

TASK = "merge_method: ties\nbase_model: c\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slices: [{sources: []}]\nmerge_method: slerp", "slices are not supported"),
        ("modules: {x: {}}\nmerge_method: slerp", "modules are not supported"),
        (f"{TWO}merge_method: karcher\ntokenizer: {{source: base}}", "tokenizer is not supported"),
        (f"{TWO}merge_method: karcher\nchat_template: auto", "chat_template is not supported"),
        (f"{TWO}merge_method: karcher\ntokenizer_source: union", "tokenizer_source 'union' is not supported"),
        (f"{TWO}merge_method: karcher\nbasemodel: a", "unknown field 'basemodel'. Did you mean base_model"),
        (f"{TWO}merge_method: karcher\ndtype: int64", "dtype 'int64' is not supported"),
        (f"{TWO}merge_method: 3", "merge_method is not a name"),
        (f"{TWO}merge_method: tie", "merge_method 'tie' is not supported. Did you mean ties"),
        (f"{OVER_BASE}merge_method: arcee_fusion", "merge_method 'arcee_fusion' is not supported"),
        ("merge_method: karcher", "`models` is missing"),
        ("models: [a]\nmerge_method: karcher", "models[0]: 'a' is not a mapping"),
        ("models: [{model: a, weight: 1}]\nmerge_method: linear", "models[0]: unknown field 'weight'"),
        ("models: [{model: {path: a}}]\nmerge_method: karcher", "models[0].model: {'path': 'a'} is not supported"),
        ("models: [{model: a+lora}]\nmerge_method: karcher", "models[0].model: 'a+lora': a model with a LoRA"),
        ("models: [{model: a@main}]\nmerge_method: karcher", "models[0].model: 'a@main': a revision"),
        ("models: [{model: a}, {model: a}]\nmerge_method: karcher", "models[1]: 'a' is listed twice"),
        (f"{WEIGHED}merge_method: ties", "base_model is missing\nties needs it."),
        (f"{TWO}base_model: a\nmerge_method: model_stock", "needs at least 2 models beside the base, and 1 are given"),
        (
            f"{OVER_BASE}merge_method: slerp\nparameters: {{t: 0}}",
            "slerp needs 1 model beside the base, and 2 are given",
        ),
        (f"{TWO}merge_method: passthrough", "passthrough needs 1 model, and 2 are given"),
        ("models: [{model: a}]\nmerge_method: nuslerp", "nuslerp needs 2 models, and 1 are given"),
        (f"{TWO}merge_method: linear", "models[0] (a): weight is missing"),
        (
            f"{TWO}merge_method: linear\nparameters: {{weight: {{filter: mlp, value: 1}}}}",
            "models[0] (a): weight has no value for tensors that no filter fits",
        ),
        ("models: [{model: a}]\nbase_model: c\nmerge_method: slerp", "t is missing"),
        ("models: [{model: a}]\nbase_model: c\nmerge_method: nearswap", "t is missing"),
        (f"{TWO}merge_method: linear\nparameters: {{density: 1}}", "parameters: linear has no parameter 'density'"),
        (f"{TASKS}merge_method: ties\nparameters: {{gamma: 1}}", "parameters: ties has no parameter 'gamma'"),
        (
            "models: [{model: a, parameters: {t: 0.5}}]\nbase_model: c\nmerge_method: slerp",
            "models[0].parameters.t: t is not a parameter of a single model",
        ),
        (f"{TASKS}merge_method: ties\nparameters: {{density: 1.5}}", "density 1.5 is outside 0 to 1"),
        (f"{TASKS}merge_method: ties\nparameters: {{rescale: true}}", "rescale is not supported in ties"),
        (f"{TASKS}merge_method: breadcrumbs\nparameters: {{rescale: true}}", "rescale is not supported in breadcrumbs"),
        (
            f"{OVER_BASE}merge_method: ties\nparameters: {{weight: [1, -1]}}",
            "ties with normalize and a negative weight is not supported",
        ),
        (
            f"{TASKS}merge_method: breadcrumbs\nparameters: {{gamma: [0, 0.1]}}",
            "parameters.gamma: gamma that varies is not supported in breadcrumbs",
        ),
        (
            "models: [{model: a, parameters: {epsilon: 0.1}}, {model: b}]\nbase_model: c\nmerge_method: della\n"
            "parameters: {weight: 1}",
            "epsilon that differs between models is not supported in della",
        ),
        (f"{TASKS}merge_method: ties\nparameters: {{normalize: [true, false]}}", "parameters.normalize: a value that"),
        (f"{TASKS}merge_method: ties\nparameters: {{normalize: maybe}}", "parameters.normalize: 'maybe' is neither"),
        (
            f"{TWO}merge_method: karcher\nparameters: {{max_iter: 1.5}}",
            "parameters.max_iter: 1.5 is not a whole number",
        ),
        (f"{TWO}merge_method: linear\nparameters: {{weight: yes}}", "parameters.weight: True is not a number"),
        (f"{TWO}merge_method: linear\nparameters: {{weight: [1, x]}}", "parameters.weight[1]: 'x' is not a number"),
        (f"{TWO}merge_method: linear\nparameters: {{weight: .inf}}", "parameters.weight: inf is not a number"),
        (f"{TWO}merge_method: linear\nparameters: {{weight: []}}", "parameters.weight: the list is empty"),
        (f"{TWO}merge_method: linear\nparameters: {{weight: [{{value: 1}}, 2]}}", "weight[1]: a number stands beside"),
        (f"{TWO}merge_method: linear\nparameters: {{weight: {{filter: mlp}}}}", "weight: `value` is missing"),
        (f"{TWO}merge_method: linear\nparameters: {{weight: {{value: 1, for: x}}}}", "weight: 'for' is unknown"),
        (f"{TWO}merge_method: linear\nparameters: {{weight: {{filter: 1, value: 1}}}}", "weight.filter: 1 is not text"),
        (
            f"{TWO}merge_method: linear\nparameters: {{weight: [{{filter: 'a*', value: 1}}, {{value: 2}}]}}",
            "the filter 'a*' is not supported",
        ),
        (
            "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]\nmerge_method: linear",
            "the weights add up to 0",
        ),
    ],
)
def test_refused(text: str, message: str) -> None:
    assert message in refusal(text)
