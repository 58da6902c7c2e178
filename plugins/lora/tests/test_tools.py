"""LoRAs made from LoRAs and from models: merged, resized, extracted; what is kept, what is lost, and what files say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daremerge_core import DaremergeError, MemoryModel, Model, view
from daremerge_core.values import Unsettled
from daremerge_lora.deltas import read_change
from daremerge_lora.formats import LoraFile, open_lora
from daremerge_lora.merging import kernels as merging
from daremerge_lora.targets import match
from daremerge_lora.testing import random_lora
from daremerge_lora.tools.apply import Apply
from daremerge_lora.tools.extract import Extract
from daremerge_lora.tools.merge import Merge
from daremerge_lora.tools.resize import Resize

from .checkpoints import FEW as PARTS
from .checkpoints import difference, small, tensors_of
from .oracles import peft_module

MODEL = small(side=10, only=PARTS)
BEFORE = tensors_of(MODEL)
TARGETS = match(open_lora(random_lora(MODEL, rank=1)), MODEL).targets
FEW = [name for index, name in enumerate(TARGETS) if index % 3 == 0]
"""Some modules, convolutions of 3 x 3 and of 1 x 1 among them."""


def some(lora: Model, names: list[str] = FEW, metadata: Mapping[str, str] | None = None) -> MemoryModel:
    """A LoRA less most of its modules."""
    kept = {key: lora.read(key).float() for key in lora.keys() if key.partition(".")[0] in names}
    return MemoryModel(kept, metadata if metadata is not None else lora.metadata)


A = some(random_lora(MODEL, rank=3, alpha=1.5, seed=1))
B = some(random_lora(MODEL, rank=2, seed=2))


def deltas(model: Model, weight: float = 1.0) -> dict[str, torch.Tensor]:
    """Module's name → weight · ΔW in float64."""
    lora = model if isinstance(model, LoraFile) else open_lora(model)
    return {
        name: weight * read_change(lora, one).dense().double() for name, one in lora.modules.items() if lora.shape(one)
    }


def made(component: object) -> Model:
    value = view(component)  # type: ignore[arg-type]
    assert isinstance(value, Unsettled)
    return value  # type: ignore[return-value]


def close(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key].reshape(one[key].shape), rtol=1e-5, atol=1e-6)


def test_the_modules_are_of_every_kind() -> None:
    shapes = [open_lora(A).shape(one)[2:] for one in open_lora(A).modules.values()]
    assert {(), (3, 3), (1, 1)} <= set(shapes)


