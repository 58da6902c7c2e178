"""Writing MODELs, CLIPs, VAEs and LoRAs to files, tensor by tensor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daremerge_core import MemoryModel, Model, Span, TensorMeta
from daremerge_core.api import create_sink, plan_recipe
from daremerge_core.engine import Settings, execute
from daremerge_core.plan import Plan
from daremerge_core.sizes import format_size

from .file_names import named
from .running import CanvasCancel, CanvasProgress, explained
from .weights import PatchedWeights, patcher_of

__all__ = ["DTYPES", "as_checkpoint", "next_path", "write"]

DTYPES = ("keep", "fp16", "bf16", "fp32", "fp8_e4m3", "fp8_e5m2")


def next_path(prefix: str) -> Path:
    """``output/prefix_00001_.safetensors``, the number one more than those that are there, as ComfyUI counts."""
    import folder_paths

    folder, name, number, *_ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return Path(folder) / f"{name}_{number:05}_.safetensors"


def write(model: Model, path: Path, *, dtype: str, metadata: Mapping[str, str]) -> str:
    """Stream a model to a file, whole or not at all. Returns a line that says what was written."""
    with explained():
        recipe = {"models": {"model": path.name}, "output": {"step": "model", "dtype": dtype}}
        plan = plan_recipe(recipe, live={"model": model})
        saved = _Saved(plan.graph, [], {}, plan.value, "model", own=dict(metadata))
        summary = execute(saved, create_sink(saved, path), Settings(), progress=CanvasProgress(), cancel=CanvasCancel())
        line = (
            f"wrote {path.name}: {len(saved.tensors)} tensors, {format_size(saved.bytes_out)}, {summary.seconds:.1f} s"
        )
        logging.info("daremerge: %s", line)
        return line


@dataclass
class _Saved(Plan):
    """A plan whose file says what the canvas says, rather than a recipe of files."""

    own: dict[str, str] = field(default_factory=dict)

    def metadata(self, identities: Mapping[str, str]) -> dict[str, str]:
        return self.own


# --- a checkpoint of parts --------------------------------------------------------------------------------


def as_checkpoint(model: Any, clip: Any = None, vae: Any = None) -> Model:
    """The parts as one model, under the names of a checkpoint file; each weight as it takes effect."""
    with explained():
        return _Joined(list(_parts(model, clip, vae)))


def _parts(model: Any, clip: Any, vae: Any) -> Iterable[Model]:
    config = model.model.model_config
    unet = PatchedWeights(*patcher_of(model), whole=True)
    yield _under_file_names(unet, lambda found: config.process_unet_state_dict_for_saving(_bare(found)))
    if clip is not None:
        weights = PatchedWeights(*patcher_of(clip), whole=True)
        yield _under_file_names(
            _Joined([weights, MemoryModel(clip.tokenizer.state_dict())]), config.process_clip_state_dict_for_saving
        )
    if vae is not None:
        yield _under_file_names(MemoryModel(vae.get_sd()), config.process_vae_state_dict_for_saving)
    yield MemoryModel(_switches(model))


def _bare(state: Mapping[str, Any]) -> dict[str, Any]:
    """A MODEL's state dict as its network alone has it."""
    return {key.removeprefix("diffusion_model."): tensor for key, tensor in state.items()}


def _under_file_names(model: Model, rename: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Model:
    found = named(model, rename)
    if found is not None:
        return found
    return MemoryModel(rename({key: model.read(key) for key in model.keys()}))


def _switches(model: Any) -> dict[str, Any]:
    """Tensors that tell a loader how the model predicts, as ComfyUI's own saving writes them."""
    import torch
    from comfy.model_base import ModelType
    from comfy.model_sampling import V_PREDICTION, ModelSamplingContinuousEDM

    found: dict[str, Any] = {}
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, ModelSamplingContinuousEDM) and isinstance(sampling, V_PREDICTION):
        found["edm_vpred.sigma_max"] = torch.tensor(sampling.sigma_max).float()
        found["edm_vpred.sigma_min"] = torch.tensor(sampling.sigma_min).float()
    if model.model.model_type == ModelType.V_PREDICTION:
        found["v_pred"] = torch.tensor([])
        if getattr(sampling, "zsnr", False):
            found["ztsnr"] = torch.tensor([])
    return found


class _Joined:
    """Several models as one; of a name that two have, the first counts."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._home = {key: model for model in reversed(models) for key in model.keys()}

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    def keys(self) -> Sequence[str]:
        return tuple(self._home)

    def meta(self, key: str) -> TensorMeta:
        return self._home[key].meta(key)

    def read(self, key: str, span: Span | None = None) -> Any:
        return self._home[key].read(key, span)

    def needs_whole(self, key: str) -> bool:
        from daremerge_core.views import needs_whole

        return needs_whole(self._home[key], key)

    def working_bytes(self, key: str, numel: int) -> int:
        from daremerge_core.views import working_bytes

        return working_bytes(self._home[key], key, numel)

    def close(self) -> None: ...
