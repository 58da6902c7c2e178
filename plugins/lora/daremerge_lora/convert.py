"""One format of LoRA into another: which tensor comes from which, planned from headers, made when read.

Modules are renamed. Where one format has a fused weight and the other its parts (Flux's and SD3's queries, keys and
values), modules are split, which copies ``down`` and cuts ``up`` into rows, or fused, which stacks the ``down`` of the
parts and sets their ``up`` along a diagonal. Both are exact; a fused module has the sum of the parts' ranks.

kohya's and ComfyUI's files hold alpha. diffusers reads none for most models, so the scale is multiplied into the
factors: into both of them, by a power of two into ``down``, so that float16 keeps its range. A scale that is a power of
two changes no digit, but of float16's smallest numbers. Where ranks differ, PEFT's configuration is written too, since
older versions of diffusers would else divide the rank of the first module by that of each; it says alpha = rank, and
ComfyUI ignores it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple

from daremerge_core.errors import PlanError
from daremerge_core.values import TensorMeta

from .assembled import AssembledModel, Assembly, Block
from .formats import LoraFile, Writable, tensor_name
from .modules import Family, Module
from .scales import balanced
from .targets import Architecture, architecture_of
from .targets.tables import Entry

__all__ = ["Conversion", "converted", "plan_conversion", "scales_of"]


@dataclass(frozen=True)
class Conversion:
    """What a file becomes in another format. Every module is in ``tensors``, perhaps as a part, or in ``refused``."""

    tensors: Mapping[str, Assembly]
    metadata: Mapping[str, str]
    refused: Mapping[str, str]
    """Module's name → why the format cannot hold it."""


def converted(lora: LoraFile, format: Writable, *, allow: bool = False) -> AssembledModel:
    """The file in another format, as a lazy model.

    Raises :class:`~daremerge_core.errors.PlanError` listing what the format cannot hold; with ``allow``, that is left
    out.
    """
    plan = plan_conversion(lora, format)
    left = {**plan.refused, **dict.fromkeys(lora.unknown, "it belongs to no module that is understood")}
    if left and not allow:
        shown = [f"  {name}: {reason}" for name, reason in list(left.items())[:_SHOWN]]
        more = [f"  … and {len(left) - _SHOWN} more"] if len(left) > _SHOWN else []
        raise PlanError(
            "\n".join([f"{lora.name}: {len(left)} modules or tensors cannot be written as {format}:", *shown, *more]),
            hint="The formats comfy and kohya hold every kind of module. To leave these out, pass --allow-unmatched.",
        )
    return AssembledModel(lora.model, plan.tensors, plan.metadata)


_SHOWN = 10


def plan_conversion(lora: LoraFile, format: Writable) -> Conversion:
    """Plan from headers; alpha tensors are read where a scale must be multiplied into factors.

    Raises :class:`~daremerge_core.errors.PlanError` for a LoRA of no known architecture.
    """
    architecture = architecture_of(lora)
    if architecture is None:
        raise PlanError(
            f"{lora.name}: none of its modules is of an architecture whose names are known.",
            hint="`daremerge lora info` shows what the file holds.",
        )
    writer = _Writer(lora, format)
    refused: dict[str, str] = {}
    for name, sources in _placed(lora, format, architecture, refused).items():
        if reason := writer.write(name, sources):
            refused |= dict.fromkeys((one.module.name for one in sources), reason)
    metadata = _metadata(lora, format, writer)
    return Conversion(MappingProxyType(writer.tensors), MappingProxyType(metadata), MappingProxyType(refused))


class _Refused(Exception):
    """A module that the format cannot hold; its text says why."""


@dataclass(frozen=True)
class _Source:
    """A module, or some of its rows, as a module of the new file takes it."""

    module: Module
    rows: tuple[int, int, int] | None = None
    """``(start, stop, of)``, as :attr:`Entry.part`: the rows that are cut out of it."""
    part: tuple[int, int, int] | None = None
    """The rows that it becomes of a fused module."""
    swaps: bool = False
    """Whether its halves change places, if it has two rows for each column."""


