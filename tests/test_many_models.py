"""Many models on the command line, and what belongs to it: numbers for each, folders of shards, vocabularies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from daremerge_core import MemoryModel, open_model, view
from daremerge_core.api import plan_recipe
from daremerge_core.cli import make_cli
from daremerge_core.engine import Settings, _Weighed
from daremerge_core.errors import PlanError
from daremerge_core.stores import ShardedFolder, ShardedWriter, write_model
from daremerge_core.testing import tiny_tensors
from daremerge_core.values import TensorMeta
from daremerge_merge_basic.components import Lerp
from daremerge_merge_tasks.presets import TaskArithmetic
from daremerge_merge_tasks.spectral import TsvM


def daremerge(*args: object) -> Result:
    return CliRunner().invoke(make_cli(), [str(arg) for arg in args])


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    model = open_model(path)
    return {key: model.read(key).clone() for key in model.keys()}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Four fine-tunes and their base, as files of the tiny checkpoint."""
    base = tiny_tensors(0)
    found = {}
    for index, name in enumerate(("base", "a", "b", "c", "d")):
        moved = {
            key: tensor + 0.01 * tiny_tensors(index)[key] if index and tensor.is_floating_point() else tensor
            for key, tensor in base.items()
        }
        found[name] = tmp_path / f"{name}.safetensors"
        write_model(found[name], moved, {})
    return found


class TestNumbersForEachModel:
    def test_given_one_by_one(self, files: dict[str, Path], tmp_path: Path) -> None:
        out = tmp_path / "out.safetensors"
        models = [files[name] for name in "abcd"]
        weights = [word for number in (1, 0.8, 0.5, -0.2) for word in ("--weight", number)]
        done = daremerge("merge", "ties", *models, "--base", files["base"], *weights, "--density", ".2", "-o", out)
        assert done.exit_code == 0, done.output
        step = json.loads(open_model(out).metadata["daremerge"])["recipe"]["steps"]["merged"]
        assert step["weights"] == [1.0, 0.8, 0.5, -0.2]
        assert step["density"] == 0.2
        assert step["models"] == ["model_1", "model_2", "model_3", "model_4"]

    def test_a_wrong_count_names_the_option(self, files: dict[str, Path], tmp_path: Path) -> None:
        models = [files["a"], files["b"]]
        out = tmp_path / "out.safetensors"
        done = daremerge("merge", "ties", *models, "--base", files["base"], *["--weight", "1"] * 3, "-o", out)
        assert done.exit_code != 0
        assert "weights: 3 for 2 models" in done.output

    def test_help_shows_the_default(self) -> None:
        text = daremerge("merge", "ties", "--help").output
        assert "[default: 0.2]" in text
        assert "--weight FLOAT" in text

    def test_the_result_is_the_same_for_any_threads_and_memory(self, files: dict[str, Path], tmp_path: Path) -> None:
        models = [files[name] for name in "abc"]
        for method in ("ties", "dare-ties", "della", "breadcrumbs", "sce", "consensus", "karcher"):
            base = [] if method == "karcher" else ["--base", files["base"]]
            made = []
            for number, machine in enumerate((["--threads", 1], ["--threads", 3, "--memory", "256KB"])):
                out = tmp_path / f"{method}-{number}.safetensors"
                done = daremerge("merge", method, *models, *base, *machine, "-o", out)
                assert done.exit_code == 0, done.output
                made.append(out.read_bytes())
            assert made[0] == made[1], method


