"""Which tensors a model lacks, and which it should not have, from its headers.

Two rules. Where the architecture's published checkpoint is known, the parts that the file has are compared with it, by
canonical names and shapes. For every other architecture the file is compared with itself: numbered blocks without a
gap, and modules of one kind with the same parameters. The second rule cannot see what all siblings lack.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby

from daremerge_core import Layout, Place, TensorMeta
from daremerge_core.dtypes import FLOATS
from daremerge_core.layout import GENERIC, detect
from daremerge_core.layout.generic import QUANTISATION
from daremerge_core.layout.published import published

from .findings import Finding
from .words import how_many, words, words_of_shape

__all__ = ["copies", "coverage"]

OPTIONAL = frozenset({"guidance_in"})
"""Blocks that some models of an architecture go without: Flux schnell is not distilled for guidance."""
MANY = 20
"""So many tensors of other shapes are another size of the architecture."""

_EMA = ("model_ema.", "ema.", "ema_model.")
_NUMBER = re.compile(r"(?<=\.)[0-9]+(?=\.|\Z)")


def coverage(layout: Layout, metas: Mapping[str, TensorMeta]) -> list[Finding]:
    """What is missing or has another shape."""
    metas = {key: meta for key, meta in metas.items() if not key.startswith(_EMA)}
    known = published(layout.arch)
    if known is not None:
        return _against(layout, metas, known)
    found = [*_gaps(metas), *_odd_modules(metas)]
    if layout.arch == GENERIC:
        found.append(Finding("note", "unknown architecture", "no layout describes these tensors"))
    return found


def copies(metas: Mapping[str, TensorMeta]) -> list[Finding]:
    """Averaged weights beside the model's own, which few programs read."""
    ema = [key for key in metas if key.startswith(_EMA)]
    if not ema:
        return []
    size = sum(metas[key].numel for key in ema)
    detail = f"{how_many(len(ema))} with {size:,} parameters, such as {ema[0]}: most programs do not read them"
    return [Finding("note", "EMA copies", detail, count=len(ema))]


# --- against the published checkpoint -------------------------------------------------------------------


def _against(layout: Layout, metas: Mapping[str, TensorMeta], known: Mapping[str, TensorMeta]) -> list[Finding]:
    """Towers of which the file has less than half are held to be left out on purpose: a U-Net alone is no fault."""
    reference = detect(known)
    places = {reference.place(key).name: reference.place(key) for key in known}
    theirs = {reference.place(key).name: meta for key, meta in known.items()}
    mine = {layout.place(key).name: meta for key, meta in metas.items()}
    total, there = (Counter(_tower(places[name]) for name in names) for names in (theirs, theirs.keys() & mine.keys()))
    compared = [
        name
        for name, meta in theirs.items()
        if meta.dtype in FLOATS
        and places[name].block
        and there[_tower(places[name])] * 2 >= total[_tower(places[name])]
    ]
    found = _missing([places[name] for name in compared], mine.keys())
    other = [name for name in compared if name in mine and mine[name].shape != theirs[name].shape]
    if len(other) > MANY:
        detail = f"{len(other):,} of {len(compared):,} tensors have other shapes than in the published {layout.arch}"
        found.append(Finding("note", "another size", detail, count=len(other)))
    else:
        found += [
            Finding("note", "another shape", _shapes(mine[name], theirs[name], layout.arch), key=mine[name].key)
            for name in other
        ]
    more = [meta.key for name, meta in mine.items() if name not in theirs and layout.place(meta.key).role != "scale"]
    if more:
        detail = f"{how_many(len(more))} that the published {layout.arch} does not have, such as {more[0]}"
        found.append(Finding("note", "more tensors", detail, count=len(more)))
    return found


def _missing(compared: Sequence[Place], there: Collection[str]) -> list[Finding]:
    blocks: dict[tuple[str, str], list[Place]] = {}
    for place in compared:
        blocks.setdefault((place.part, place.block or ""), []).append(place)
    found = []
    for (part, block), places in blocks.items():
        missing = [place.key for place in places if place.name not in there]
        if len(missing) < len(places):
            found += [Finding("error", "missing", f"the rest of {block} is there", key=key) for key in missing]
        elif missing and block not in OPTIONAL:
            detail = f"{block} of the {part} is not there: {how_many(len(missing))}, such as {missing[0]}"
            found.append(Finding("warning", "missing block", detail, count=len(missing)))
    return found


def _tower(place: Place) -> str:
    """What is there as a whole or not at all: ``clip_l`` for ``clip_l.layers.3``, else the part."""
    return (place.block or "").partition(".")[0] if place.part == "clip" else place.part


def _shapes(mine: TensorMeta, theirs: TensorMeta, arch: str) -> str:
    return f"{words_of_shape(mine.shape)}; in the published {arch} it is {words_of_shape(theirs.shape)}"


# --- against itself ---------------------------------------------------------------------------------------


def _gaps(metas: Iterable[str]) -> list[Finding]:
    """Numbers left out of a run of blocks: modules under one name, each with modules in it."""
    runs: dict[str, set[int]] = {}
    for key in metas:
        for match in _NUMBER.finditer(key):
            if key.count(".", match.end()) >= 2:  # a module in it, and a parameter of that
                runs.setdefault(key[: match.start()], set()).add(int(match[0]))
    found = []
    for prefix, numbers in runs.items():
        if len(numbers) < 3 or max(numbers) > 4 * len(numbers):
            continue
        gaps = [str(number) for number in range(max(numbers)) if number not in numbers]
        if gaps:
            detail = f"{prefix}{{{','.join(gaps)}}}: of the numbers 0 to {max(numbers)} these are not there"
            found.append(Finding("warning", "missing block", detail, count=len(gaps)))
    return found


def _odd_modules(metas: Iterable[str]) -> list[Finding]:
    """Parameters that a module lacks and its siblings, the modules whose names differ in numbers only, have."""
    modules: dict[str, set[str]] = {}
    for key in metas:
        parent, _, leaf = key.rpartition(".")
        if leaf not in QUANTISATION:
            modules.setdefault(parent, set()).add(leaf)
    found = []
    kinds = sorted(modules, key=_kind)
    for _, group in groupby(kinds, key=_kind):
        siblings = list(group)
        counts = Counter(leaf for module in siblings for leaf in modules[module])
        usual = {leaf for leaf, count in counts.items() if 4 * count > 3 * len(siblings)}
        for module in siblings:
            for leaf in sorted(usual - modules[module]):
                others = words([one for one in siblings if leaf in modules[one]], limit=1)
                found.append(Finding("warning", "missing", f"{others} have one", key=f"{module}.{leaf}"))
    return found


def _kind(module: str) -> str:
    return _NUMBER.sub("#", f".{module}")
