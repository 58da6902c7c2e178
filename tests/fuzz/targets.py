"""One target for each format: bytes → None, read through the door that the program itself uses.

A target lets nothing out but what :func:`fuzz.guards` may raise, and assertions of its own: a
:class:`~daremerge_core.errors.DaremergeError` is an answer, anything else is a find.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

from daremerge_core.errors import DaremergeError

from . import formats, resumed

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """A format, and how it is read.

    Attributes:
        generate: a nearly valid file.
        read: reads a file of these bytes, in a folder of its own, which is the working folder.
        share: of all cases, in percent.
        factor: bytes of Python's memory that reading may take for each byte of the file, beside :attr:`BASE`.
        names_files: whether the file may name others to be read, wherever they lie, as recipes do.
        changes_files: whether files in its folder may be made and removed.
    """

    name: str
    generate: Callable[[Random], bytes]
    read: Callable[[bytes, Path], None]
    share: int
    factor: int
    names_files: bool = False
    changes_files: bool = False

    BASE = 1 << 20

    def __call__(self, content: bytes, folder: Path) -> bool:
        """Whether the file was accepted."""
        try:
            self.read(content, folder)
        except DaremergeError:
            return False
        return True

    def most_memory(self, content: bytes) -> int:
        return self.BASE + self.factor * len(content)


# --- models, masks, gradients --------------------------------------------------------------------------------


def _read_header(content: bytes, folder: Path) -> None:
    from daremerge_core.stores.header import read_header

    header = read_header(BytesIO(content), Path("case.safetensors"))
    # What is accepted is sound: packed from the header to the end, each tensor of the size of its shape.
    position = 8 + int.from_bytes(content[:8], "little")
    for entry in header.entries.values():
        assert entry.start == position
        position = entry.stop
    assert position == len(content)


def _file(content: bytes, folder: Path, name: str = "case.safetensors") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _read_model(content: bytes, folder: Path) -> None:
    from daremerge_core.decisions import detect_layout
    from daremerge_core.stores import open_model

    with closing(open_model(_file(content, folder))) as model:
        layout = detect_layout(model)
        for key in model.keys():
            layout.place(key)
            assert tuple(model.read(key).shape) == model.meta(key).shape


def _read_mask(content: bytes, folder: Path) -> None:
    from daremerge_core.stores import MaskFile

    with closing(MaskFile(_file(content, folder))) as mask:
        for key in mask.keys():
            assert mask.count(key) == int(mask.read(key).sum())


def _read_index(content: bytes, folder: Path) -> None:
    from daremerge_core.stores import ShardedFolder

    for shard, key in zip(formats.SHARDS, "ab", strict=True):
        if not (folder / shard).exists():
            head = json.dumps({key: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
            _file(len(head).to_bytes(8, "little") + head + bytes(8), folder, shard)
    _file(content, folder, "model.safetensors.index.json")
    with closing(ShardedFolder(folder)) as model:
        assert set(model.keys()) <= {"a", "b"}


def _read_pickle(content: bytes, folder: Path) -> None:
    from daremerge_core.stores import TorchPickle

    with closing(TorchPickle(_file(content, folder, "case.pt"))) as model:
        for key in model.keys():
            tensor = model.read(key)
            assert tensor.numel() * tensor.element_size() <= len(content)
            float(tensor.double().sum())


def _read_gradient(content: bytes, folder: Path) -> None:
    from daremerge_core.stores import GradientFile

    gradient = GradientFile(_file(content, folder, "case.json"))
    for key in gradient.keys():
        ratio = gradient.ratio(key)
        assert ratio is None or abs(ratio) < float("inf")


def _read_lora(content: bytes, folder: Path) -> None:
    from daremerge_core.stores import open_model
    from daremerge_lora.formats import open_lora
    from daremerge_lora.metadata import info, tags
    from daremerge_lora.provenance import of_merge

    with closing(open_model(_file(content, folder))) as model:
        tags(model.metadata)
        lora = open_lora(model)
        json.dumps(info(lora, hashed=True))
        of_merge([model.metadata, model.metadata], [])
        for module in lora.modules.values():
            for ask in (lora.shape, lora.rank, lora.alpha, lora.scale):
                with suppress(DaremergeError):
                    ask(module)


def _read_config(content: bytes, folder: Path) -> None:
    from daremerge_core.stores.companions import companions_of, copy_companions

    _file(content, folder, "config.json")
    (folder / "copy").mkdir(exist_ok=True)
    copy_companions(companions_of(folder), folder / "copy", dtype="float16")


# --- recipes ----------------------------------------------------------------------------------------------------


@cache
def _catalog() -> Any:
    from daremerge_core.catalog import discover

    return discover()


def _named(content: bytes, folder: Path) -> Path:
    """JSON is read by another parser than YAML; half of what could be either is read as each."""
    return _file(content, folder, "case.json" if content[:1] == b"{" and len(content) % 2 else "case.yaml")


def _read_recipe(content: bytes, folder: Path) -> None:
    from daremerge_core.api import plan_recipe
    from daremerge_core.recipe import apply_settings, load_recipe, parse_recipe, resolve
    from daremerge_core.testing.fixtures import save

    for name in "ab":
        if not (folder / f"{name}.safetensors").exists():
            import torch

            save(folder / f"{name}.safetensors", {"a": torch.ones(2), "x.attn": torch.ones(3)})
    recipe = load_recipe(_named(content, folder), _catalog())
    data = apply_settings(recipe.model_dump(exclude_none=True), ["output.dtype=fp16"])
    parse_recipe(data)
    json.dumps(resolve(recipe, _catalog()).resolved())
    with plan_recipe(recipe, catalog=_catalog(), folders=[folder]):
        pass


def _read_mergekit(content: bytes, folder: Path) -> None:
    from daremerge_core.recipe import load_recipe, resolve

    resolve(load_recipe(_named(content, folder), _catalog()), _catalog())


def _read_provenance(content: bytes, folder: Path) -> None:
    from daremerge_core.recipe import load_recipe, read_provenance, resolve

    path = _file(content, folder)
    found = read_provenance(path)
    assert all(isinstance(one["identity"], str) for one in found["inputs"].values())
    resolve(load_recipe(path, _catalog()), _catalog())


# --- what is shown ------------------------------------------------------------------------------------------------


_WORDS = "html head meta title style body h1 p span div table thead tbody tr th td wbr details summary script"
_TAGS = frozenset(_WORDS.split())


class _Page(HTMLParser):
    """A report's page, as a browser takes it apart."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _TAGS, tag
        assert tag != "script" or dict(attrs) == {"type": "application/json", "id": "data"}
        assert not any(name.startswith("on") or name in ("src", "href", "style") for name, _ in attrs)