class TestPlans:
    def live(self, scale: float, count: int = 2) -> tuple[dict[str, Any], dict[str, str]]:
        base = {"layers.0.weight": torch.zeros(60, 50), "layers.1.weight": torch.zeros(60, 50)}
        generator = torch.Generator().manual_seed(0)
        models = {"base": MemoryModel(base)}
        for index in range(count):
            moved = {key: scale * torch.randn(one.shape, generator=generator) for key, one in base.items()}
            models[f"m{index}"] = MemoryModel(moved)
        return models, {name: f"{name}.safetensors" for name in models}

    def warnings(self, scale: float, **step: Any) -> str:
        models, names = self.live(scale)
        step = {"models": ["m0", "m1"], "base": "base", **step}
        step = {key: value for key, value in step.items() if value is not None}
        recipe = {"models": names, "steps": {"merged": step}, "output": "merged"}
        return "\n".join(plan_recipe(recipe, live=models).warnings)

    def test_model_stock_of_unrelated_models(self) -> None:
        assert "unrelated" in self.warnings(0.01, op="merge.model-stock")
        assert "unrelated" not in self.warnings(0.01, op="merge.ties")

    def test_dare_at_large_changes(self) -> None:
        assert "small changes" in self.warnings(0.05, op="merge.dare-ties")
        assert "small changes" not in self.warnings(0.002, op="merge.dare-ties")
        assert "small changes" not in self.warnings(0.05, op="merge.dare-linear", density=0.7)
        two = {"a": "base", "b": "m0", "models": None, "drop_rate": 0.9}
        assert "small changes" in self.warnings(0.05, op="merge.dare", **two)
        assert "small changes" not in self.warnings(0.002, op="merge.dare", **two)

    def test_lines_without_layers(self) -> None:
        assert "known" not in self.warnings(0.01, op="merge.task-arithmetic", refine="lines")
        models, names = self.live(0.01)
        for name, model in models.items():
            models[name] = MemoryModel({"head": model.read("layers.0.weight")})
        step = {"op": "merge.task-arithmetic", "models": ["m0"], "base": "base", "refine": "lines"}
        plan = plan_recipe({"models": names, "steps": {"merged": step}, "output": "merged"}, live=models)
        assert "known" in "\n".join(plan.warnings)

    def test_a_decomposition_must_fit_the_memory(self, files: dict[str, Path], tmp_path: Path) -> None:
        done = daremerge(
            *("merge", "tsv-m", files["a"], files["b"], "--base", files["base"]),
            *("--memory", "1MB", "-o", tmp_path / "out.safetensors"),
        )
        assert done.exit_code != 0
        assert "must be computed whole" in done.output
        assert "--memory" in done.output

    def test_progress_counts_what_a_decomposition_takes_and_ends_at_the_bytes(self) -> None:
        models, names = self.live(0.01)
        step = {"op": "merge.tsv-m", "models": ["m0", "m1"], "base": "base"}
        plan = plan_recipe({"models": names, "steps": {"merged": step}, "output": "merged"}, live=models)

        class Counting:
            total = done = 0

            def start(self, total: int, what: str) -> None:
                self.total = total

            def advance(self, count: int) -> None:
                self.done += count

            def finish(self) -> None: ...

        counting = Counting()
        weighed = _Weighed(counting, plan)
        weighed.start(1000, "merging")
        weighed.advance(1000)
        early = counting.done
        for meta in plan.tensors:
            weighed.advance_work(meta, meta.numel)
        assert counting.total == 1000 + plan.bytes_out
        assert early < 1000 / 5  # reading is next to nothing here
        assert abs(counting.done - counting.total) <= 1
        assert TsvM(models=["a", "b"], base="c").effort((60, 50)) > 10
        assert Settings().memory == 1 << 30


class TestRows:
    """Vocabularies with added tokens: tensors that differ in their number of rows."""

    def models(self) -> dict[str, MemoryModel]:
        generator = torch.Generator().manual_seed(0)
        rows = {"base": 5, "longer": 7, "shorter": 4}
        return {
            name: MemoryModel(
                {"embed.weight": torch.randn(count, 3, generator=generator), "w": torch.randn(2, generator=generator)}
            )
            for name, count in rows.items()
        }

    def test_common_rows_are_merged_and_the_others_kept(self) -> None:
        found = self.models()
        base, longer, shorter = (found[name].read("embed.weight") for name in ("base", "longer", "shorter"))
        merge: Any = view(
            TaskArithmetic(models=[found["longer"], found["shorter"]], base=found["base"], on_mismatch="common-rows")
        )
        result = merge.read("embed.weight")
        assert result.shape == base.shape
        torch.testing.assert_close(result[:4], longer[:4] + shorter - base[:4])
        torch.testing.assert_close(result[4], longer[4])

    def test_spans_agree_with_the_whole(self) -> None:
        from daremerge_core import Span

        found = self.models()
        for a, b in (("longer", "shorter"), ("shorter", "longer")):
            merge: Any = view(Lerp(a=found[a], b=found[b], on_mismatch="common-rows"))
            whole = merge.read("embed.weight").reshape(-1)
            for start in range(whole.numel()):
                for stop in range(start, whole.numel() + 1):
                    assert torch.equal(merge.read("embed.weight", Span(start, stop)), whole[start:stop])

    def test_anything_but_rows_is_still_an_error(self) -> None:
        one, other = MemoryModel({"w": torch.zeros(3, 4)}), MemoryModel({"w": torch.zeros(3, 5)})
        with pytest.raises(PlanError, match=r"\[3, 4\] here, \[3, 5\] in b"):
            view(Lerp(a=one, b=other, on_mismatch="common-rows"))
        with pytest.raises(PlanError, match="common-rows"):
            view(Lerp(a=self.models()["base"], b=self.models()["longer"]))


