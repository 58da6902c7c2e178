"""One generator for each format: a random source → the bytes of a file that is valid but for what was changed in it.

The source has the interface of :class:`random.Random`: that class itself, hypothesis' own, or one fed by a fuzzer.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections import OrderedDict
from functools import cache
from random import Random
from typing import Any

import yaml

from .spelling import Object, Raw, mutated, spelt, text, tree, value

__all__ = [
    "config",
    "gradient",
    "header",
    "index",
    "lora",
    "mask",
    "mergekit",
    "pickled",
    "provenance",
    "recipe",
    "said",
]

_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I64": 8, "U8": 1, "BOOL": 1}
_NAMES = (
    "a",
    "b.weight",
    "model.diffusion_model.input_blocks.1.0.in_layers.0.weight",
    "model.layers.3.self_attn.q_proj.weight",
    "x.y.z",
)


def header(rng: Random) -> bytes:
    """A safetensors file."""
    tensors = {name: (rng.choice(list(_WIDTHS)), _shape(rng)) for name in rng.sample(_NAMES, rng.randrange(4))}
    metadata = {"format": "pt", "title": text(rng)} if rng.random() < 0.5 else {}
    return _file(rng, tensors, metadata)


def _shape(rng: Random) -> list[int]:
    return [rng.choice((0, 1, 2, 3)) for _ in range(rng.randrange(4))]


def _file(rng: Random, tensors: dict[str, tuple[str, list[int]]], metadata: dict[str, str]) -> bytes:
    """Tensors one after the other; the header, its length and the data changed now and then."""
    table: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, (dtype, shape) in tensors.items():
        size = _WIDTHS[dtype] * math.prod(shape)
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    head = _encoded(mutated(rng, tree(table)) if rng.random() < 0.7 else tree(table))
    length = (
        len(head) if rng.random() < 0.95 else rng.choice((0, len(head) + 1, len(head) - 1, 10**8, 2**63, 2**64 - 1))
    )
    data = bytes(rng.randrange(256) for _ in range(position)) if position < 64 else b"\x3c" * position
    return _damaged(rng, struct.pack("<Q", max(0, length)) + head + data, 0.15)


def _encoded(node: Any) -> bytes:
    return spelt(node).encode("utf-8", "surrogatepass")


def _damaged(rng: Random, content: bytes, share: float) -> bytes:
    """The bytes, damaged as transfers and editors damage them, in that share of cases."""
    if rng.random() >= share:
        return content
    kind, at = rng.randrange(6), rng.randint(0, len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content + bytes(rng.randrange(256) for _ in range(rng.randrange(9)))
    if kind == 2:
        return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
    if kind == 3:
        return content[:at] + content[rng.randint(0, len(content)) :]
    if kind == 4:
        return (
            content[:at] + rng.choice((b"\xff", b"\x00", b"\xed\xa0\x80", b"\xc0\xaf", b"\xef\xbb\xbf")) + content[at:]
        )
    return content[:at] + content[at // 2 : at] * 2 + content[at:]


def mask(rng: Random) -> bytes:
    """A mask: packed bits, and in the metadata the shapes they have."""
    shapes = {name: _shape(rng) for name in rng.sample(_NAMES, rng.randint(1, 3))}
    described = _encoded(mutated(rng, tree({"version": 1, "shapes": shapes}))).decode("utf-8", "replace")
    tensors = {name: ("U8", [-(-math.prod(shape) // 8)]) for name, shape in shapes.items()}
    if rng.random() < 0.2:
        tensors["plain"] = ("BOOL", _shape(rng))
    return _file(rng, tensors, {"daremerge.mask": described})


def provenance(rng: Random) -> bytes:
    """A merged file: its recipe in the metadata."""
    said = {
        "version": 1,
        "recipe": _recipe(rng),
        "inputs": {"a": {"path": "a", "identity": "x"}},
        "made_with": {"x": "1"},
    }
    described = _encoded(mutated(rng, tree(said))).decode("utf-8", "replace")
    return _file(rng, {"a": ("F16", [2])}, {"daremerge": described})


_LORA_SUFFIXES = (
    ".lora_up.weight", ".lora_down.weight", ".lora_mid.weight", ".alpha", ".dora_scale", ".diff", ".diff_b",
    ".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b", ".lokr_w1", ".lokr_w2", ".lora_A.weight",
    ".lora_B.weight", ".lora_A.default.weight", "_lora.up.weight",
)  # fmt: skip


def lora(rng: Random) -> bytes:
    """A LoRA, with tags and a configuration in the metadata."""
    tensors: dict[str, tuple[str, list[int]]] = {}
    for layer in ("lora_unet_down_blocks_0_attentions_0_proj_in", "unet.mid_block.x", "text_encoder.y")[
        : rng.randint(1, 3)
    ]:
        chosen = _LORA_SUFFIXES[:2] if rng.random() < 0.5 else rng.sample(_LORA_SUFFIXES, 3)
        for suffix in chosen:
            tensors[layer + suffix] = (rng.choice(("F32", "F16", "BF16")), _shape(rng))
        tensors[layer + ".alpha"] = ("F32", [])
    tags = tree({"10_style": {"tag": 3, text(rng): 2}, "other": {"tag": 1}})
    adapter = tree({"unet.lora_alpha": 8, "unet.use_rslora": False, "unet.alpha_pattern": {"x": 2}, "lora_alpha": 4})
    metadata = {
        "ss_tag_frequency": _encoded(mutated(rng, tags)).decode("utf-8", "replace"),
        "lora_adapter_metadata": _encoded(mutated(rng, adapter)).decode("utf-8", "replace"),
        "ss_network_dim": rng.choice(("8", "None", "", text(rng).encode("utf-8", "replace").decode())),
        "modelspec.title": "x",
    }
    return _file(rng, tensors, metadata)


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def index(rng: Random) -> bytes:
    """The index of a folder that holds two shards, of tensors ``a`` and ``b``."""
    table = {"metadata": {"total_size": 16}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    return _damaged(rng, _encoded(mutated(rng, tree(table))), 0.1)


def gradient(rng: Random) -> bytes:
    """A gradient file."""
    table = {
        "daremerge": "gradient",
        "version": 1,
        "made_by": {"recipe": _recipe(rng)} if rng.random() < 0.5 else {},
        "ratios": {name: rng.choice((0, 1, 0.5, None, 1.5)) for name in _NAMES},
    }
    return _damaged(rng, _encoded(mutated(rng, tree(table))), 0.1)


def config(rng: Random) -> bytes:
    """The ``config.json`` of a language model."""
    table = {"model_type": "llama", "torch_dtype": "float32", "rope_scaling": {"type": "linear"}, "layers": [1, 2]}
    return _damaged(rng, _encoded(mutated(rng, tree(table))), 0.2)


# --- recipes ------------------------------------------------------------------------------------------------

_OPS: tuple[dict[str, Any], ...] = (
    {"op": "merge.lerp", "a": "a", "b": "b", "ratio": 0.5},
    {"op": "merge.dare", "a": "a", "b": "b", "base": "base", "drop_rate": 0.9, "seed": 7},
    {"op": "merge.ties", "models": ["a", "b"], "base": "base", "weights": [1, 0.5], "density": 0.2, "lambda": 1.0},
    {"op": "mask.magnitude", "model": "a", "base": "base", "threshold": 0.8, "select": "below"},
    {"op": "gradient.mbw", "model": "a", "blocks": {"input_blocks.1": 0.0}, "rest": 0.5},
    {"op": "gradient.pattern", "model": "a", "layers": {"*attn*": 0.5, "{a,b[0-9]}.{1-30}": 1}, "rest": 0.5},
    {"op": "edit.normalize", "model": "a", "like": "b"},
    {"op": "edit.noise", "model": "a", "std": 0.01, "seed": 1},
    {"op": "mask.union", "masks": ["one", "two"]},
)


def _recipe(rng: Random) -> dict[str, Any]:
    steps = {name: dict(rng.choice(_OPS)) for name in rng.sample(("merged", "one", "two", "ratios"), rng.randint(1, 3))}
    last = next(reversed(steps))
    if rng.random() < 0.3:
        steps[last]["mask"] = rng.choice(list(steps))
    output: Any = last if rng.random() < 0.6 else {"step": last, "path": "out.safetensors", "dtype": "fp16"}
    return {
        "models": {"a": "a.safetensors", "b": "b.safetensors", "base": "a.safetensors"},
        "steps": steps,
        "output": output,
    }


def recipe(rng: Random) -> bytes:
    """A recipe, as JSON or as YAML."""
    return _as_text(rng, _recipe(rng))


def mergekit(rng: Random) -> bytes:
    """A mergekit configuration."""
    method = rng.choice(
        ("linear", "slerp", "ties", "dare_ties", "della", "breadcrumbs", "nuslerp", "model_stock", "karcher", "sce",
         "multislerp", "nearswap", "passthrough", "task_arithmetic")
    )  # fmt: skip
    weight = rng.choice((0.5, "1e-5", [0, 0.5, 1], [{"filter": "attn", "value": [0, 1]}, {"value": 1}], [1, 1, 1]))
    models: list[dict[str, Any]] = [
        {"model": f"org/model-{number}", "parameters": {"weight": weight, "density": 0.5}}
        for number in range(rng.randint(1, 3))
    ]
    table: dict[str, Any] = {"merge_method": method, "models": models, "base_model": "org/model-0", "dtype": "float16"}
    parameters = {name: rng.choice((0, 0.5, 1, True, [0, 1])) for name in rng.sample(("t", "normalize", "lambda"), 2)}
    if rng.random() < 0.6:
        table["parameters"] = parameters
        models[0].pop("parameters", None)
    return _as_text(rng, table)


def _as_text(rng: Random, plain: Any) -> bytes:
    if rng.random() < 0.6:  # JSON is YAML too, and what is raw in it is read as such
        return _damaged(rng, _encoded(_with_yaml(rng, mutated(rng, tree(plain)))), 0.1)
    lines = yaml.safe_dump(plain, sort_keys=False).splitlines()
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.randint(0, len(lines))
        kind = rng.randrange(4)
        if kind == 0 or at == len(lines):
            lines.insert(at, rng.choice(("", "  ", "    ")) + rng.choice(_YAML_LINES))
        elif kind == 1:
            del lines[at]
        elif kind == 2:
            lines.insert(at, lines[at])
        else:
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {rng.choice(_YAML_VALUES)}"
    return _damaged(rng, "\n".join(lines).encode("utf-8", "surrogatepass"), 0.1)


_YAML_VALUES = (
    "!!python/object/apply:os.system [touch owned]", "!!python/name:os.system", "!!binary aGk=", "!!set {a, b}",
    "!!timestamp 2001-01-01", "2001-01-01", "2001-01-01t00:00:00Z", "0x" + "f" * 5000, "0b" + "1" * 500, "0777777",
    "1" + ":1" * 2000 + ".5", "1:30", "&x [1]", "*x", ".nan", ".inf", "-.inf", "1.0e+999", "1_000", "~", "yes",
    '"\\0"', '"\\ud800"', '"\\x1b[31m"', "[" * 200, "{a: " * 200, "|", ">", "'", "? a", "[a, b: c]", "<<", "=",
    "- - - -",
    "{? [a] : b}", "9" * 4000, "!", "! a", "!x a", "@", "`", "%", "\t",
)  # fmt: skip

_YAML_LINES = (
    "<<: {a: 1}", "<<: *x", "? [a, b]", "? {a: b}", ": c", "- a", "---", "...", "%YAML 1.1", "%TAG ! tag:x,2000:",
    "\tx: 1",
    "x: &a [*a]", "x: &a {b: *a}", "output: " + "a" * 2000, "1: 2", "1.0: 2", "true: 1", "null: 1", "# x", "a: b: c",
    "merge_method: linear", "daremerge: gradient", "made_by: [1]", "'x': \"y", "x: {", "x: [1, 2",
)  # fmt: skip


def _with_yaml(rng: Random, node: Any) -> Any:
    """The tree with a value of YAML's own in it, now and then."""
    if rng.random() < 0.3 and isinstance(node, Object) and node:
        node[rng.randrange(len(node))][1] = Raw(rng.choice(_YAML_VALUES))
    return node