def _placed(
    lora: LoraFile, format: Writable, architecture: Architecture, refused: dict[str, str]
) -> dict[str, list[_Source]]:
    """New module's name → what it is made of: one module, a part of one, or the parts of a fused one."""
    placed: dict[str, list[_Source]] = {}
    for module in lora.modules.values():
        located = architecture.find(module.name)
        if located is None:
            refused[module.name] = f"{architecture.title} has no layer of this name"
            continue
        part, found = located
        network = architecture.networks[part]
        native = format in network.native
        cut = found.native and not native
        for entry in found.entries if cut else found.entries[:1]:
            name = network.name(format, entry)
            placed.setdefault(name, []).append(_source(module, entry, native=native, was_native=found.native))
    return placed


def _source(module: Module, entry: Entry, *, native: bool, was_native: bool) -> _Source:
    if native == was_native:
        return _Source(module)
    return _Source(module, rows=None if native else entry.part, part=entry.part if native else None, swaps=entry.swaps)


class _View(NamedTuple):
    """A module's tensor as a matrix: of ``up``, and of all else that goes by the weight's rows, a row for each."""

    key: str
    rows: int
    columns: int

    def block(self, rows: tuple[int, int] | None = None, at: tuple[int, int] = (0, 0), factor: float = 1.0) -> Block:
        return Block(self.key, self.columns, rows or (0, self.rows), at, factor)