class TestFolders:
    """Hugging Face folders: sharded in, sharded out, with what lies beside the weights."""

    def folder(self, path: Path, seed: int) -> Path:
        metas = [TensorMeta(key, "F32", tuple(one.shape)) for key, one in tiny_tensors(seed).items() if one.ndim > 1]
        metas = [meta for meta in metas if meta.numel and "position_ids" not in meta.key]
        with ShardedWriter(path, metas, {"format": "pt"}, shard_size=2000) as writer:
            for meta in metas:
                writer.write(meta.key, 0, tiny_tensors(seed)[meta.key].reshape(-1))
            writer.commit()
        (path / "config.json").write_text(json.dumps({"model_type": "tiny", "torch_dtype": "float32", "seed": seed}))
        (path / "tokenizer.json").write_text(f"the tokenizer of {seed}")
        (path / "modeling_tiny.py").write_text("raise SystemExit")
        (path / "README.md").write_text("not of the merge")
        return path

    def test_a_merge_of_folders_is_a_folder(self, tmp_path: Path) -> None:
        base, a, b = (self.folder(tmp_path / name, seed) for seed, name in enumerate(("base", "a", "b")))
        out = tmp_path / "merged"
        done = daremerge("merge", "ties", a, b, "--base", base, "-o", out)
        assert done.exit_code == 0, done.output
        assert json.loads((out / "config.json").read_text())["seed"] == 0
        assert (out / "tokenizer.json").read_text() == "the tokenizer of 0"
        names = {path.name for path in out.iterdir()}
        assert not names & {"modeling_tiny.py", "README.md"}
        assert isinstance(open_model(out), ShardedFolder)
        assert set(open_model(out).keys()) == set(open_model(base).keys())

    def test_a_new_dtype_is_stated(self, tmp_path: Path) -> None:
        base, a = (self.folder(tmp_path / name, seed) for seed, name in enumerate(("base", "a")))
        out = tmp_path / "merged"
        done = daremerge("merge", "lerp", base, a, "--dtype", "bf16", "--shard-size", "1KB", "-o", out)
        assert done.exit_code == 0, done.output
        assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
        assert len(list(out.glob("*.safetensors"))) > 1

    def test_it_is_replaced_when_asked(self, tmp_path: Path) -> None:
        base, a = (self.folder(tmp_path / name, seed) for seed, name in enumerate(("base", "a")))
        out = tmp_path / "merged"
        for _ in range(2):
            done = daremerge("merge", "lerp", base, a, "-o", out, "--overwrite")
            assert done.exit_code == 0, done.output
        (out / "notes.txt").write_text("mine")
        done = daremerge("merge", "lerp", base, a, "-o", out, "--overwrite")
        assert done.exit_code != 0
        assert "notes.txt" in done.output

    def test_a_file_stays_a_file(self, tmp_path: Path) -> None:
        base, a = (self.folder(tmp_path / name, seed) for seed, name in enumerate(("base", "a")))
        out = tmp_path / "merged.safetensors"
        assert daremerge("merge", "lerp", base, a, "-o", out).exit_code == 0
        assert out.is_file()