# --- pickles --------------------------------------------------------------------------------------------------


@cache
def _saved(zipped: bool) -> bytes:
    import torch

    shared = torch.arange(8.0)
    state = {"a": torch.ones(2, 3).half(), "b.weight": shared[:4], "c": shared.view(2, 4).T, "n": torch.tensor(3)}
    held = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"state_dict": OrderedDict(state), "epoch": 3}, held, _use_new_zipfile_serialization=zipped)
    return held.getvalue()


_RUNS = b"cos\nsystem\n(S'touch owned'\ntR."
_INSERTED = (
    b"cos\nsystem\nq\xf0", b"(S'touch owned'\ntR", b"(S'touch owned'\nios\nsystem\n",
    b"(cos\nsystem\nS'touch owned'\no",
    b"cbuiltins\neval\n(S'1'\ntR", b"ctorch\nTensor\n(K\xfftR", b"ctorch\nTensor\n(J\xff\xff\xff\x7ftR",
    b")\x81", b"b", b"R",
    b"0", b"1", b"2", b"(", b"t", b"u", b"s", b"e", b"a", b".", b"h\x00", b"h\x01", b"h\x05", b"h\xff", b"q\x00",
    b"\x94", b"N", b"Q",
    b"\x85", b"\x86", b"\x87", b"]", b"}", b")", b"K\x00", b"J\xff\xff\xff\xff",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"X\xff\xff\xff\xff", b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8e\xff\xff\xff\xff\x00\x00\x00\x00", b"\x82\x01",
    b"}q\xf1h\xf1h\xf1s", b"(((((((((((((((", b"K\x01\x85" + b"2\x86" * 40,
    b"K\x01\x85q\xf2" + b"h\xf2h\xf2\x86q\xf2" * 60,
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"\x8c\x02os\x8c\x06system\x93\x8c\x0btouch owned\x85R",
)  # fmt: skip