def assert_shown_safely(shown: str) -> None:
    """Nothing but characters that print, in lines."""
    assert shown.replace("\n", "").isprintable(), ascii(shown)[:500]


def _render(content: bytes, folder: Path) -> None:
    from daremerge_core.printable import json_text, printable
    from daremerge_core.rendering import to_json
    from daremerge_core.rendering.page import to_page
    from daremerge_core.rendering.text import to_text
    from daremerge_core.values import Report

    try:
        report = Report(**json.loads(content))
        assert isinstance(report.title, str)
        assert isinstance(report.text, str)
    except (ValueError, TypeError, AssertionError, RecursionError):
        return  # only what a reporter could have made
    page = to_page(report)
    parser = _Page(convert_charrefs=True)
    parser.feed(page)
    for shown in (to_text(report), to_json(report), json_text(report.data), printable(report.title)):
        assert_shown_safely(shown)
    assert json.loads(to_json(report))["data"] == report.data


@cache
def _command() -> Any:
    import numpy  # noqa: F401  # loads libraries, which is watched for

    from daremerge_core.cli import make_cli

    return make_cli()


_SHOWN: tuple[tuple[str, ...], ...] = (("inspect", "--keys"), ("inspect", "--json"), ("lora", "info"), ("plan",))


def _show(content: bytes, folder: Path) -> None:
    """Files of every kind, through the commands that show them."""
    from click.testing import CliRunner

    path = _named(content, folder) if content[:1].isascii() and content[8:9] != b"{" else _file(content, folder)
    for command in _SHOWN:
        done = CliRunner().invoke(_command(), [*command, str(path)], prog_name="daremerge", catch_exceptions=False)
        assert done.exit_code in (0, 1, 2)
        assert_shown_safely(done.output)


def _any_file(rng: Random) -> bytes:
    return rng.choice(
        (
            formats.header,
            formats.header,
            formats.mask,
            formats.lora,
            formats.provenance,
            formats.gradient,
            formats.recipe,
        )
    )(rng)


TARGETS: Mapping[str, Target] = {
    one.name: one
    for one in (
        Target("header", formats.header, _read_header, 39, 120),
        Target("index", formats.index, _read_index, 10, 120),
        Target("gradient", formats.gradient, _read_gradient, 10, 120),
        Target("config", formats.config, _read_config, 5, 120),
        Target("model", formats.header, _read_model, 8, 120),
        Target("mask", formats.mask, _read_mask, 6, 120),
        Target("lora", formats.lora, _read_lora, 5, 120),
        Target("pickle", formats.pickled, _read_pickle, 5, 300),
        Target("provenance", formats.provenance, _read_provenance, 3, 300),
        Target("mergekit", formats.mergekit, _read_mergekit, 3, 3000),
        Target("recipe", formats.recipe, _read_recipe, 2, 3000, names_files=True),
        Target("render", formats.said, _render, 2, 300),
        Target("journal", resumed.journal, resumed.resume, 1, 3000, changes_files=True),
        Target("show", _any_file, _show, 1, 3000, names_files=True),
    )
}
assert sum(one.share for one in TARGETS.values()) == 100
