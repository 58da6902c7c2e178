"""mergekit configurations run: folders in, a folder out, and the tensors that mergekit's own functions give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from torch import Tensor

from daremerge_core import open_model
from daremerge_core.cli import make_cli
from daremerge_core.stores import ShardedWriter
from daremerge_core.values import TensorMeta

LAYERS = 4
NAMES = ("base", "a", "b", "c")


def daremerge(*args: object) -> Result:
    return CliRunner().invoke(make_cli(), [str(arg) for arg in args])


def tensors(seed: int, rows: int = 12) -> dict[str, Tensor]:
    """A small decoder of Llama's names; ``rows`` is its vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, 8)}
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.self_attn.q_proj.weight": (8, 8),
            f"model.layers.{layer}.mlp.up_proj.weight": (16, 8),
            f"model.layers.{layer}.input_layernorm.weight": (8,),
        }
    shapes |= {"model.norm.weight": (8,), "lm_head.weight": (rows, 8)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Four Hugging Face folders beside each other, each of two shards or more."""
    for seed, name in enumerate(NAMES):
        write(tmp_path / name, tensors(seed))
    return tmp_path


def write(folder: Path, found: dict[str, Tensor]) -> None:
    metas = [TensorMeta(key, "F32", tuple(tensor.shape)) for key, tensor in found.items()]
    with ShardedWriter(folder, metas, {"format": "pt"}, shard_size=4000) as writer:
        for key, tensor in found.items():
            writer.write(key, 0, tensor.reshape(-1))
        writer.commit()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "name": folder.name}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "generation_config.json").write_text("{}")


def run(folder: Path, text: str, *options: str) -> dict[str, Tensor]:
    (folder / "mergekit.yml").write_text(text)
    done = daremerge("run", folder / "mergekit.yml", "-o", folder / "merged", *options)
    assert done.exit_code == 0, done.output
    model = open_model(folder / "merged")
    return {key: model.read(key).clone() for key in model.keys()}


def theirs(method: str, key: str, models: str, *, based: bool = True, **parameters: Any) -> Tensor:
    """mergekit's result for one tensor; what is a function is asked for the layer's place from 0 to 1."""
    api = pytest.importorskip("mergekit.merge_methods.api")
    segment = key.split(".")
    place = int(segment[2]) / (LAYERS - 1) if "layers" in segment else 0.0

    def at(value: Any) -> Any:
        if callable(value):
            return value(key, place)
        return [at(one) for one in value] if isinstance(value, list) else value

    given = {name: at(value) for name, value in parameters.items()}
    found = [tensors(NAMES.index(name))[key] for name in ("base", *models.split())]
    result: Tensor = api.merge_tensors(found, method, parameters=given, base_index=0 if based else None)
    return result


TIES = """
models:
  - model: a
    parameters: {density: [1, 0.75, 0.25], weight: 1.0}
  - model: b
    parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}
  - model: c
    parameters:
      density: 0.25
      weight: [{filter: mlp, value: 0.5}, {value: 0}]
