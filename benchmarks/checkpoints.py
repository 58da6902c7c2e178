"""Checkpoints with the names, shapes and dtypes of real ones and random weights: a base and two fine-tunes of it.

What a merge costs depends on how many tensors of what shapes there are, not on what they say, so nothing has to be
downloaded. Each file is streamed: a few megabytes of memory, whatever its size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from daremerge_core.dtypes import FLOATS, nbytes, torch_dtype
from daremerge_core.stores.header import encode_header, in_file_order
from daremerge_core.stores.writer import SafetensorsWriter
from daremerge_core.testing import layouts, tiny
from daremerge_core.values import TensorMeta

LAYOUTS = ("sd15", "sdxl", "tiny")
"""Checkpoints that can be made: 2.1 GB, 6.9 GB and a few kilobytes a file, in fp16."""
FOLDER = "folder"
"""One more: a language model of 20 GB in bf16, in a folder of four files. All its weights are zero and take no room on
the disk, so reading them shows the system at its fastest."""

CHUNK = 1 << 22
"""Elements made at a time."""
WEIGHT, DELTA = 0.03, 0.002
"""Standard deviation of the base's weights, and of how far a fine-tune moved them."""


Checkpoints = Mapping[str, Path]
"""Where the models of one layout lie: ``base``, ``a`` and ``b``."""
NAMES = ("base", "a", "b")


def tensors_of(layout: str) -> dict[str, TensorMeta]:
    """Every tensor of one of :data:`LAYOUTS`, with the int64 ``position_ids`` that many files in use still carry."""
    if layout == "tiny":
        model = tiny.tiny_model(dtype=torch.float16)
        return {key: model.meta(key) for key in model.keys()}
    found = layouts.load(layout)
    for meta in list(found.values()):
        if meta.key.endswith("embeddings.position_embedding.weight"):
            key = meta.key.removesuffix("position_embedding.weight") + "position_ids"
            found.setdefault(key, TensorMeta(key, "I64", (1, meta.shape[0])))
    return found


def checkpoints(layout: str, data: Path) -> Checkpoints:
    """The checkpoints of a layout in ``data/<layout>``, made if they are not there yet."""
    folder = data / layout
    ending = "" if layout == FOLDER else ".safetensors"
    files = {name: folder / f"{name}{ending}" for name in NAMES}
    if not all(path.exists() for path in files.values()):
        folder.mkdir(parents=True, exist_ok=True)
        if layout == FOLDER:
            for path in files.values():
                sparse_folder(path)
        else:
            generate(tensors_of(layout), files)
    return files


def sparse_folder(folder: Path, *, layers: int = 48, shards: int = 4) -> None:
    """A sharded folder of a Llama-like model: headers and an index, and files that are long enough but empty."""
    embedding = [TensorMeta(f"{key}.weight", "BF16", (32000, 4096)) for key in ("model.embed_tokens", "lm_head")]
    metas = [*embedding, *(meta for layer in range(layers) for meta in _decoder_layer(f"model.layers.{layer}"))]
    share = -(-len(metas) // shards)
    folder.mkdir(parents=True)
    weight_map = {}
    for number in range(shards):
        path = folder / f"model-{number + 1:05}-of-{shards:05}.safetensors"
        held = metas[number * share : (number + 1) * share]
        header = encode_header(in_file_order(held), {"format": "pt"})
        with path.open("wb") as file:
            file.write(header)
            file.truncate(len(header) + sum(nbytes(meta.dtype, meta.numel) for meta in held))
        weight_map |= {meta.key: path.name for meta in held}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _decoder_layer(prefix: str, hidden: int = 4096, inner: int = 11008) -> list[TensorMeta]:
    shapes: dict[str, tuple[int, ...]] = {
        **{f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"},
        **{f"mlp.{name}_proj": (inner, hidden) for name in ("gate", "up")},
        "mlp.down_proj": (hidden, inner),
        **{f"{name}_layernorm": (hidden,) for name in ("input", "post_attention")},
    }
    return [TensorMeta(f"{prefix}.{name}.weight", "BF16", shape) for name, shape in shapes.items()]


def generate(tensors: Mapping[str, TensorMeta], files: Checkpoints, *, seed: int = 0) -> None:
    """Write all three files: the same bytes for the same seed. A file is at its path only when it is complete.

    Normal numbers come from one pool, read from a random place for each chunk: as good as fresh ones for timing, and
    as quick as a copy.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(4 * CHUNK, generator=generator)

    def normal(count: int) -> torch.Tensor:
        start = int(torch.randint(0, len(pool) - count + 1, (), generator=generator))
        return pool[start : start + count]

    with ExitStack() as stack:
        sinks = [
            stack.enter_context(SafetensorsWriter(path, list(tensors.values()), {"format": "pt"}, overwrite=True))
            for path in (files[name] for name in NAMES)
        ]
        for meta in tensors.values():
            dtype = torch_dtype(meta.dtype)
            for start in range(0, meta.numel, CHUNK):
                count = min(CHUNK, meta.numel - start)
                if meta.dtype in FLOATS:
                    base = WEIGHT * normal(count)
                    values = [base, base + DELTA * normal(count), base + DELTA * normal(count)]
                else:
                    values = [torch.arange(start, start + count)] * 3
                for sink, value in zip(sinks, values, strict=True):
                    sink.write(meta.key, start, value.to(dtype))
        for sink in sinks:
            sink.commit()