@dataclass
class _Writer:
    """Lays out the tensors of the new file, module by module. :meth:`write` writes all of a module or nothing."""

    lora: LoraFile
    format: Writable
    tensors: dict[str, Assembly] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    """New module's name → its rank, where the scale is in the factors."""
    changed: bool = False
    """Whether any rank or alpha is not what it was."""

    def write(self, name: str, sources: list[_Source]) -> str:
        """Answers why the format cannot hold it; empty if it can."""
        parts = [source.part for source in sources if source.part is not None]
        if len(sources) > 1 and len(set(parts)) < len(sources):
            return "several modules of the file change the same layer"
        try:
            if parts:
                made = self._fused(name, [source.module for source in sources], parts)
            else:
                made = self._single(name, sources[0])
        except _Refused as reason:
            return str(reason)
        self.tensors.update((assembly.meta.key, assembly) for assembly in made)
        return ""

    def _single(self, name: str, source: _Source) -> list[Assembly]:
        """One module, or some of its rows, as one module."""
        module, fold = source.module, self.format == "diffusers"
        missing = {"mid", "diff_b"} & module.tensors.keys()
        if fold and (module.family != "lora" or missing):
            raise _Refused(f"diffusers has no {module.family} modules" + (f" with {min(missing)}" if missing else ""))
        swaps = source.swaps and self._is_two_to_one(module)
        if (swaps or source.rows) and module.family not in ("lora", "full"):
            raise _Refused(f"its rows would have to be cut or change places, which {module.family} modules cannot")
        rank = self.lora.rank(module)
        factors = dict(zip(("up", "down"), balanced(self.lora.scale(module)), strict=True)) if fold else {}
        made = []
        for slot in module.tensors:
            if fold and slot == "alpha":
                continue
            view = self._view(module, slot, exact=bool(fold or swaps or source.rows))
            by_row, factor = slot in _BY_ROW, factors.get(slot, 1.0)
            rows = _rows_of(source.rows if by_row else None, view.rows)
            blocks = [view.block(rows, factor=factor)]
            if swaps and by_row:
                middle = sum(rows) // 2
                blocks = [
                    view.block((middle, rows[1]), factor=factor),
                    view.block((rows[0], middle), (rows[1] - middle, 0), factor),
                ]
            shape = self._shape(module, slot, view, rows[1] - rows[0])
            made.append(self._made(tensor_name(self.format, name, slot, module.family), shape, view.columns, blocks))
        if fold:
            assert rank is not None, "plain LoRA has a rank"
            self.ranks[name] = rank
            self.changed |= "alpha" in module.tensors
        elif rank is not None and "alpha" not in module.tensors:
            made.append(self._alpha(name, module.family, self.lora.scale(module) * rank))
        return made

    def _fused(self, name: str, modules: list[Module], parts: list[tuple[int, int, int]]) -> list[Assembly]:
        """Parts of a weight as one module: their ``up`` along a diagonal, their ``down`` one below the other."""
        self._check_fusable(modules, parts)
        total = self._rows_in_all(modules, parts)
        scales = [self.lora.scale(module) for module in modules]
        same = len(set(scales)) == 1
        blocks: dict[str, list[Block]] = {"up": [], "down": [], "dora_scale": []}
        columns = {"up": 0, "down": self.lora.shape(modules[0])[1], "dora_scale": 1}
        for module, (start, _, of), scale in zip(modules, parts, scales, strict=True):
            by_up, by_down = (1.0, 1.0) if same else balanced(scale)
            row, rank = total // of * start, columns["up"]
            blocks["up"].append(self._view(module, "up").block(at=(row, rank), factor=by_up))
            blocks["down"].append(self._view(module, "down").block(at=(rank, 0), factor=by_down))
            if module.is_dora:
                blocks["dora_scale"].append(self._view(module, "dora_scale", exact=True).block(at=(row, 0)))
            columns["up"] += self._view(module, "down").rows
        rows = {"up": total, "down": columns["up"], "dora_scale": total}
        self.changed = True
        return [
            *(
                self._made(tensor_name(self.format, name, slot), (rows[slot], columns[slot]), columns[slot], found)
                for slot, found in blocks.items()
                if found
            ),
            self._alpha(name, "lora", (scales[0] if same else 1.0) * columns["up"]),
        ]

    def _check_fusable(self, modules: list[Module], parts: list[tuple[int, int, int]]) -> None:
        plain = all(module.tensors.keys() <= {"up", "down", "alpha", "dora_scale"} for module in modules)
        if not plain or any(module.family != "lora" for module in modules):
            raise _Refused("its rows are a part of a fused weight, and only plain LoRA can be fused")
        whole = sum(stop - start for start, stop, _ in parts) == parts[0][2]
        if any(module.is_dora for module in modules) and not (whole and all(module.is_dora for module in modules)):
            raise _Refused("its rows are a part of a fused weight, and not all of the parts are DoRA")

    def _rows_in_all(self, modules: list[Module], parts: list[tuple[int, int, int]]) -> int:
        """The rows of the fused weight: its parts must agree on them."""
        shapes = [self.lora.shape(module) for module in modules]
        totals = {Fraction(shape[0] * of, stop - start) for shape, (start, stop, of) in zip(shapes, parts, strict=True)}
        total = min(totals)
        if len(totals) > 1 or total % parts[0][2] or any(len(one) != 2 or one[1] != shapes[0][1] for one in shapes):
            raise _Refused(f"its rows are a part of a fused weight, and the parts do not fit together: {shapes}")
        return int(total)

    # --- tensors ---------------------------------------------------------------------------------------

    def _is_two_to_one(self, module: Module) -> bool:
        shape = self.lora.shape(module)
        return len(shape) == 2 and shape[0] == 2 * shape[1]

    def _view(self, module: Module, slot: str, *, exact: bool = False) -> _View:
        """``exact`` refuses magnitudes that do not go by row, as of LyCORIS's ``wd_on_out = False``."""
        key = module.tensors[slot]
        shape = self.lora.model.meta(key).shape
        if slot != "dora_scale":
            return _View(key, shape[0] if shape else 1, math.prod(shape[1:]))
        if self._is_by_row(module):
            return _View(key, math.prod(shape), 1)
        if exact:
            raise _Refused("its DoRA magnitudes do not go by row")
        return _View(key, 1, math.prod(shape))

    def _is_by_row(self, module: Module) -> bool:
        """PEFT's magnitudes always do: ``(out,)``, of a convolution ``(1, out, 1, 1)``; of LyCORIS's, ``(out, 1)``."""
        key = module.tensors["dora_scale"]
        shape = self.lora.model.meta(key).shape
        rows = self.lora.shape(module)[0]
        return math.prod(shape) == rows and ("magnitude_vector" in key or shape[:1] == (rows,))

    def _shape(self, module: Module, slot: str, view: _View, rows: int) -> tuple[int, ...]:
        """The shape of a slot's tensor in the new file, with so many rows."""
        shape = self.lora.model.meta(view.key).shape
        if slot != "dora_scale":
            return (rows, *shape[1:]) if shape else ()
        if not self._is_by_row(module):
            return shape
        kernel = tuple(1 for _ in self.lora.shape(module)[2:])
        if self.format == "diffusers":
            return (1, rows, *kernel) if kernel else (rows,)
        return (rows, 1, *kernel)

    def _made(self, key: str, shape: tuple[int, ...], columns: int, blocks: list[Block]) -> Assembly:
        found = {self.lora.model.meta(block.source).dtype for block in blocks}
        return Assembly(TensorMeta(key, found.pop() if len(found) == 1 else "F32", shape), columns, tuple(blocks))

    def _alpha(self, name: str, family: Family, value: float) -> Assembly:
        return Assembly(TensorMeta(tensor_name(self.format, name, "alpha", family), "F32", ()), value=value)


