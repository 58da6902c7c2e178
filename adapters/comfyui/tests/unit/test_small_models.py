"""The models that the other tests use are what they say."""

from __future__ import annotations

import torch
from small_models import BIAS, CONV, OUT, TO_K, TO_Q, clip, loaded, running, unet


def test_the_unet_runs() -> None:
    model = unet(dtype=torch.float32)
    loaded(model)
    found = model.model.apply_model(torch.zeros(1, 4, 8, 8), torch.ones(1), c_crossattn=torch.zeros(1, 7, 16))
    assert found.shape == (1, 4, 8, 8)
    assert {BIAS, CONV, OUT, TO_K, TO_Q} <= running(model).keys()


def test_the_text_encoder_is_one_to_comfyui() -> None:
    keys = running(clip())
    assert "clip_l.transformer.text_model.encoder.layers.1.mlp.fc2.weight" in keys
    assert "clip_l.logit_scale" in keys
