"""What a checkpoint file calls the tensors of a MODEL, CLIP or VAE: asked of ComfyUI, without moving a tensor.

ComfyUI renames whole state dicts, and for some text encoders it also joins or turns tensors. Here its own functions are
given labels in place of tensors; what comes back says of which tensors each of the file's is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daremerge_core import MemoryModel, Model, Span, TensorMeta

__all__ = ["Named", "Recipe", "named"]

_MARK = -1.0


@dataclass(frozen=True)
class Recipe:
    """How one tensor of the file is made: of whole tensors, one below the other, or of one that is turned."""

    keys: tuple[str, ...]
    turned: bool = False


class Named:
    """A model under the names of a file. Tensors that are only renamed are read as they are asked for."""

    def __init__(self, model: Model, recipes: Mapping[str, Recipe], constants: Mapping[str, Any]) -> None:
        self._model = model
        self._recipes = recipes
        self._constants = MemoryModel(constants)
        self._metas = {name: _meta(name, recipe, model) for name, recipe in recipes.items()}
        self._metas |= {name: self._constants.meta(name) for name in self._constants.keys()}

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    def keys(self) -> Sequence[str]:
        return tuple(self._metas)

    def meta(self, key: str) -> TensorMeta:
        return self._metas[key]

    def read(self, key: str, span: Span | None = None) -> Any:
        import torch

        if key not in self._recipes:
            return self._constants.read(key, span)
        recipe = self._recipes[key]
        if not recipe.turned and len(recipe.keys) == 1:
            return self._model.read(recipe.keys[0], span)
        parts = [self._model.read(one) for one in recipe.keys]
        whole = parts[0].T.contiguous() if recipe.turned else torch.cat(parts)
        return whole if span is None else whole.reshape(-1)[span.start : span.stop]

    def needs_whole(self, key: str) -> bool:
        from daremerge_core.views import needs_whole

        if key not in self._recipes:
            return False
        recipe = self._recipes[key]
        return recipe.turned or len(recipe.keys) > 1 or needs_whole(self._model, recipe.keys[0])

    def working_bytes(self, key: str, numel: int) -> int:
        from daremerge_core.views import working_bytes

        if key not in self._recipes:
            return 8 * numel
        recipe = self._recipes[key]
        if not recipe.turned and len(recipe.keys) == 1:
            return working_bytes(self._model, recipe.keys[0], numel)
        return sum(8 * self._model.meta(one).numel for one in recipe.keys)

    def close(self) -> None:
        self._model.close()


def named(model: Model, rename: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Named | None:
    """``model`` as ``rename``, one of ComfyUI's functions, would name it; None where it does more than it can say."""
    import torch

    keys = list(model.keys())
    labels = {key: torch.tensor([[float(number), _MARK]]) for number, key in enumerate(keys)}
    try:
        renamed = rename(labels)
    except (RuntimeError, IndexError, ValueError, TypeError):  # it wants tensors of another shape
        return None
    # Whole numbers cannot come from labels: such as positions, which ComfyUI makes anew for a file.
    constants = {name: found for name, found in renamed.items() if _is_whole_numbers(found)}
    recipes = {name: _decoded(label, keys) for name, label in renamed.items() if name not in constants}
    return None if None in recipes.values() else Named(model, recipes, constants)  # type: ignore[arg-type]


def _is_whole_numbers(found: Any) -> bool:
    import torch

    return isinstance(found, torch.Tensor) and not found.is_floating_point()


def _decoded(label: Any, keys: Sequence[str]) -> Recipe | None:
    import torch

    if not isinstance(label, torch.Tensor) or label.dim() != 2 or label.numel() == 0:
        return None
    turned = label.shape == (2, 1)
    rows = label.T if turned else label
    if rows.shape[1] != 2 or not bool((rows[:, 1] == _MARK).all()):
        return None
    return Recipe(tuple(keys[int(number)] for number in rows[:, 0]), turned)


def _meta(name: str, recipe: Recipe, model: Model) -> TensorMeta:
    metas = [model.meta(key) for key in recipe.keys]
    shape = metas[0].shape
    if recipe.turned:
        shape = shape[::-1]
    elif len(metas) > 1:
        shape = (sum(meta.shape[0] for meta in metas), *shape[1:])
    return TensorMeta(name, metas[0].dtype, shape)