merge_method: ties
base_model: base
parameters: {normalize: true, int8_mask: true}
"""


def between(values: list[float]) -> Any:
    def at(key: str, place: float) -> float:
        position = place * (len(values) - 1)
        before = min(int(position), len(values) - 2)
        return values[before] + (position - before) * (values[before + 1] - values[before])

    return at


def test_ties_of_mergekits_readme(folders: Path) -> None:
    found = run(folders, TIES)
    weights = [1.0, between([0, 0.3, 0.7, 1]), lambda key, place: 0.5 if "mlp" in key else 0.0]
    densities = [between([1, 0.75, 0.25]), 0.5, 0.25]
    off = 0
    for key, tensor in found.items():
        wanted = theirs("ties", key, "a b c", weight=weights, density=densities, normalize=True)
        off += int((~torch.isclose(tensor, wanted, atol=1e-5)).sum())
    assert off <= 3  # counts of kept elements are rounded here, and cut off there
    assert json.loads((folders / "merged" / "config.json").read_text())["name"] == "base"
    assert (folders / "merged" / "generation_config.json").exists()
    assert (folders / "merged" / "model.safetensors.index.json").exists()


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("task_arithmetic", {"weight": [0.5, -0.2], "lambda": 0.8}),
        ("linear", {"weight": [0.5, 0.2, 0.7]}),
        ("model_stock", {}),
        ("sce", {"select_topk": 0.5}),
        ("karcher", {}),
        ("nearswap", {"t": 0.3}),
    ],
)
def test_the_tensors_are_mergekits(folders: Path, method: str, parameters: dict[str, Any]) -> None:
    models = "a" if method == "nearswap" else "a b"
    whole = {"base_model": "base"} if method not in ("linear", "karcher") else {}
    listed: list[dict[str, Any]] = [{"model": name} for name in (["base"] if not whole else []) + models.split()]
    by_model = parameters.get("weight", [None] * len(listed))
    for entry, weight in zip(listed, by_model, strict=True):
        entry |= {"parameters": {"weight": weight}} if weight is not None else {}
    shared = {key: value for key, value in parameters.items() if key != "weight"}
    config = {"models": listed, "merge_method": method, **whole, "parameters": shared, "dtype": "float32"}
    found = run(folders, yaml.safe_dump(config))
    for key, tensor in found.items():
        wanted = theirs(method, key, models, based=bool(whole), **parameters)
        torch.testing.assert_close(tensor, wanted, rtol=1e-4, atol=1e-4)


def test_slerp_by_filters_and_layers(folders: Path) -> None:
    text = """
models: [{model: base}, {model: a}]
base_model: base
merge_method: slerp
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 1]}
    - {filter: mlp, value: [1, 0.5]}
    - {value: 0.5}
dtype: bfloat16
"""
    found = run(folders, text)

    def t(key: str, place: float) -> float:
        curves = {"self_attn": between([0, 0.5, 1]), "mlp": between([1, 0.5])}
        at: float = next((curve(key, place) for word, curve in curves.items() if word in key), 0.5)
        return at

    for key, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        torch.testing.assert_close(tensor.float(), theirs("slerp", key, "a", t=t), rtol=1e-2, atol=1e-2)
    assert json.loads((folders / "merged" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_import_writes_the_recipe_that_run_would_take(folders: Path) -> None:
    run(folders, TIES)
    recipe = folders / "recipe.yaml"
    done = daremerge("import", folders / "mergekit.yml", "-o", recipe)
    assert done.exit_code == 0, done.output
    assert "merge.ties" in recipe.read_text()
    done = daremerge("run", recipe, "-o", folders / "again")
    assert done.exit_code == 0, done.output
    for shard in (folders / "merged").glob("*.safetensors"):
        assert shard.read_bytes() == (folders / "again" / shard.name).read_bytes()
    shown = daremerge("import", folders / "mergekit.yml")
    assert shown.output == recipe.read_text()
    assert daremerge("import", folders / "mergekit.yml", "-o", recipe).exit_code != 0  # it is there already


def test_vocabularies_of_different_sizes(folders: Path) -> None:
    write(folders / "longer", tensors(9, rows=14))
    text = (
        "models: [{model: a}, {model: longer}]\nbase_model: base\nmerge_method: task_arithmetic\n"
        "parameters: {weight: 1}\n"
    )
    (folders / "mergekit.yml").write_text(text)
    done = daremerge("run", folders / "mergekit.yml", "-o", folders / "merged")
    assert done.exit_code != 0
    assert "common-rows" in done.output
    found = run(folders, text, "--set", "merged.on_mismatch=common-rows")
    key = "model.embed_tokens.weight"
    base, a, longer = tensors(0)[key], tensors(1)[key], tensors(9, rows=14)[key][:12]
    torch.testing.assert_close(found[key], a + longer - base)


def test_what_cannot_be_said_is_refused_by_name(folders: Path) -> None:
    (folders / "mergekit.yml").write_text("slices: []\nmerge_method: slerp\n")
    for command in ("run", "import", "plan"):
        done = daremerge(command, folders / "mergekit.yml", *(["-o", folders / "x"] if command != "plan" else []))
        assert done.exit_code != 0
        assert "slices are not supported" in done.output
