"""What the canvas makes: the same as the command line does, twice the same, saved whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.checkpoints import BASE, LORA, MODEL_A, MODEL_B
from harness.client import Client
from harness.graph import Graph, Output
from harness.server import Server
from safetensors import safe_open

UNET = "model.diffusion_model."


def checkpoint(graph: Graph, name: str) -> list[Output]:
    return graph.add("CheckpointLoaderSimple", "MODEL", "CLIP", "VAE", ckpt_name=name)


def save(graph: Graph, prefix: str, **parts: Output) -> None:
    graph.put("daremerge.save.checkpoint", ["STRING"], {**parts, "filename_prefix": prefix, "dtype": "keep"})


def newest(server: Server, prefix: str) -> Path:
    folder, _, stem = prefix.rpartition("/")
    return max((server.output / folder).glob(f"{stem}_*"), key=lambda path: path.stat().st_mtime_ns)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def differing(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> list[str]:
    assert found.keys() == wanted.keys()
    return [
        name
        for name, tensor in found.items()
        if tensor.dtype != wanted[name].dtype or not torch.equal(tensor, wanted[name])
    ]


def daremerge(*words: str | Path) -> None:
    """The command line, as a program of its own."""
    command = [sys.executable, "-c", "from daremerge_core.cli import main; main()", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def dare(graph: Graph, *, seed: int = 7) -> Output:
    """A masked DARE merge with ratios by block and a base: most of what there is, in one."""
    model_a, *_ = checkpoint(graph, MODEL_A)
    model_b, *_ = checkpoint(graph, MODEL_B)
    base, *_ = checkpoint(graph, BASE)
    [mask] = graph.put("daremerge.mask.magnitude", ["MODEL_MASK"], {"model": model_a, "base": base, "threshold": 0.7})
    [ratios] = graph.put("daremerge.gradient.mbw", ["LAYER_GRADIENT"], {"model": model_a, "preset": "GRAD_V"})
    options = {"drop_rate": 0.8, "ties": "sum", "seed": seed}
    inputs = {"a": model_a, "b": model_b, "base": base, "mask": mask, "gradient": ratios, **options}
    [merged] = graph.put("daremerge.merge.dare", ["MODEL"], inputs)
    return merged


def test_the_command_line_makes_the_same_tensors(client: Client, server: Server, tmp_path: Path) -> None:
    """From the recipe that the canvas writes, on the checkpoint files. Without a GPU ComfyUI computes in fp32."""
    graph = Graph()
    merged = dare(graph)
    save(graph, "same/canvas", model=merged)
    graph.put("daremerge.recipe.save", ["STRING", "STRING"], {"model": merged, "filename_prefix": "same/recipe"})
    client.succeed(graph.api())

    recipe = server.models / "checkpoints" / "same.yaml"  # where the recipe finds its models
    recipe.write_bytes(newest(server, "same/recipe").read_bytes())
    daremerge("run", recipe, "-o", tmp_path / "cli.safetensors", "--set", "output.dtype=fp32")
    canvas = tensors(newest(server, "same/canvas"))
    cli = {name: tensor for name, tensor in tensors(tmp_path / "cli.safetensors").items() if name.startswith(UNET)}
    assert differing(canvas, cli) == []
    model_a = tensors(server.models / "checkpoints" / MODEL_A)
    changed = [name for name, tensor in canvas.items() if not torch.equal(tensor, model_a[name].float())]
    assert len(changed) > 500  # it did merge


def test_text_encoders_too(client: Client, server: Server, tmp_path: Path) -> None:
    graph = Graph()
    model_a, clip_a, _ = checkpoint(graph, MODEL_A)
    _, clip_b, _ = checkpoint(graph, MODEL_B)
    inputs = {"a": clip_a, "b": clip_b, "drop_rate": 0.5, "seed": 3}
    [merged] = graph.put("daremerge.clip.merge.dare", ["CLIP"], inputs)
    save(graph, "same/clip", model=model_a, clip=merged)
    client.succeed(graph.api())

    files = [server.models / "checkpoints" / name for name in (MODEL_A, MODEL_B)]
    options = ["--drop-rate", "0.5", "--seed", "3", "--parts", "clip"]
    daremerge("merge", "dare", *files, *options, "-o", tmp_path / "cli.safetensors")
    clip = "cond_stage_model.transformer."
    canvas = {name: one for name, one in tensors(newest(server, "same/clip")).items() if name.startswith(clip)}
    cli = tensors(tmp_path / "cli.safetensors")
    kept = {name: cli[name].to(tensor.dtype) for name, tensor in canvas.items() if name in cli}
    assert len(kept) > 190
    assert differing({name: canvas[name] for name in kept}, kept) == []


def test_a_second_run_gives_the_same_while_the_first_result_is_loaded(client: Client, server: Server) -> None:
    """0.5 stays 0.5: in the old pack the live model was read, with the first result in it, so it became 0.75."""
    graph = Graph()
    model_a, clip, _ = checkpoint(graph, MODEL_A)
    model_b, *_ = checkpoint(graph, MODEL_B)
    [merged] = graph.put("daremerge.merge.lerp", ["MODEL"], {"a": model_a, "b": model_b, "ratio": 0.5, "include": "*"})
    sampled(graph, merged, clip)
    save(graph, "twice/run", model=merged)
    client.succeed(graph.api())
    first = tensors(newest(server, "twice/run"))
    again = graph.api()
    merge = next(node for node in again.values() if node["class_type"] == "daremerge.merge.lerp")
    merge["inputs"]["include"] = "*, *"  # says the same, and is not in the cache
    run = client.succeed(again)
    assert any(again[node]["class_type"] == "daremerge.merge.lerp" for node in run.executed())
    assert differing(tensors(newest(server, "twice/run")), first) == []


def sampled(graph: Graph, model: Output, clip: Output) -> None:
    """One step of sampling, for which ComfyUI loads the model with its patches in it."""
    [words] = graph.add("CLIPTextEncode", "CONDITIONING", clip=clip, text="a hill")
    [latent] = graph.add("EmptyLatentImage", "LATENT", width=64, height=64, batch_size=1)
    inputs = {"model": model, "positive": words, "negative": words, "latent_image": latent, "seed": 5, "steps": 1}
    options = {"cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    [samples] = graph.put("KSampler", ["LATENT"], {**inputs, **options})
    graph.add("PreviewAny", source=samples)


def test_saving_is_as_comfyui_saves(client: Client, server: Server) -> None:
    """After a merge and a LoRA, with text encoder and VAE: the same tensors, and a recipe in the metadata."""
    graph = Graph()
    merged = dare(graph)
    _, clip, vae = checkpoint(graph, MODEL_A)
    inputs = {"model": merged, "clip": clip, "lora_name": LORA, "strength_model": 0.8, "strength_clip": 0.5}
    model, clip = graph.put("LoraLoader", ["MODEL", "CLIP"], inputs)
    save(graph, "saved/ours", model=model, clip=clip, vae=vae)
    graph.add("CheckpointSave", model=model, clip=clip, vae=vae, filename_prefix="saved/theirs")
    client.succeed(graph.api())
    ours, theirs = newest(server, "saved/ours"), newest(server, "saved/theirs")
    assert differing(tensors(ours), tensors(theirs)) == []


def test_a_saved_merge_carries_its_recipe_and_loads(client: Client, server: Server) -> None:
    graph = Graph()
    merged = dare(graph)
    _, clip, vae = checkpoint(graph, MODEL_A)
    inputs = {"model": merged, "clip": clip, "vae": vae, "filename_prefix": "saved/merge", "dtype": "fp16"}
    graph.put("daremerge.save.checkpoint", ["STRING"], inputs)
    client.succeed(graph.api())
    path = newest(server, "saved/merge")
    with safe_open(path, "pt") as file:
        assert "op: merge.dare" in file.metadata()["daremerge.recipe"]
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}
    (server.models / "checkpoints" / "saved.safetensors").symlink_to(path)
    again = Graph()
    model, clip, _ = checkpoint(again, "saved.safetensors")
    sampled(again, model, clip)
    client.succeed(again.api())


def test_a_recipe_runs_on_the_canvas(client: Client, server: Server) -> None:
    folder = server.models / "recipes"
    folder.mkdir(exist_ok=True)
    steps = "{merged: {op: merge.lerp, a: a, b: b, ratio: 0.5}}"
    text = f"models: {{a: {MODEL_A}, b: {MODEL_B}}}\nsteps: {steps}\noutput: merged\n"
    (folder / "half.yaml").write_text(text)
    graph = Graph()
    inputs = {"recipe": "half.yaml", "settings": "merged.ratio=0.25"}
    model, clip, vae = graph.put("daremerge.recipe.load", ["MODEL", "CLIP", "VAE"], inputs)
    save(graph, "recipes/quarter", model=model, clip=clip, vae=vae)
    client.succeed(graph.api())
    found = tensors(newest(server, "recipes/quarter"))
    model_a, model_b = (tensors(server.models / "checkpoints" / name) for name in (MODEL_A, MODEL_B))
    name = f"{UNET}middle_block.1.proj_in.weight"
    wanted = (model_a[name].float() * 0.25 + model_b[name].float() * 0.75).half().float()
    assert torch.allclose(found[name], wanted, atol=1e-3)
    assert not torch.equal(found[name], model_a[name].float())
    assert not list((server.folder / "temp").glob("daremerge-*"))


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_merges_of_merges_and_loras_between(keep: str, client: Client, server: Server) -> None:
    """The recipe that the canvas writes of a LoRA'd model merged and merged again says what the canvas did."""
    graph = Graph()
    model_a, clip, _ = checkpoint(graph, MODEL_A)
    model_b, *_ = checkpoint(graph, MODEL_B)
    base, *_ = checkpoint(graph, BASE)
    options: dict[str, Any] = {"lora_name": LORA, "strength_model": 0.8, "strength_clip": 0.5}
    with_lora, _ = graph.put("LoraLoader", ["MODEL", "CLIP"], {"model": model_a, "clip": clip, **options})
    inputs = {"a": with_lora, "b": model_b, "base": base, "drop_rate": 0.5, "seed": 2, "keep_in": keep}
    [first] = graph.put("daremerge.merge.dare", ["MODEL"], inputs)
    [second] = graph.put("daremerge.merge.lerp", ["MODEL"], {"a": first, "b": base, "ratio": 0.25, "keep_in": keep})
    save(graph, f"chain/{keep}", model=second)
    recipe = {"model": second, "filename_prefix": f"chain/recipe-{keep}"}
    graph.put("daremerge.recipe.save", ["STRING", "STRING"], recipe)
    client.succeed(graph.api())
    text = newest(server, f"chain/recipe-{keep}").read_text()
    assert [text.count(f"op: {op}") for op in ("lora.apply", "merge.dare", "merge.lerp")] == [1, 1, 1]
    if keep == "disk":
        memory, disk = newest(server, "chain/memory"), newest(server, "chain/disk")
        assert differing(tensors(disk), tensors(memory)) == []
