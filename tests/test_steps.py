"""Steps that are no merge: masks, gradients and edits as values, as files, and as commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import Result
from daremerge_fixture.plugin import AboveMean, Both, Flat, Halfway, Invert, Lowest, Moved, Negate, Positive, Table
from hypothesis import given
from hypothesis import strategies as st

from daremerge_core import MemoryModel, Span, view
from daremerge_core.api import merge_recipe
from daremerge_core.engine import Settings
from daremerge_core.errors import PlanError
from daremerge_core.stores import BitMask, GradientFile, MaskFile, PackedMask, hold_mask, write_gradient
from daremerge_core.testing import tiny_model, tiny_tensors
from daremerge_core.testing.layouts import HeaderModel, load
from daremerge_core.testing.tiny import SHAPES
from daremerge_core.views import MaskView

Cli = Callable[..., Result]
A, B = tiny_model(1), tiny_model(2)
Q = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
K = Q.replace("to_q", "to_k")
CONV = "model.diffusion_model.input_blocks.10.0.in_layers.2.weight"


def few(*keys: str, seed: int = 1) -> MemoryModel:
    """The tiny checkpoint with some of its tensors only."""
    return MemoryModel({key: tiny_tensors(seed)[key] for key in keys})


class TestMasks:
    def test_an_editor_knows_the_tensors_that_any_of_its_masks_knows(self) -> None:
        both = view(Both(masks=[view(Positive(model=few(Q, K))), view(Positive(model=few(K, CONV)))]))
        assert list(both.keys()) == [Q, K, CONV]
        assert torch.equal(both.read(K), few(K).read(K) > 0)
        assert not both.read(Q).any(), "a tensor that one mask does not know is False all over"

    def test_a_model_gives_an_editor_its_universe(self) -> None:
        inverted = view(Invert(model=A, of=view(Positive(model=few(Q)))))
        assert set(inverted.keys()) == set(SHAPES)
        assert inverted.read(K).all()
        assert torch.equal(inverted.read(Q), few(Q).read(Q) <= 0)

    def test_masks_of_other_shapes_are_refused(self) -> None:
        other = view(Positive(model=MemoryModel({Q: torch.ones(3, 4)})))
        with pytest.raises(PlanError, match=r"\[12, 10\] here and \[3, 4\] in masks 2"):
            view(Both(masks=[view(Positive(model=A)), other]))
        with pytest.raises(PlanError, match=r"in of"):
            view(Invert(model=A, of=other))

    def test_a_mask_of_nothing_is_refused(self) -> None:
        with pytest.raises(PlanError, match="no tensor to make this mask"):
            view(Moved(model=few(Q), base=few(K)))

    @pytest.mark.parametrize("over", ["tensor", "block", "model"])
    def test_a_measurement_covers_its_group(self, over: str) -> None:
        mask = view(AboveMean(model=A, over=over))
        tensors = {key: A.read(key).double() for key in mask.keys()}

        def group(key: str) -> str:
            place = mask.layout.place(key)
            return {"tensor": key, "block": f"{place.part} {place.block}", "model": "all"}[over]

        for key, tensor in tensors.items():
            together = torch.cat([t.reshape(-1) for other, t in tensors.items() if group(other) == group(key)])
            mean = together.mean() if together.numel() else 0.0
            assert torch.equal(mask.read(key), tensor > mean), key

    def test_what_a_pass_keeps_is_what_it_concludes(self) -> None:
        mask = view(AboveMean(model=A))
        assert [kept.array().size for kept in mask.measurements.of(Q)] == [1]

    @pytest.mark.parametrize("over", ["tensor", "block", "model"])
    def test_the_same_bytes_for_any_threads_memory_and_spans(
        self, models: SimpleNamespace, over: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        step = {"op": "mask.above-mean", "model": "a", "over": over}
        recipe = {"models": {"a": "a.safetensors"}, "steps": {"m": step}, "output": "m"}

        def made(settings: Settings) -> bytes:
            path = models.folder / "m.safetensors"
            merge_recipe(recipe, path, folder=models.folder, settings=settings, overwrite=True)
            return path.read_bytes()

        expected = made(Settings(threads=1))
        assert made(Settings(threads=3)) == expected
        for name in ("SPAN", "LOOP_SPAN"):
            monkeypatch.setattr(f"daremerge_core.engine.{name}", 2)  # bytes of the file: 16 elements
        monkeypatch.setattr("daremerge_core.engine.TASK", 6)
        monkeypatch.setattr("daremerge_core.stores.mask_file._STEP", 8)
        longest = 0
        read = MaskView.read

        def watched(mask: MaskView, key: str, span: Span | None = None) -> torch.Tensor:
            nonlocal longest
            longest = max(longest, 0 if span is None else span.numel)
            return read(mask, key, span)

        monkeypatch.setattr(MaskView, "read", watched)
        assert made(Settings(threads=3)) == expected
        assert longest == 8, "the masks must really have been cut"


class TestPacking:
    @given(start=st.integers(0, 15), length=st.integers(0, 15))
    def test_bytes_of_any_span_are_those_of_the_whole(self, start: int, length: int) -> None:
        packed = PackedMask(view(Positive(model=A)))
        size = packed.meta(Q).numel
        span = Span(min(start, size), min(start + length, size))
        assert torch.equal(packed.read(Q, span), packed.read(Q)[span.start : span.stop])

    def test_a_held_mask_is_the_mask(self) -> None:
        mask = view(Positive(model=A))
        held = hold_mask(mask)
        for key in mask.keys():
            assert torch.equal(held.read(key), mask.read(key))
            assert held.count(key) == int(mask.read(key).sum())

    def test_a_count_ignores_spare_bits(self) -> None:
        model = MemoryModel(
            {"w": torch.tensor([255, 255], dtype=torch.uint8)}, PackedMask(Everything({"w": (11,)})).metadata
        )
        assert BitMask(model).count("w") == 11

    @pytest.mark.parametrize(("name", "limit"), [("sd15", 140_000_000), ("sdxl", 450_000_000)])
    def test_a_whole_checkpoints_mask_is_one_bit_an_element(self, name: str, limit: int) -> None:
        packed = PackedMask(Everything({key: meta.shape for key, meta in load(name).items()}))
        assert sum(packed.meta(key).numel for key in packed.keys()) <= limit


class Everything:
    """A mask that selects every element of tensors of the given shapes."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def keys(self) -> Sequence[str]:
        return list(self._shapes)

    def shape(self, key: str) -> tuple[int, ...] | None:
        return self._shapes.get(key)

    def read(self, key: str, span: Span | None = None) -> torch.Tensor:
        return torch.ones(self._shapes[key] if span is None else span.numel, dtype=torch.bool)

    def close(self) -> None: ...