def pickled(rng: Random) -> bytes:
    """A checkpoint saved by torch, new or old, whose pickle has other opcodes here and there."""
    if rng.random() < 0.04:
        return rng.choice((_RUNS, b"\x80\x02" + _RUNS, pickle.dumps({"a": 1}), pickle.dumps([value(rng)])))
    if rng.random() < 0.3:
        old = _saved(False)
        at = rng.randrange(len(old))
        if rng.random() < 0.5:
            return old[:at] + rng.choice(_INSERTED) + old[at:]
        return _damaged(rng, _opcodes_changed(rng, old), 0.3)
    with zipfile.ZipFile(io.BytesIO(_saved(True))) as archive:
        entries = [[name, archive.read(name)] for name in archive.namelist()]
    for entry in entries:
        if entry[0].endswith("data.pkl"):
            entry[1] = _opcodes_changed(rng, entry[1])
    if rng.random() < 0.2:
        _entries_changed(rng, entries)
    held = io.BytesIO()
    packed = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(held, "w", packed) as archive:
        warnings.simplefilter("ignore")  # of two entries of one name
        for name, content in entries:
            archive.writestr(name, content)
    return _damaged(rng, held.getvalue(), 0.1)


def _opcodes_changed(rng: Random, content: bytes) -> bytes:
    starts = _starts(content)
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at = rng.choice(starts)
        kind = rng.randrange(4)
        if kind == 0:
            content = content[:at] + rng.choice(_INSERTED) + content[at:]
        elif kind == 1:
            until = min((start for start in starts if start > at), default=len(content))
            content = content[:at] + content[until:]
        elif kind == 2 and at + 1 < len(content):
            content = content[: at + 1] + bytes([rng.choice((0, 1, 2, 127, 128, 255))]) + content[at + 2 :]
        else:
            content = content[:at] + rng.choice(_INSERTED) + content[at + 2 :]
    return content