class TestMerge:
    @given(weights=st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
    @settings(max_examples=10)
    def test_by_concatenation_is_the_weighted_sum(self, weights: tuple[float, float]) -> None:
        found = deltas(made(Merge(loras=[A, B], weights=list(weights))))
        one, two = (deltas(lora, weight) for lora, weight in zip((A, B), weights, strict=True))
        close(found, {name: one[name] + two[name] for name in one})

    def test_the_rank_is_the_sum_of_the_ranks_and_alpha_says_so(self) -> None:
        merged = made(Merge(loras=[A, B]))
        lora = open_lora(merged)
        assert {lora.rank(one) for one in lora.modules.values()} == {5}
        assert {lora.scale(one) for one in lora.modules.values()} == {1.0}
        assert merged.metadata["ss_network_dim"] == merged.metadata["ss_network_alpha"] == "5"

    def test_into_a_model_it_does_what_both_do(self) -> None:
        merged = made(Merge(loras=[A, B], weights=[0.7, -0.4]))
        one = tensors_of(view(Apply(model=MODEL, loras=[merged])))
        both = tensors_of(view(Apply(model=MODEL, loras=[A, B], strengths=[0.7, -0.4])))
        assert difference(both, BEFORE)
        for key in one:
            torch.testing.assert_close(one[key], both[key], rtol=1e-5, atol=1e-5)

    def test_a_layer_of_one_lora_alone_is_kept(self) -> None:
        found = deltas(made(Merge(loras=[some(A, FEW[:5]), some(B, FEW[3:])], weights=[2.0, 1.0])))
        assert list(found) == FEW
        close({FEW[0]: found[FEW[0]]}, {FEW[0]: 2 * deltas(A)[FEW[0]]})

    @pytest.mark.parametrize("rank", [1, 2, 4])
    def test_cut_to_a_rank_it_is_the_best_approximation(self, rank: int) -> None:
        whole, cut = deltas(made(Merge(loras=[A, B]))), deltas(made(Merge(loras=[A, B], rank=rank)))
        for name in whole:
            lost = torch.linalg.svdvals(whole[name])[rank:].square().sum().sqrt()
            torch.testing.assert_close((whole[name] - cut[name]).norm(), lost, rtol=1e-4, atol=1e-6)

    def test_an_energy_gives_each_module_its_own_rank(self) -> None:
        whole, merged = deltas(made(Merge(loras=[A, B]))), made(Merge(loras=[A, B], energy=0.8))
        cut = deltas(merged)
        lora = open_lora(merged)
        for name, one in lora.modules.items():
            squares = torch.linalg.svdvals(whole[name]).square()
            rank = lora.rank(one)
            assert rank == int((squares.cumsum(0) < 0.8 * squares.sum()).sum()) + 1
            kept = (cut[name].norm() / whole[name].norm()).square()
            assert float(kept) >= 0.8 - 1e-5
        assert merged.metadata["ss_network_dim"] == "Dynamic"

    def test_three_by_hand(self) -> None:
        """TIES on (3, 1, −2) and (−1, 2, −1): signs +, +, −; means of those that agree."""
        one, two = torch.tensor([3.0, 1.0, -2.0]), torch.tensor([-1.0, 2.0, -1.0])
        assert merging.elected_mean([one, two]).tolist() == [3.0, 1.5, -1.5]
        assert merging.trim(torch.tensor([3.0, -1.0, 2.0, 0.5]), 0.5).tolist() == [3.0, 0.0, 2.0, 0.0]

    @given(density=st.sampled_from([0.25, 0.5, 0.75]), seed=st.integers(0, 20))
    def test_ties_is_pefts_of_weighted_tensors(self, density: float, seed: int) -> None:
        ties = peft_module("peft.utils.merge_utils").ties
        generator = torch.Generator().manual_seed(seed)
        tensors = [weight * torch.randn(8, 6, generator=generator) for weight in (1.0, -0.5, 2.0)]
        theirs = ties(tensors, torch.ones(3), density, "total")
        torch.testing.assert_close(merging.elected_mean([merging.trim(one, density) for one in tensors]), theirs)

    @pytest.mark.parametrize("method", ["ties", "dare", "dare-ties"])
    def test_other_methods_are_computed_on_whole_changes_and_cut(self, method: str) -> None:
        """At full rank nothing is lost; of one LoRA at density 1, nothing is thinned."""
        full = deltas(made(Merge(loras=[A], method=method, rank=99, density=1.0)))
        close(full, deltas(A))
        thin = made(Merge(loras=[A, B], method=method, rank=99, density=0.5))
        zeros = {name: float((delta.abs() < 1e-6).double().mean()) for name, delta in deltas(thin).items()}
        assert all(0.03 < share < 0.7 for share in zeros.values())
        small_rank = open_lora(made(Merge(loras=[A, B], method=method, rank=2)))
        assert {small_rank.rank(one) for one in small_rank.modules.values()} == {2}

    def test_dare_is_unbiased_and_its_seed_counts(self) -> None:
        name = FEW[0]
        lora = some(A, [name])
        draws = [deltas(made(Merge(loras=[lora], method="dare", rank=99, seed=s)))[name] for s in range(60)]
        assert not torch.equal(draws[0], draws[1])
        expected = deltas(lora)[name]
        assert float((torch.stack(draws).mean(0) - expected).abs().max()) < 6 * float(expected.abs().max()) / 60**0.5

    def test_methods_that_lose_low_rank_need_a_rank(self) -> None:
        with pytest.raises(ValueError, match="give a rank"):
            Merge(loras=[A, B], method="ties")

    def test_a_loha_needs_a_rank_too(self) -> None:
        loha = MemoryModel({f"{FEW[0]}.hada_{slot}": torch.ones(10, 10) for slot in ("w1_a", "w1_b", "w2_a", "w2_b")})
        with pytest.raises(DaremergeError, match="is a LoHa"):
            view(Merge(loras=[loha]))
        close(deltas(made(Merge(loras=[loha], rank=10))), deltas(loha))

    def test_a_dora_is_refused(self) -> None:
        tensors = tensors_of(A) | {f"{FEW[0]}.dora_scale": torch.ones(10, 1)}
        with pytest.raises(DaremergeError, match="is a DoRA"):
            view(Merge(loras=[A, MemoryModel(tensors)]))

    def test_formats_mix(self) -> None:
        """Under the names of the first, or those asked for."""
        theirs = random_lora(MODEL, rank=2, names="diffusers", seed=2)
        mixed = made(Merge(loras=[A, theirs]))
        one = deltas(made(Merge(loras=[A, B])))
        close({name: deltas(mixed)[name] for name in FEW}, one)
        assert open_lora(made(Merge(loras=[A, theirs], format="diffusers"))).format == "diffusers"

    def test_loras_of_two_architectures_are_refused(self) -> None:
        with pytest.raises(DaremergeError, match="Stable Diffusion"):
            view(Merge(loras=[random_lora(MODEL), random_lora(small("sdxl", side=4))]))

    def test_metadata_is_what_both_agree_on_and_the_tags_of_each(self) -> None:
        said = {"ss_base_model_version": "sd_v1", "sshs_model_hash": "x", "ss_training_started_at": "1.0"}
        one, two = ({**said, "ss_tag_frequency": json.dumps({"1_a": {tag: 3}})} for tag in ("cat", "dog"))
        found = made(Merge(loras=[some(A, metadata=one), some(B, metadata=two)])).metadata
        assert found["ss_base_model_version"] == "sd_v1"
        assert json.loads(found["ss_tag_frequency"]) == {"1_a": {"cat": 3}, "1_a (2)": {"dog": 3}}
        assert not {"sshs_model_hash", "ss_training_started_at"} & found.keys()


class TestResize:
    def test_at_full_rank_it_is_the_same_up_to_rounding(self) -> None:
        close(deltas(made(Resize(lora=A, rank=3))), deltas(A))

    @pytest.mark.parametrize("rank", [1, 2])
    def test_it_is_the_best_approximation(self, rank: int) -> None:
        before, after = deltas(A), deltas(made(Resize(lora=A, rank=rank)))
        for name in before:
            lost = torch.linalg.svdvals(before[name])[rank:].square().sum().sqrt()
            torch.testing.assert_close((before[name] - after[name]).norm(), lost, rtol=1e-4, atol=1e-6)

    def test_convolutions_have_a_rank_of_their_own(self) -> None:
        lora = open_lora(made(Resize(lora=A, rank=2, conv_rank=1)))
        for one in lora.modules.values():
            assert lora.rank(one) == (1 if lora.shape(one)[2:] == (3, 3) else 2)

    def test_what_it_cannot_know_is_asked(self) -> None:
        with pytest.raises(ValueError, match="give a rank"):
            Resize(lora=A)

    def test_a_doras_magnitudes_and_biases_stay(self) -> None:
        extra = {f"{FEW[0]}.dora_scale": torch.rand(10, 1), f"{FEW[1]}.diff_b": torch.rand(10)}
        lora = made(Resize(lora=MemoryModel(tensors_of(A) | extra), rank=1))
        for key, tensor in extra.items():
            assert torch.equal(lora.read(key), tensor)

    def test_a_full_difference_stays(self) -> None:
        extra = {f"{FEW[0]}.diff": torch.rand(10, 10)}
        lora = made(Resize(lora=MemoryModel(tensors_of(some(A, FEW[1:])) | extra), rank=1))
        assert torch.equal(lora.read(f"{FEW[0]}.diff"), extra[f"{FEW[0]}.diff"])

    def test_metadata_keeps_the_training_and_drops_what_is_no_more(self) -> None:
        said = {"ss_learning_rate": "1e-4", "ss_network_dim": "3", "sshs_legacy_hash": "x", "modelspec.date": "2024"}
        found = made(Resize(lora=some(A, metadata=said), rank=2)).metadata
        assert found["ss_learning_rate"] == "1e-4"
        assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("2", "2")
        assert not {"sshs_legacy_hash", "modelspec.date"} & found.keys()

    @pytest.mark.parametrize("rank", [{"rank": 2}, {"energy": 0.7}], ids=str)
    def test_in_diffusers_names_the_scale_goes_into_the_factors(self, rank: dict[str, float]) -> None:
        """PEFT's configuration in the metadata scaled the old factors, and must not scale the new ones."""
        plain = random_lora(MODEL, rank=3, names="diffusers", seed=1)
        keys = [key for index, key in enumerate(plain.keys()) if index % 8 < 2]
        said = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 12, "text_encoder.lora_alpha": 12})}
        lora = MemoryModel({key: plain.read(key).float() for key in keys}, said)
        whole, after = deltas(lora), made(Resize(lora=lora, **rank))
        close({name: 4 * delta for name, delta in deltas(MemoryModel(tensors_of(lora))).items()}, whole)
        for name, delta in deltas(after).items():
            assert float((delta - whole[name]).norm() / whole[name].norm()) < 0.75
            assert float((delta * whole[name]).sum()) == pytest.approx(float(delta.square().sum()), rel=1e-3)

    def test_tensors_of_no_known_kind_are_refused(self) -> None:
        with pytest.raises(DaremergeError, match="surprise"):
            view(Resize(lora=MemoryModel(tensors_of(A) | {"surprise": torch.ones(2)}), rank=1))