class TestGradients:
    def test_an_editor_has_the_layers_of_its_gradients(self) -> None:
        one, two = view(Flat(model=few(Q, K), value=0.5)), view(Flat(model=few(K, CONV), value=0.25))
        lowest = view(Lowest(gradients=[one, two]))
        assert {key: lowest.ratio(key) for key in lowest.keys()} == {Q: 0.5, K: 0.25, CONV: 0.25}
        assert lowest.ratio("no.such") is None

    @pytest.mark.parametrize(
        ("outside", "value", "expected"), [("clamp", 1.5, 1.0), ("clamp", -1, 0.0), ("allow", 1.5, 1.5)]
    )
    def test_what_is_outside_is_as_asked(self, outside: str, value: float, expected: float) -> None:
        assert view(Flat(model=A, value=value, outside=outside)).ratio(Q) == expected

    def test_outside_is_an_error_otherwise(self) -> None:
        with pytest.raises(PlanError, match=r"is 1\.5, outside 0 to 1\nSet `outside` to clamp"):
            view(Flat(model=A, value=1.5))

    def test_touching_nothing_is_an_error(self) -> None:
        with pytest.raises(PlanError, match="touches none of the 11 tensors"):
            view(Flat(model=A, part="lm"))

    def test_options_that_do_not_fit_the_layout_are_named(self) -> None:
        sd15 = HeaderModel(load("sd15"))
        with pytest.raises(PlanError, match="step 'table': there is no language model here"):
            view(Table(model=sd15, parts={"lm": 0.5}))


