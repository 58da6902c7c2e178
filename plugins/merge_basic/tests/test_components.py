"""The blends as components: the contract, through views and recipes, on every dtype, and their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from daremerge_core import DaremergeError, MemoryModel, MergeMethod, Span, view
from daremerge_core.catalog import SHIPPED, Catalog
from daremerge_core.errors import RecipeError
from daremerge_core.recipe import parse_recipe, resolve
from daremerge_core.testing import MergeMethodTests
from daremerge_merge_basic import components, kernels, plugin
from daremerge_merge_basic.components import AddDifference, Colorize, Lerp, ScaledAdd, Slerp

KEY = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
ALL: list[type[MergeMethod]] = plugin.daremerge_components()
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class _BlendTests(MergeMethodTests):
    cases: ClassVar[Sequence[Mapping[str, Any]]] = ({"ratio": 0.3}, {"ratio": 0.7})


class TestLerp(_BlendTests):
    component = components.Lerp
    cases = ({}, {"ratio": 0.3}, {"ratio": -0.5}, {"ratio": 1.5})


class TestColorize(_BlendTests):
    component = components.Colorize


class TestCosine(_BlendTests):
    component = components.Cosine


class TestCubic(_BlendTests):
    component = components.Cubic


class TestScaledAdd(_BlendTests):
    component = components.ScaledAdd
    exact_ends = "a"


class TestAddDifference(_BlendTests):
    component = components.AddDifference
    cases = ({}, {"alpha": 0.5, "ratio": 0.25}, {"alpha": -1.0})
    exact_ends = "a"


class TestSlice(_BlendTests):
    component = components.Slice


class TestCyclic(_BlendTests):
    component = components.Cyclic


class TestGradient(_BlendTests):
    component = components.Gradient


class TestSlerp(_BlendTests):
    component = components.Slerp


class TestBislerp(_BlendTests):
    component = components.Bislerp


class TestHslerp(_BlendTests):
    component = components.Hslerp


# --- through views ----------------------------------------------------------------------------------------


def merged(cls: type[MergeMethod], a: Tensor, b: Tensor, base: Tensor | None = None, **options: Any) -> Any:
    """A merge of one tensor, as a view."""
    given = {"a": a, "b": b} if base is None else {"a": a, "b": b, "base": base}
    models: dict[str, Any] = {name: MemoryModel({KEY: tensor}, {}) for name, tensor in given.items()}
    return view(cls(**models, **options))


def random_tensors(*shape: int, dtype: torch.dtype = torch.float32, count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]


class TestViews:
    KERNELS: ClassVar[dict[str, Callable[..., Tensor]]] = {
        "lerp": kernels.lerp,
        "colorize": kernels.lerp,
        "cosine": kernels.cosine,
        "cubic": kernels.cubic,
        "bislerp": kernels.bislerp,
        "hslerp": kernels.hslerp,
        "scaled-add": kernels.scaled_add,
        "slice": lambda a, b, t: kernels.slice_(a, b, t, torch.arange(6).expand(a.shape), 6),
        "cyclic": lambda a, b, t: kernels.cyclic(a, b, t, torch.arange(6).expand(a.shape), 6),
        "gradient": lambda a, b, t: kernels.gradient(a, b, t, torch.arange(6).expand(a.shape), 6),
        "slerp": lambda a, b, t: kernels.slerp(a, b, t, *(float(one.sum()) for one in kernels.products(a, b))),
    }

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("cls", [cls for cls in ALL if cls is not AddDifference], ids=lambda cls: cls.name)
    def test_the_kernel_is_computed_wide_and_stored_in_as_dtype(
        self, cls: type[MergeMethod], dtype: torch.dtype
    ) -> None:
        a, b = random_tensors(5, 6, dtype=dtype)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        expected = self.KERNELS[cls.name](a.to(wide), b.to(wide), 0.625)
        found = merged(cls, a, b, ratio=0.375).read(KEY)
        assert found.dtype == dtype
        if cls is Slerp:  # whose sums are trees
            torch.testing.assert_close(found, expected.to(dtype))
        else:
            assert torch.equal(found, expected.to(dtype))

    def test_every_component_is_tested(self) -> None:
        assert {*self.KERNELS, "add-difference"} == {cls.name for cls in ALL}

    @pytest.mark.parametrize("shape", [(0,), (), (1,), (3,), (2, 3), (2, 1, 3), (2, 3, 1, 1), (1, 2, 3, 2, 2)])
    @pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name)
    def test_any_rank(self, cls: type[MergeMethod], shape: tuple[int, ...]) -> None:
        tensors = random_tensors(*shape, count=3 if cls is AddDifference else 2)
        found = merged(cls, *tensors, ratio=0.4).read(KEY)
        assert found.shape == shape
        assert found.isfinite().all()

    def test_add_difference_is_a_plus_alpha_times_b_minus_c(self) -> None:
        a, b, c = random_tensors(5, 6, count=3)
        assert torch.equal(merged(AddDifference, a, b, c).read(KEY), a + (b - c))
        found = merged(AddDifference, a, b, c, alpha=2.0, ratio=0.75).read(KEY)
        torch.testing.assert_close(found, a + 0.25 * 2.0 * (b - c))

    def test_slerps_angle_is_that_of_the_whole_tensor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Measured block by block: a block's own angle would differ, and spans do not see the whole."""
        a, b = random_tensors(40, 25)
        b[:10] = a[:10]
        monkeypatch.setattr("daremerge_core.views.MEASURE_BLOCK", 64)
        found = merged(Slerp, a, b, ratio=0.25)
        theta = math.acos(float((a.double() * b.double()).sum() / (a.double().norm() * b.double().norm())))
        expected = (math.sin(0.25 * theta) * a + math.sin(0.75 * theta) * b) / math.sin(theta)
        torch.testing.assert_close(found.read(KEY), expected)
        for start, stop in ((0, 1), (63, 65), (3, 997), (999, 1000)):
            assert torch.equal(found.read(KEY, Span(start, stop)), found.read(KEY).reshape(-1)[start:stop])

    def test_elementwise_blends_stream(self) -> None:
        assert {cls.name for cls in ALL if not cls.elementwise} == {"bislerp", "hslerp"}

    def test_a_gradient_sets_the_ratio(self) -> None:
        a, b = random_tensors(5, 6)
        found = merged(Lerp, a, b, ratio=0.5, gradient=Constant(0.25))
        assert torch.equal(found.read(KEY), kernels.lerp(a, b, 0.75))

    def test_colorize_is_lerp(self) -> None:
        a, b = random_tensors(5, 6)
        assert torch.equal(merged(Colorize, a, b, ratio=0.3).read(KEY), merged(Lerp, a, b, ratio=0.3).read(KEY))


