"""The tools as components: the contracts of their kinds, recipes run by the engine, and real layouts by header."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from daremerge_core import DaremergeError, MemoryModel, Model, TensorMeta, open_model, view
from daremerge_core.api import plan_recipe, run_plan
from daremerge_core.catalog import Catalog
from daremerge_core.engine import Settings
from daremerge_core.stores import write_model
from daremerge_core.testing import ComponentTests, ModelEditTests, tiny_model
from daremerge_core.testing.layouts import HeaderModel, load
from daremerge_lora import plugin
from daremerge_lora.deltas import read_change
from daremerge_lora.formats import open_lora, tensor_name
from daremerge_lora.targets import module_names
from daremerge_lora.testing import random_lora, write_examples
from daremerge_lora.tools.apply import Apply
from daremerge_lora.tools.convert import Convert
from daremerge_lora.tools.extract import Extract
from daremerge_lora.tools.merge import Merge
from daremerge_lora.tools.resize import Resize

from .checkpoints import FEW, small, tensors_of


def tiny_lora(seed: int = 0, *, dora: bool = False) -> MemoryModel:
    lora = random_lora(tiny_model(), rank=2, seed=seed)
    tensors = tensors_of(lora)
    for name, module in open_lora(lora).modules.items() if dora else ():
        rows, *rest = open_lora(lora).shape(module)
        tensors[f"{name}.dora_scale"] = torch.linspace(0.5, 2.0, rows).reshape(rows, *[1] * len(rest))
    return MemoryModel(tensors)


class TestApply(ModelEditTests):
    component = Apply
    cases: ClassVar = ({}, {"strengths": [0.5, -2.0], "clip_strength": 0.5})
    loras: ClassVar = [tiny_lora(1), tiny_lora(2)]

    def port_values(self) -> dict[str, Any]:
        return {"model": tiny_model(0), "loras": self.loras}


class TestApplyDora(TestApply):
    loras: ClassVar = [tiny_lora(1, dora=True), tiny_lora(2)]


class _LoraTools(ComponentTests):
    def port_values(self) -> dict[str, Any]:
        return {"loras": [tiny_lora(1), tiny_lora(2)]}

    def test_what_it_makes_is_read_back(self) -> None:
        for options in self.cases:
            made: Any = view(self.make(options))
            again = open_lora(MemoryModel(tensors_of(made), made.metadata))
            assert not again.unknown
            assert again.modules
            for module in again.modules.values():
                assert read_change(again, module).dense().isfinite().all()


class TestMergeComponent(_LoraTools):
    component = Merge
    cases: ClassVar = ({}, {"rank": 2, "method": "dare-ties"}, {"energy": 0.9, "format": "diffusers"})


class TestResizeComponent(_LoraTools):
    component = Resize
    cases: ClassVar = ({"rank": 1}, {"energy": 0.9})

    def port_values(self) -> dict[str, Any]:
        return {"lora": tiny_lora(1)}


class TestConvertComponent(_LoraTools):
    component = Convert
    cases: ClassVar = ({"format": "diffusers"}, {"format": "comfy"})

    def port_values(self) -> dict[str, Any]:
        return {"lora": tiny_lora(1)}


class TestExtractComponent(_LoraTools):
    component = Extract
    cases: ClassVar = (
        {"conv_rank": 2},
        {"decomposition": "randomised", "rank": 1, "oversampling": 1},
        {"full": True, "format": "comfy"},
    )

    def port_values(self) -> dict[str, Any]:
        return {"tuned": tiny_model(1), "base": tiny_model(2)}


# --- recipes, run by the engine ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    found = Catalog()
    found.register(plugin, name="lora", distribution="daremerge-lora", version="0.1.0")
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small SD 1.5, a tune of it, and two LoRAs, as files."""
    folder = tmp_path_factory.mktemp("files")
    base = small(side=24, dtype=torch.float16, only=FEW)
    write_model(folder / "base.safetensors", tensors_of(base), {"format": "pt"})
    write_examples(folder, base)
    tuned = Apply(model=base, loras=[open_model(folder / "style.safetensors"), random_lora(base, rank=30, seed=8)])
    write_model(folder / "tuned.safetensors", tensors_of(view(tuned)), {"format": "pt"})
    names = ("base", "tuned", "style", "character")
    return SimpleNamespace(folder=folder, **{name: f"{name}.safetensors" for name in names})


STEPS: Mapping[str, dict[str, Any]] = {
    "apply": {"op": "lora.apply", "model": "base", "loras": ["style", "character"], "strengths": [0.8, -0.3]},
    "merge": {"op": "lora.merge", "loras": ["style", "character"], "weights": [0.8, 0.5]},
    "merge to a rank": {"op": "lora.merge", "loras": ["style", "character"], "rank": 3, "method": "dare-ties"},
    "merge to an energy": {"op": "lora.merge", "loras": ["style", "character"], "energy": 0.9},
    "resize": {"op": "lora.resize", "lora": "style", "energy": 0.8},
    "extract": {"op": "lora.extract", "tuned": "tuned", "base": "base", "rank": 8, "conv_rank": 4},
    "extract to an energy": {"op": "lora.extract", "tuned": "tuned", "base": "base", "energy": 0.9},
    "extract by sketches": {"op": "lora.extract", "tuned": "tuned", "base": "base", "decomposition": "randomised"},
    "convert": {"op": "lora.convert", "lora": "style", "format": "diffusers"},
    "a lora of loras into a model": {"op": "lora.apply", "model": "base", "loras": ["merged"]},
}