@cache
def _starts(content: bytes) -> list[int]:
    """Where the opcodes of the pickles start: in an old file there are five, and bytes of tensors after them."""
    found: list[int] = []
    stream = io.BytesIO(content)
    try:
        while True:
            found += [position for _, _, position in pickletools.genops(stream) if position is not None]
    except ValueError:
        return found


def _entries_changed(rng: Random, entries: list[list[Any]]) -> None:
    at = rng.randrange(len(entries))
    kind = rng.randrange(6)
    if kind == 0:
        del entries[at]
    elif kind == 1:
        entries.append(list(entries[at]))
    elif kind == 2:
        entries[at][1] = entries[at][1][: len(entries[at][1]) // 2]
    elif kind == 3:
        entries[at][1] = entries[at][1] * 3
    elif kind == 4:
        entries[at][0] = rng.choice(
            ("../../escape", "/escape", "archive/data.pkl", "archive/byteorder", "archive/data/0")
        )
    else:
        entries.insert(0, ["archive/code/evil.py", b"import os"])


# --- reports ------------------------------------------------------------------------------------------------


def said(rng: Random) -> bytes:
    """JSON of a report's title, text, rows and data: what reporters take from files."""
    words = [text(rng) for _ in range(6)]
    rows = [{words[0]: words[1], "n": rng.choice((1, 0.5, None))} for _ in range(rng.randrange(4))]
    table = {"title": words[2], "text": f"{words[3]}\n\n  {words[4]}", "rows": rows, "data": {words[5]: words}}
    return json.dumps(table).encode()
