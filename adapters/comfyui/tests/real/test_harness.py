"""The test bed itself, by ComfyUI's own nodes: what these find wrong is not the pack's doing."""

from __future__ import annotations

import pytest
from harness.browser import Canvas
from harness.checkpoints import MODEL_A, MODEL_B
from harness.client import Client, Refused
from harness.graph import Graph


@pytest.fixture(scope="module")
def picture() -> Graph:
    """A picture of a merge, by built-in nodes alone."""
    graph = Graph()
    model_a, clip, vae = graph.add("CheckpointLoaderSimple", "MODEL", "CLIP", "VAE", ckpt_name=MODEL_A)
    model_b, *_ = graph.add("CheckpointLoaderSimple", "MODEL", "CLIP", "VAE", ckpt_name=MODEL_B)
    [merged] = graph.add("ModelMergeSimple", "MODEL", model1=model_a, model2=model_b, ratio=0.25)
    [words] = graph.add("CLIPTextEncode", "CONDITIONING", clip=clip, text="a hill")
    [latent] = graph.add("EmptyLatentImage", "LATENT", width=64, height=64, batch_size=1)
    [sampled] = graph.add(
        "KSampler",
        "LATENT",
        model=merged,
        positive=words,
        negative=words,
        latent_image=latent,
        seed=5,
        steps=1,
        cfg=1.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    [image] = graph.add("VAEDecode", "IMAGE", samples=sampled, vae=vae)
    graph.add("PreviewImage", images=image)
    return graph


def test_models_are_recognised_and_make_pictures(client: Client, picture: Graph) -> None:
    run = client.succeed(picture.api())
    [shown] = (output["images"] for output in run.outputs.values())
    png = client.view(shown[0])
    assert png.startswith(b"\x89PNG")
    assert len(png) > 2000  # a picture of one colour, as NaN gives, takes some 200 bytes


def test_canvas_and_server_take_the_same_workflow(canvas: Canvas, picture: Graph) -> None:
    shown = canvas.open(picture.ui())
    assert all(node.known for node in shown.values())
    assert shown["6"].widgets["seed"] == 5
    assert canvas.prompt() == picture.api()
    assert canvas.said == []


def test_what_a_server_refuses_is_told(client: Client) -> None:
    graph = Graph()
    model, *_ = graph.add("CheckpointLoaderSimple", "MODEL", "CLIP", "VAE", ckpt_name="nothing.safetensors")
    graph.add("ModelSave", model=model, filename_prefix="x")
    with pytest.raises(Refused) as refused:
        client.run(graph.api())
    assert refused.value.node_errors["1"]["class_type"] == "CheckpointLoaderSimple"