class Constant:
    """A gradient of one ratio."""

    def __init__(self, value: float) -> None:
        self.value = value

    def ratio(self, key: str) -> float:
        return self.value


# --- errors -----------------------------------------------------------------------------------------------


class TestErrors:
    def test_scaled_add_has_no_result_at_a_ratio_of_2(self) -> None:
        with pytest.raises(ValidationError, match="adds up to nothing"):
            ScaledAdd(a="a", b="b", ratio=2.0)

    def test_a_gradient_may_not_say_2_either(self) -> None:
        with pytest.raises(DaremergeError, match=f"{KEY}.*adds up to nothing") as caught:
            merged(ScaledAdd, *random_tensors(5, 6), gradient=Constant(2.0)).read(KEY)
        assert "Change that value of the gradient" in str(caught.value)

    def test_add_difference_needs_model_c(self) -> None:
        with pytest.raises(RecipeError, match="base"):
            parse_and_resolve({"op": "merge.add-difference", "a": "a", "b": "b"})


def parse_and_resolve(step: dict[str, Any]) -> Any:
    catalog = Catalog()
    catalog.register(plugin, name="merge-basic")
    data = {"models": {"a": "a.safetensors", "b": "b.safetensors"}, "steps": {"merged": step}, "output": "merged"}
    return resolve(parse_recipe(data), catalog)


# --- the distribution -------------------------------------------------------------------------------------


class TestDistribution:
    def test_the_catalog_finds_what_it_expects_here(self) -> None:
        catalog = Catalog()
        found = catalog.register(plugin, name="merge-basic")
        assert found.error is None
        expected = SHIPPED["daremerge-merge-basic"]["merge"].split()
        assert catalog.names("merge") == sorted(expected)

    def test_the_originals_spelling_works(self) -> None:
        assert parse_and_resolve({"op": "merge.scaled_add", "a": "a", "b": "b", "ratio": 0.0})

    def test_the_readme_has_a_row_for_every_blend(self) -> None:
        text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
        for cls in ALL:
            assert f"\n| `{cls.name}` |" in text