def tuned(*, full: bool = False, seed: int = 9) -> MemoryModel:
    """The model with a change of full rank in the layers of :data:`FEW`, biases too if ``full``."""
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(BEFORE)
    for name in FEW:
        target = TARGETS[name]
        keys = [target.key, *([target.bias] if full and target.bias in tensors else [])]
        for key in keys:
            tensors[key] = tensors[key] + 0.1 * torch.randn(tensors[key].shape, generator=generator)
    return MemoryModel(tensors)


class TestExtract:
    def after(self, lora: Model, model: Model = MODEL) -> dict[str, torch.Tensor]:
        return tensors_of(view(Apply(model=model, loras=[lora])))

    @pytest.mark.parametrize("rank", [1, 4, 10])
    def test_put_back_its_squared_error_is_that_of_the_dropped_values(self, rank: int) -> None:
        model = tuned()
        found = self.after(made(Extract(tuned=model, base=MODEL, rank=rank, conv_rank=rank)))
        for name in FEW:
            key = TARGETS[name].key
            delta = (model.read(key).double() - BEFORE[key].double()).flatten(1)
            lost = torch.linalg.svdvals(delta)[rank:].square().sum().sqrt()
            error = (model.read(key).double() - found[key].double()).norm()
            torch.testing.assert_close(error, lost, rtol=1e-4, atol=1e-5)

    def test_in_half_precision_the_error_is_that_and_the_rounding(self) -> None:
        """Rounding both factors adds to the error no more than 2⁻¹⁰ of the norms' product, term by term."""
        model = tuned()
        plan = made(Extract(tuned=model, base=MODEL, rank=4, conv_rank=4))
        half = plan.with_dtype("F16")  # type: ignore[attr-defined]
        exact, rounded = deltas(plan), deltas(half)
        for name in FEW:
            values = torch.linalg.svdvals(exact[name])[:4]
            assert float((exact[name] - rounded[name]).norm()) <= 2**-10 * float(values.sum())

    def test_only_what_changed_has_a_module(self) -> None:
        lora = open_lora(made(Extract(tuned=tuned(), base=MODEL, conv_rank=4)))
        assert set(lora.modules) == set(FEW)

    def test_without_a_conv_rank_convolutions_are_left_out(self) -> None:
        lora = open_lora(made(Extract(tuned=tuned(), base=MODEL)))
        assert {lora.shape(one)[2:] for one in lora.modules.values()} == {(), (1, 1)}

    def test_full_differences_give_the_tuned_model_back(self) -> None:
        model = tuned(full=True)
        lora = made(Extract(tuned=model, base=MODEL, full=True))
        assert any(key.endswith(".diff_b") for key in lora.keys())
        found = self.after(lora)
        for key, tensor in found.items():
            torch.testing.assert_close(tensor, model.read(key), rtol=1e-6, atol=1e-6)

    def test_an_energy_gives_each_layer_its_own_rank(self) -> None:
        model = tuned()
        lora = open_lora(made(Extract(tuned=model, base=MODEL, rank=10, conv_rank=10, energy=0.7)))
        for name, one in lora.modules.items():
            delta = (model.read(TARGETS[name].key).double() - BEFORE[TARGETS[name].key].double()).flatten(1)
            squares = torch.linalg.svdvals(delta).square()
            assert lora.rank(one) == min(int((squares.cumsum(0) < 0.7 * squares.sum()).sum()) + 1, 10)

    def test_layers_that_hardly_change_may_be_left_out(self) -> None:
        assert not made(Extract(tuned=tuned(), base=MODEL, min_diff=10.0)).keys()

    def test_selected_parts_only(self) -> None:
        lora = open_lora(made(Extract(tuned=tuned(), base=MODEL, parts=["clip"])))
        assert lora.modules
        assert all(name.startswith("lora_te_") for name in lora.modules)
        lora = open_lora(made(Extract(tuned=tuned(), base=MODEL, exclude="cond_stage_model.*")))
        assert lora.modules
        assert all(name.startswith("lora_unet_") for name in lora.modules)

    @pytest.mark.parametrize("name", ["sd15", "sdxl"])
    def test_of_a_model_with_a_lora_it_is_that_lora(self, name: str) -> None:
        """Fused weights too: SDXL's OpenCLIP keeps queries, keys and values in one, and a projection transposed."""
        model = small(name, side=6)
        lora = random_lora(model, rank=2, seed=4)
        with_lora = MemoryModel(tensors_of(view(Apply(model=model, loras=[lora]))))
        found = made(Extract(tuned=with_lora, base=model, rank=2, conv_rank=2))
        one, two = deltas(found), deltas(lora)
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(one[key], two[key].reshape(one[key].shape), rtol=1e-3, atol=1e-4)

    def test_clamped_factors_hold_nothing_beyond_the_quantile(self) -> None:
        plain, clamped = (made(Extract(tuned=tuned(), base=MODEL, clamp_quantile=q)) for q in (1.0, 0.9))
        for key in plain.keys():
            if key.endswith(".alpha"):
                continue
            one, two = plain.read(key), clamped.read(key)
            bound = float(two.abs().max())
            assert bound <= float(one.abs().max())
            torch.testing.assert_close(two, one.clamp(-bound, bound))

    def test_models_of_two_architectures_are_refused(self) -> None:
        with pytest.raises(DaremergeError, match="one architecture"):
            view(Extract(tuned=MODEL, base=small("sdxl", side=4)))

    def test_metadata_says_what_it_is(self) -> None:
        found = made(Extract(tuned=tuned(), base=MODEL, rank=4, conv_rank=4)).metadata
        assert found == {
            "ss_base_model_version": "sd_v1",
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "ss_network_module": "networks.lora",
            "ss_network_dim": "4",
            "ss_network_alpha": "4",
        }


