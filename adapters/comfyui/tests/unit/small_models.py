"""Small but real models: ComfyUI's own U-Net of SD1.5 with few channels, its own CLIP, their patchers."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

SEED = 20240229

UNET = {
    "image_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": 16,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "legacy": False,
}
TO_Q = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
TO_K = TO_Q.replace("to_q", "to_k")
CONV = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
BIAS = CONV.replace("weight", "bias")
OUT = "diffusion_model.output_blocks.0.0.in_layers.2.weight"
CLIP = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
    "vocab_size": 100,
}


def unet(seed: int = 0, dtype: torch.dtype = torch.float16, **config: Any) -> Any:
    """A MODEL: random weights of ``seed``. ``config`` sets attributes of ComfyUI's model config, as ``scaled_fp8``."""
    import comfy.model_patcher
    import comfy.supported_models

    found = comfy.supported_models.SD15(UNET)
    found.set_inference_dtype(dtype, torch.float32 if dtype.itemsize == 1 else None)
    for name, value in config.items():
        setattr(found, name, value)
    model = found.get_model({}, "", device=torch.device("cpu"))
    fill(model.diffusion_model, seed)
    return patcher(model)


def patcher(model: torch.nn.Module) -> Any:
    import comfy.model_management as management
    import comfy.model_patcher

    device = management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def clip(seed: int = 0) -> Any:
    """A CLIP: the text encoder of SD1.5, small."""
    import comfy.sd
    import comfy.sd1_clip

    target = SimpleNamespace(
        params={},
        clip=comfy.sd1_clip.SD1ClipModel,
        tokenizer=lambda **_: None,
    )
    found = comfy.sd.CLIP(target, model_options={"dtype": torch.float16, "clip_l_model_config": CLIP})
    fill(found.cond_stage_model, seed)
    return found


def fill(module: torch.nn.Module, seed: int) -> None:
    """Weights of a size that real ones have: another seed is another fine-tune, the names decide nothing."""
    generator = torch.Generator().manual_seed(SEED + seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.numel() or name.endswith(("scale_weight", "scale_input", "logit_scale")):
                continue
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)


def loaded(value: Any, **options: Any) -> Any:
    """The patcher, its model loaded with all its patches, as for sampling."""
    import comfy.model_management as management

    found = getattr(value, "patcher", value)
    management.load_models_gpu([found], force_full_load=not options, **options)
    return found


def running(value: Any) -> dict[str, Tensor]:
    """What ComfyUI itself runs with: the weights of the model once it is loaded, a copy; then it is unloaded."""
    found = getattr(value, "patcher", value)
    clone = found.clone()
    clone.patch_model(device_to=torch.device("cpu"))
    try:
        return {key: weight.detach().clone() for key, weight in clone.model.state_dict().items()}
    finally:
        clone.unpatch_model(device_to=torch.device("cpu"))


def live(value: Any) -> dict[str, bytes]:
    """The bytes of the module as it is in memory now."""
    found = getattr(value, "patcher", value)
    return {key: raw(weight) for key, weight in found.model.state_dict().items()}


def raw(weight: Tensor) -> bytes:
    """The bytes of a tensor, of any dtype."""
    plain = getattr(weight, "_qdata", weight).detach()
    return plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def lora_keys(value: Any) -> dict[str, str]:
    import comfy.lora

    return dict(comfy.lora.model_lora_keys_unet(value.model, {}))


def with_lora(value: Any, tensors: Mapping[str, Tensor], strength: float = 0.7) -> Any:
    """A clone with a LoRA, by way of ComfyUI's loader."""
    import comfy.lora

    clone = value.clone()
    patches = comfy.lora.load_lora(dict(tensors), lora_keys(value), log_missing=False)
    assert patches
    added = clone.add_patches(patches, strength)
    assert len(added) == len(patches)
    return clone


def randn(*shape: int, seed: int = 1, scale: float = 0.1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED + seed)) * scale