class TestEdits:
    @given(ratio=st.floats(0, 1))
    def test_the_ratio_mixes_the_edit_with_the_model(self, ratio: float) -> None:
        edited = view(Negate(model=A, ratio=ratio)).read(Q)
        assert torch.allclose(edited, A.read(Q) * (2 * ratio - 1), atol=1e-6)

    def test_a_gradient_sets_an_edits_ratio(self) -> None:
        edited = view(Negate(model=A, gradient=view(Flat(model=A, value=0.5))))
        assert not edited.read(Q).any()

    def test_a_mask_of_a_merge_in_a_merge(self) -> None:
        merged = view(Halfway(a=A, b=B))
        again = view(Halfway(a=merged, b=B, ratio=0.0, mask=view(Moved(model=merged, base=A))))
        moved = merged.read(Q) != A.read(Q)
        assert torch.equal(again.read(Q), torch.where(moved, B.read(Q), merged.read(Q)))


class TestCommands:
    def test_a_mask_from_command_to_merge(self, cli: Cli, models: SimpleNamespace) -> None:
        made = cli("mask", "moved", "a.safetensors", "--base", "base.safetensors", "-o", "m.safetensors")
        assert made.exit_code == 0, made.output
        assert "wrote m.safetensors" in made.output
        turned = cli("mask", "invert-it", "m.safetensors", "-o", "i.safetensors")
        assert turned.exit_code == 0, turned.output
        with MaskFile(models.folder / "m.safetensors") as mask, MaskFile(models.folder / "i.safetensors") as inverse:
            assert torch.equal(inverse.read(Q), ~mask.read(Q))
        merged = cli(
            "merge", "halfway", "a.safetensors", "b.safetensors", "--mask", "i.safetensors", "-o", "o.safetensors"
        )
        assert merged.exit_code == 0, merged.output

    def test_several_masks_are_arguments(self, cli: Cli, models: SimpleNamespace) -> None:
        for name in "ab":
            assert cli("mask", "positive", f"{name}.safetensors", "-o", f"p{name}.safetensors").exit_code == 0
        done = cli("mask", "both", "pa.safetensors", "pb.safetensors", "-o", "m.safetensors")
        assert done.exit_code == 0, done.output
        shown = cli("inspect", "m.safetensors")
        assert "a mask" in shown.output
        assert "made by mask: mask.both" in shown.output

    @pytest.mark.parametrize("name", ["m.safetensors", "g.json"])
    def test_what_is_written_can_be_made_again(self, cli: Cli, models: SimpleNamespace, name: str) -> None:
        words = {
            "m.safetensors": ("mask", "above-mean", "a.safetensors", "--over", "block"),
            "g.json": ("gradient", "flat", "a.safetensors", "--value", "0.3"),
        }[name]
        assert cli(*words, "-o", name).exit_code == 0
        again = cli("run", name, "-o", f"again-{name}")
        assert again.exit_code == 0, again.output
        assert (models.folder / name).read_bytes() == (models.folder / f"again-{name}").read_bytes()

    def test_a_table_is_given_key_by_key(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli("gradient", "table", "a.safetensors", "--part", "unet=0.25", "--part", "vae=1", "-o", "g.json")
        assert done.exit_code == 0, done.output
        gradient = GradientFile(models.folder / "g.json")
        assert gradient.ratio(Q) == 0.25
        assert gradient.made_by["recipe"]["steps"]["gradient"]["parts"] == {"unet": 0.25, "vae": 1.0}
        shown = cli("inspect", "g.json")
        assert "0.25" in shown.output

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--part", "unet"), "'unet' lacks a key"),
            (("--part", "unet=much"), "is not KEY=NUMBER"),
            (("--part", "unet=1", "--part", "unet=0"), "--part unet is given twice"),
            (("--part", "unet=1.5"), "outside 0 to 1"),
            (("--part", "unet=1", "-o", "g.safetensors"), "*.json"),
        ],
    )
    def test_a_mistake_is_named(self, cli: Cli, models: SimpleNamespace, words: tuple[str, ...], said: str) -> None:
        done = cli("gradient", "table", "a.safetensors", "-o", "g.json", *words)
        assert done.exit_code != 0
        assert said in done.output
        assert not (models.folder / "g.json").exists()

    def test_a_component_may_use_the_words_of_the_runs_own_options(self, cli: Cli, models: SimpleNamespace) -> None:
        for overwrite in ((), ("--run-overwrite",)):
            words = ("--output", "0.25", "--overwrite", "0.5", "-o", "g.json", *overwrite)
            done = cli("gradient", "clash", "a.safetensors", *words)
            assert done.exit_code == 0, done.output
        assert GradientFile(models.folder / "g.json").ratio(Q) == 0.75

    def test_the_order_of_a_table_survives_the_metadata(self, cli: Cli, models: SimpleNamespace) -> None:
        """Where the first entry that matches counts, the recipe in a merged file must not sort them."""
        layers = {"*.weight": 0.25, "*": 1.0}
        steps = {
            "z": {"op": "gradient.pattern", "model": "a", "layers": layers},
            "m": {"op": "merge.halfway", "a": "a", "b": "b", "gradient": "z"},
        }
        recipe = {"models": {"b": "b.safetensors", "a": "a.safetensors"}, "steps": steps, "output": "m"}
        merge_recipe(recipe, models.folder / "one.safetensors", folder=models.folder)
        assert cli("run", "one.safetensors", "-o", "two.safetensors").exit_code == 0
        assert (models.folder / "one.safetensors").read_bytes() == (models.folder / "two.safetensors").read_bytes()

    def test_a_gradient_of_another_model_is_warned_of(self, cli: Cli, models: SimpleNamespace) -> None:
        write_gradient(models.folder / "g.json", {Q: 0.5, "some.other.weight": 0.5})
        done = cli("merge", "halfway", "a.safetensors", "b.safetensors", "--gradient", "g.json", "--dry-run")
        assert (
            "the gradient is for 2 tensors, and the model lacks 1 of them, such as 'some.other.weight'" in done.output
        )

    def test_a_mistake_of_several_fields_is_told_without_the_steps_name(
        self, cli: Cli, models: SimpleNamespace
    ) -> None:
        done = cli("mask", "partition", "a.safetensors", "--index", "5", "-o", "m.safetensors")
        assert done.output.startswith("Error: index is 5, but there are 4 sets")

    def test_an_edit_writes_a_model(self, cli: Cli, models: SimpleNamespace) -> None:
        done = cli("edit", "negate", "a.safetensors", "--include", "*.to_q.weight", "-o", "e.safetensors")
        assert done.exit_code == 0, done.output
        assert "edited 1 of 11" in done.output

    @pytest.mark.parametrize("words", [("mask", "positive"), ("gradient", "flat"), ("edit", "negate")])
    def test_a_dry_run_shows_and_writes_nothing(
        self, cli: Cli, models: SimpleNamespace, words: tuple[str, ...]
    ) -> None:
        before = set(models.folder.iterdir())
        done = cli(*words, "a.safetensors", "--dry-run")
        assert done.exit_code == 0, done.output
        assert "output" in done.output
        assert set(models.folder.iterdir()) == before

    def test_blocks_of_one_ratio_share_a_row(self, cli: Cli, tmp_path: Path) -> None:
        ratios = {
            f"model.layers.{i}.{name}.weight": 0.5 if name == "up" else None for i in range(12) for name in ("up", "n")
        }
        ratios["model.layers.12.up.weight"] = 0.25
        write_gradient(tmp_path / "g.json", ratios)
        rows = [line.split("  ") for line in cli("inspect", "g.json").output.splitlines()[2:]]
        shown = [[cell.strip() for cell in row if cell.strip()][1:] for row in rows]
        assert shown == [
            ["model.layers.0 … model.layers.11", "24", "0.5, 12 tensors without"],
            ["model.layers.12", "1", "0.25"],
        ]

    def test_inspect_as_json(self, cli: Cli, models: SimpleNamespace) -> None:
        assert cli("mask", "positive", "a.safetensors", "-o", "m.safetensors").exit_code == 0
        assert cli("gradient", "flat", "a.safetensors", "-o", "g.json").exit_code == 0
        mask = json.loads(cli("inspect", "m.safetensors", "--json").output)
        assert mask["tensors"][Q]["shape"] == [12, 10]
        assert json.loads(cli("inspect", "g.json", "--json").output)["ratios"][Q] == 0.5
        assert Q in cli("inspect", "m.safetensors", "--keys").output

    def test_inspect_survives_a_making_it_does_not_understand(self, cli: Cli, tmp_path: Path) -> None:
        for made in ({"recipe": {"steps": {"x": 3}}}, {"recipe": []}, {}):
            text: dict[str, Any] = {"daremerge": "gradient", "version": 1, "made_by": made, "ratios": {"w": 0.5}}
            (tmp_path / "g.json").write_text(json.dumps(text))
            done = cli("inspect", "g.json")
            assert done.exit_code == 0
            assert "0.5" in done.output