class TestRandomised:
    def large(self) -> tuple[MemoryModel, MemoryModel]:
        """A pair of models with one layer large enough for a sketch to be smaller than it."""
        key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.2.weight"
        generator = torch.Generator().manual_seed(0)
        left, right = (torch.linalg.qr(torch.randn(90, 90, generator=generator)).Q for _ in range(2))
        delta = left * (torch.arange(1, 91) ** -0.5) @ right
        base = BEFORE | {key: torch.zeros(90, 90)}
        return MemoryModel(base | {key: delta}), MemoryModel(base)

    def test_is_as_good_as_it_says_and_the_same_each_time(self) -> None:
        model, base = self.large()
        values = torch.arange(1, 91, dtype=torch.float64) ** -0.5
        best = float(values[8:].square().sum())
        delta = model.read(
            next(key for key in model.keys() if "ff.net.2.weight" in key and model.meta(key).shape[0] == 90)
        )
        for power, worse in ((0, 1 + 8 / 15), (2, 1.01)):
            runs = [
                made(
                    Extract(tuned=model, base=base, rank=8, decomposition="randomised", power_iterations=power, seed=s)
                )
                for s in (1, 1, 2)
            ]
            first, again, other = (next(iter(deltas(one).values())) for one in runs)
            assert torch.equal(first, again)
            assert not torch.equal(first, other)
            error = float((delta.double() - first).square().sum())
            assert best * (1 - 1e-5) <= error <= best * worse

    def test_an_energy_it_can_reach(self) -> None:
        model, base = self.large()
        options = {"tuned": model, "base": base, "rank": 60, "energy": 0.7}
        exact, random = (open_lora(made(Extract(**options, decomposition=one))) for one in ("exact", "randomised"))
        ranks = [next(lora.rank(one) for one in lora.modules.values()) for lora in (exact, random)]
        assert ranks[0] is not None
        assert ranks[1] in (ranks[0], ranks[0] + 1)


def test_a_checkpoint_is_no_lora() -> None:
    for tool in (Merge(loras=[MODEL]), Resize(lora=MODEL, rank=1)):
        with pytest.raises(DaremergeError, match="holds no LoRA module"):
            view(tool)


def test_what_is_not_finite_is_named() -> None:
    tensors = tensors_of(A)
    tensors[f"{FEW[0]}.lora_up.weight"] = (
        tensors[f"{FEW[0]}.lora_up.weight"].clone().index_fill_(0, torch.tensor(0), math.nan)
    )
    damaged = MemoryModel(tensors)
    lora = made(Resize(lora=damaged, rank=1))
    with pytest.raises(DaremergeError, match=f"{FEW[0]}: 3 of the 30"):
        lora.read(f"{FEW[0]}.lora_up.weight")


def test_a_made_file_can_be_read_in_any_order_and_again() -> None:
    lora = made(Merge(loras=[A, B], rank=2))
    keys = list(lora.keys())
    first = {key: lora.read(key) for key in keys}
    for key in reversed(keys):
        assert torch.equal(lora.read(key), first[key])
        assert lora.meta(key).shape == tuple(first[key].shape)
    assert math.prod(lora.meta(keys[0]).shape) == first[keys[0]].numel()