_BY_ROW = frozenset({"up", "diff", "diff_b", "dora_scale"})
"""The slots that go by the weight's rows."""


def _rows_of(part: tuple[int, int, int] | None, total: int) -> tuple[int, int]:
    if part is None:
        return (0, total)
    start, stop, of = part
    if total % of:
        raise _Refused(f"its {total} rows cannot be cut into {of}")
    return (total // of * start, total // of * stop)


# --- metadata --------------------------------------------------------------------------------------------

_UNTRUE = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "modelspec.implementation")
"""What holds for the bytes, or the names, of one file alone."""
_RANKS = ("ss_network_dim", "ss_network_alpha")
_CONFIGURATIONS = ("lora_adapter_metadata", "adapter_config")


def _metadata(lora: LoraFile, format: Writable, writer: _Writer) -> dict[str, str]:
    dropped = {*_UNTRUE, *_CONFIGURATIONS, *(_RANKS if writer.changed else ())}
    kept = {name: text for name, text in lora.model.metadata.items() if name not in dropped}
    return kept | (scales_of(writer.ranks, writer.tensors) if format == "diffusers" else {})


def scales_of(ranks: Mapping[str, int], tensors: Iterable[str]) -> dict[str, str]:
    """The metadata of a file in diffusers' format whose scales are all 1, where its modules differ in rank.

    PEFT's configuration of each component that they differ in: alpha = rank for every one of its modules.

    Args:
        ranks: module's name → its rank.
        tensors: the names of the file's tensors.
    """
    by_component: dict[str, dict[str, int]] = {}
    for name, rank in ranks.items():
        component, _, layer = name.partition(".")
        by_component.setdefault(component, {})[layer] = rank
    magnitudes = {key.partition(".")[0] for key in tensors if key.endswith("magnitude_vector")}
    flat: dict[str, object] = {}
    for component, layers in by_component.items():
        counts = Counter(layers.values())
        if len(counts) == 1:
            continue
        most = counts.most_common(1)[0][0]
        others = {layer: rank for layer, rank in layers.items() if rank != most}
        fields: dict[str, object] = {"r": most, "lora_alpha": most, "rank_pattern": others, "alpha_pattern": others}
        fields |= {"target_modules": list(layers), "use_dora": component in magnitudes}
        flat |= {f"{component}.{name}": value for name, value in fields.items()}
    return {"lora_adapter_metadata": json.dumps(flat, separators=(",", ":"))} if flat else {}
