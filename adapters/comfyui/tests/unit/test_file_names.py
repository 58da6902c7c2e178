"""Names of tensors in a file, asked of ComfyUI with labels: the same as its own functions give with tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from small_models import randn

from daremerge_comfyui.file_names import named
from daremerge_core import MemoryModel, Span


def encoder(prefix: str) -> dict[str, torch.Tensor]:
    """A text encoder of two layers under the names that ComfyUI has for it."""
    layer = f"{prefix}.transformer.text_model.encoder.layers"
    found = {
        f"{prefix}.transformer.text_model.embeddings.token_embedding.weight": randn(9, 4),
        f"{prefix}.transformer.text_model.final_layer_norm.bias": randn(4),
        f"{prefix}.transformer.text_projection.weight": randn(4, 6),
        f"{prefix}.logit_scale": torch.tensor(4.6),
    }
    for at in range(2):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found[f"{layer}.{at}.self_attn.{name}.weight"] = randn(4, 4, seed=at)
            found[f"{layer}.{at}.self_attn.{name}.bias"] = randn(4, seed=at + 7)
        found[f"{layer}.{at}.mlp.fc1.weight"] = randn(8, 4, seed=at + 3)
    return found


def clip_of(name: str) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    import comfy.supported_models

    return getattr(comfy.supported_models, name)({}).process_clip_state_dict_for_saving


@pytest.mark.parametrize(
    ("architecture", "encoders"),
    [("SD15", ["clip_l"]), ("SD20", ["clip_h"]), ("SDXL", ["clip_l", "clip_g"]), ("SDXLRefiner", ["clip_g"])],
)
def test_as_comfyui_names_them(architecture: str, encoders: list[str]) -> None:
    state = {name: tensor for encoder_name in encoders for name, tensor in encoder(encoder_name).items()}
    rename = clip_of(architecture)
    found = named(MemoryModel(state), rename)
    assert found is not None
    wanted = rename(dict(state))
    assert set(found.keys()) == set(wanted)
    for name, tensor in wanted.items():
        assert found.meta(name).shape == tuple(tensor.shape), name
        assert torch.equal(found.read(name), tensor), name
        if tensor.numel() > 3:
            assert torch.equal(found.read(name, Span(1, 3)), tensor.reshape(-1)[1:3])


def test_what_labels_cannot_say_is_told() -> None:
    state = MemoryModel({"a": randn(4, 4)})
    assert named(state, lambda found: {"b": found["a"] * 2}) is None
    assert named(state, lambda found: {"b": found["a"][:, :1]}) is None
    assert named(state, lambda found: {"b": found["a"].reshape(2, 8)}) is None