@pytest.fixture
def run(files: SimpleNamespace, catalog: Catalog, tmp_path: Path) -> Callable[..., Path]:
    def run(step: Mapping[str, Any], settings: Settings | None = None, dtype: str = "keep") -> Path:
        models = {name: getattr(files, name) for name in ("base", "tuned", "style", "character")}
        steps = {"merged": STEPS["merge to an energy"], "made": step}
        recipe = {"models": models, "steps": steps, "output": {"step": "made", "dtype": dtype}}
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        with plan_recipe(recipe, catalog=catalog, folders=[files.folder], output=path) as plan:
            run_plan(plan, path, catalog=catalog, settings=settings)
        return path

    return run


@pytest.mark.parametrize("name", STEPS)
def test_neither_threads_nor_memory_change_a_byte(name: str, run: Callable[..., Path]) -> None:
    little = 1 << 18 if name == "apply" else 1 << 24  # of the first, spans are a third of the largest tensor
    runs = (Settings(threads=1), Settings(threads=3), Settings(threads=2, memory=little))
    digests = {hashlib.sha256(run(STEPS[name], settings).read_bytes()).hexdigest() for settings in runs}
    assert len(digests) == 1


def test_another_dtype_is_rounded_once(run: Callable[..., Path], files: SimpleNamespace) -> None:
    """fp32 holds what was computed, not what fp16 left of it."""
    half, wide = (open_model(run(STEPS["merge to a rank"], dtype=dtype)) for dtype in ("keep", "fp32"))
    for key in half.keys():
        assert (half.meta(key).dtype, wide.meta(key).dtype) == ("F16", "F32")
        assert torch.equal(wide.read(key).half(), half.read(key))
    assert any(not torch.equal(wide.read(key), half.read(key).float()) for key in half.keys())
    half.close()
    wide.close()


def test_what_is_left_out_is_warned_of(files: SimpleNamespace, catalog: Catalog) -> None:
    lora = {f"lora_unet_no_such.lora_{side}.weight": torch.zeros(1, 1) for side in ("up", "down")}
    write_model(files.folder / "odd.safetensors", lora | tensors_of(open_model(files.folder / files.style)))
    step = {"op": "lora.apply", "model": files.base, "loras": ["odd.safetensors"], "allow_unmatched": True}
    with plan_recipe({"steps": {"s": step}, "output": "s"}, catalog=catalog, folders=[files.folder]) as plan:
        assert any("no place for" in line and "lora_unet_no_such" in line for line in plan.warnings)


def test_where_the_energy_is_not_settled_it_is_found_when_asked(files: SimpleNamespace) -> None:
    """A script that never heard of settling reads the same file."""
    lora = open_model(files.folder / files.style)
    value: Any = view(Resize(lora=lora, energy=0.8))
    assert value.to_settle()
    keys = value.keys()
    assert not value.to_settle()
    assert len(keys) == len(lora.keys())
    lora.close()


# --- real layouts, from headers alone ----------------------------------------------------------------------


class HeaderLora(HeaderModel):
    """A LoRA of every module of a real checkpoint, headers only but for alphas."""

    def __init__(self, model: Model, rank: int) -> None:
        metas: dict[str, TensorMeta] = {}
        for name, target in module_names(model, "kohya"):
            out, *rest = model.meta(target.key).shape[:: -1 if target.transposed else 1]
            out = out if target.rows is None else target.rows[1] - target.rows[0]
            shapes = {"down": (rank, *rest), "up": (out, rank, *[1] * len(rest[1:])), "alpha": ()}
            for slot, shape in shapes.items():
                key = tensor_name("kohya", name, slot)
                metas[key] = TensorMeta(key, "F16", shape)
        super().__init__(metas)
        self._rank = rank

    def read(self, key: str, span: Any = None) -> torch.Tensor:
        assert key.endswith(".alpha"), "only headers may be read here"
        return torch.tensor(float(self._rank))


@pytest.mark.parametrize("rank", [4, 32, 128])
@pytest.mark.parametrize(("name", "modules"), [("sd15", 354), ("sdxl", 1046)])
class TestRealLayouts:
    def test_apply_finds_a_tensor_for_every_module(self, name: str, modules: int, rank: int) -> None:
        model = HeaderModel(load(name))
        lora = HeaderLora(model, rank)
        value: Any = view(Apply(model=model, loras=[lora]))
        assert not value.component.unmatched
        assert len(open_lora(lora).modules) == modules
        with pytest.raises(DaremergeError, match="and the model is"):
            view(Apply(model=HeaderModel(load("sd3" if name == "sd15" else "sd15")), loras=[lora]))

    def test_a_merge_adds_ranks_and_resizing_lowers_them(self, name: str, modules: int, rank: int) -> None:
        model = HeaderModel(load(name))
        lora = HeaderLora(model, rank)
        merged, resized = open_lora(view(Merge(loras=[lora, lora]))), open_lora(view(Resize(lora=lora, rank=2)))
        assert {merged.rank(one) for one in merged.modules.values()} == {2 * rank}
        assert {resized.rank(one) for one in resized.modules.values()} == {2}
        shapes = {name: merged.shape(one) for name, one in merged.modules.items()}
        assert shapes == {name: resized.shape(one) for name, one in resized.modules.items()}
        assert len(shapes) == modules
