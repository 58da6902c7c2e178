"""Recipes: writing the canvas's merge down, and running one that is written down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from comfy_api.latest import io

from daremerge_core import discover
from daremerge_core.api import create_sink, plan_recipe
from daremerge_core.decisions import detect_layout
from daremerge_core.engine import execute, settle
from daremerge_core.errors import DaremergeError
from daremerge_core.plan import Plan
from daremerge_core.recipe import Recipe, apply_settings, load_recipe, parse_recipe

from ..node import Call, Node
from ..recipes import recipe_of, to_yaml
from ..running import CanvasCancel, CanvasProgress, Stopped, explained, on_some_device

__all__ = ["load", "save"]

FOLDER = "recipes"
PREFIX = "recipes/merge"
_SUFFIXES = {".yaml", ".yml", ".json"}
_MODEL_FOLDERS = ("checkpoints", "diffusion_models", "text_encoders", "loras")


def save() -> Node:
    own = [
        io.Model.Input("model", optional=True, tooltip="A merged model."),
        io.Clip.Input("clip", optional=True, tooltip="A merged text encoder."),
        io.String.Input(
            "filename_prefix",
            optional=True,
            default=PREFIX,
            tooltip="Folder and beginning of the name, in ComfyUI's output folder; a number is added.",
        ),
    ]

    def run(call: Call) -> Any:
        import folder_paths

        text = to_yaml(recipe_of(call.get("model"), call.get("clip")))
        folder, name, number, *_ = folder_paths.get_save_image_path(
            call.get("filename_prefix", PREFIX), folder_paths.get_output_directory()
        )
        path = Path(folder) / f"{name}_{number:05}_.yaml"
        path.write_text(text, encoding="utf-8")
        return io.NodeOutput(text, str(path), ui={"text": (text,)})

    return Node(
        id="daremerge.recipe.save",
        title="Save Recipe",
        category="recipe",
        description="Writes down how a model was merged: a recipe that `daremerge run` makes into a file, and that the "
        "node Load Recipe runs.",
        inputs=lambda: own,
        outputs=[
            io.String.Output(display_name="recipe", tooltip="The recipe, as YAML."),
            io.String.Output(display_name="path", tooltip="The file that was written."),
        ],
        run=run,
        is_output=True,
    )


def load() -> Node:
    _register_folder()

    def own() -> list[io.Input]:
        import folder_paths

        return [
            io.Combo.Input(
                "recipe",
                options=list(folder_paths.get_filename_list(FOLDER)),
                tooltip="A recipe in models/recipes or output/recipes.",
            ),
            io.String.Input(
                "settings",
                default="",
                multiline=True,
                optional=True,
                tooltip="Changes to the recipe, one in a line, such as merged.drop_rate=0.8.",
            ),
        ]

    return Node(
        id="daremerge.recipe.load",
        title="Load Recipe",
        category="recipe",
        description="Runs a recipe over files, in bounded memory, and loads the result. Its models are sought beside "
        "the recipe and in ComfyUI's model folders.",
        inputs=own,
        outputs=[
            io.Model.Output(display_name="MODEL", tooltip="The merged model."),
            io.Clip.Output(display_name="CLIP", tooltip="Its text encoder, where the result has one."),
            io.Vae.Output(display_name="VAE", tooltip="Its VAE, where the result has one."),
        ],
        run=lambda call: _run(_recipe(call.inputs), _folders(call["recipe"])),
        fingerprint=_fingerprint,
    )


def _register_folder() -> None:
    """models/recipes and output/recipes, known to ComfyUI as it knows its other folders."""
    import folder_paths

    for folder in (folder_paths.models_dir, folder_paths.get_output_directory()):
        folder_paths.add_model_folder_path(FOLDER, os.path.join(folder, FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, _SUFFIXES)


def _path(name: str) -> Path:
    import folder_paths

    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))


def _recipe(inputs: Mapping[str, Any]) -> Recipe:
    with explained():
        recipe = load_recipe(_path(inputs["recipe"]))
        changes = [line.strip() for line in (inputs.get("settings") or "").splitlines() if line.strip()]
        if not changes:
            return recipe
        return parse_recipe(apply_settings(recipe.model_dump(exclude_none=True), changes), source=inputs["recipe"])


def _folders(name: str) -> list[Path]:
    """Where a recipe's relative paths start."""
    import folder_paths

    known = [Path(folder) for kind in _MODEL_FOLDERS for folder in folder_paths.get_folder_paths(kind)]
    return [_path(name).parent, *known]


def _run(recipe: Recipe, folders: list[Path]) -> list[Any]:
    import comfy.sd
    import folder_paths

    temp = Path(folder_paths.get_temp_directory())
    temp.mkdir(parents=True, exist_ok=True)
    path = temp / f"daremerge-{uuid4().hex}.safetensors"
    try:
        with explained(), plan_recipe(recipe, folders=folders) as plan:
            if plan.kind != "model":
                raise Stopped(f"this recipe makes a {plan.kind}, and a model is wanted here")
            on_some_device(lambda settings: _write(plan, path, settings))
            parts = {place.part for place in detect_layout(plan.result).places()}
        if parts <= {"unet"}:
            return [comfy.sd.load_diffusion_model(str(path)), None, None]
        found = comfy.sd.load_checkpoint_guess_config(
            str(path), embedding_directory=folder_paths.get_folder_paths("embeddings")
        )
        return list(found[:3])
    finally:
        path.unlink(missing_ok=True)


def _write(plan: Plan, path: Path, settings: Any) -> None:
    if plan.unsettled():
        settle(plan, settings, progress=CanvasProgress(), cancel=CanvasCancel())
    execute(plan, create_sink(plan, path), settings, progress=CanvasProgress(), cancel=CanvasCancel())


def _fingerprint(inputs: Mapping[str, Any]) -> Any:
    """The recipe's file and the models it names: path, time and size."""
    try:
        recipe = _recipe(inputs)
        with plan_recipe(recipe, catalog=discover(), folders=_folders(inputs["recipe"])) as plan:
            paths = [_path(inputs["recipe"]), *(one.path for one in plan.inputs)]
    except (DaremergeError, Stopped, FileNotFoundError):  # said when the node runs
        return None
    found = [(str(path), path.stat()) for path in paths]
    return [(path, stat.st_mtime_ns, stat.st_size) for path, stat in found]
