"""Merge block weighted: a ratio for each block, by names, by a list of values, or by a preset."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from pydantic import Field, field_validator

from daremerge_core import Layout, Place

from .block_names import BASE, BlockNames, Dialect, Unit, name_blocks, summary
from .options import NeedsAny
from .presets import PRESETS, canonical_preset, preset_of_base

__all__ = ["MbwGradient"]


class MbwGradient(NeedsAny):
    """A ratio for each block (merge block weighted), with the names, lists and presets of other tools.

    Later ones win: the rest, the preset, the weights, then the blocks in their order. All numbers are ratios, 1 keeps
    A; with ``share_of_b`` they are shares of B, as supermerger and sd-mecha count them (ratio = 1 − number). A preset
    is what it is there, whichever way the numbers are counted.
    """

    name = "mbw"
    any_of = ("blocks", "weights", "preset", "rest")
    blocks: dict[str, float] = Field(
        {},
        description="Ratios by block: input_blocks.1, input_blocks.{0-3}, middle_block, clip_l.layers.0, "
        "or IN00, M00, OUT11, BASE.",
    )
    weights: str | None = Field(
        None,
        description="A value for each block in forward order (SD1.5 25, SDXL 19), with commas or blanks between; "
        "one for BASE may come first.",
    )
    preset: str | None = Field(
        None, description="A preset of supermerger, e.g. GRAD_V, WRAP12, SMOOTHSTEP, COSINE.", examples=sorted(PRESETS)
    )
    rest: float | None = Field(None, description="Ratio of all that is given no other; not given: left alone.")
    dialect: Dialect = Field(
        "supermerger",
        description="Where time_embed and label_emb belong: IN00 (supermerger) or BASE (sd-mecha); "
        "and the autoencoder: BASE, or nowhere.",
    )
    share_of_b: bool = Field(
        False, description="The numbers given are shares of B, as in supermerger and sd-mecha, not ratios."
    )

    @field_validator("weights")
    @classmethod
    def _are_numbers(cls, weights: str | None) -> str | None:
        if weights is not None:
            _numbers(weights)
        return weights

    @field_validator("preset")
    @classmethod
    def _is_known(cls, preset: str | None) -> str | None:
        return None if preset is None else canonical_preset(preset)

    def for_layout(self, layout: Layout) -> Callable[[Place], float | None]:
        names = name_blocks(layout, self.dialect)
        ratios: dict[Unit, float] = {}
        if self.preset is not None:
            share = PRESETS[self.preset]
            positions = _positions(names, "preset")
            last = max(len(positions) - 1, 1)
            ratios |= dict.fromkeys(names.base, 1.0 - preset_of_base(self.preset))
            for index, units in enumerate(positions):
                ratios |= dict.fromkeys(units, 1.0 - share(index / last))
        if self.weights is not None:
            for units, value in self._by_weights(names):
                ratios |= dict.fromkeys(units, self._ratio_of(value))
        for text, value in self.blocks.items():
            ratios |= dict.fromkeys(names.find(text), self._ratio_of(value))
        rest = None if self.rest is None else self._ratio_of(self.rest)
        return lambda place: ratios.get((place.part, place.block), rest)

    def _ratio_of(self, number: float) -> float:
        return 1.0 - number if self.share_of_b else number

    def _by_weights(self, names: BlockNames) -> Iterable[tuple[frozenset[Unit], float]]:
        positions = _positions(names, "weights")
        values = _numbers(self.weights or "")
        if len(values) == len(positions) + 1:
            positions = [names.base, *positions]
        if len(values) != len(positions):
            raise ValueError(
                f"weights has {len(values)} values, and this {names.arch} model has {len(positions)} blocks: "
                f"{summary(names.positions)} (one more, for {BASE}, may come first)"
                + self._for_another_unet(names, values)
            )
        return zip(positions, values, strict=True)

    def _for_another_unet(self, names: BlockNames, values: Sequence[float]) -> str:
        """What a list for SD1.5 would be on SDXL, or the reverse; empty where the values are neither."""
        wanted = len(names.positions)
        if not names.spelled or len(values) not in (19, 20, 25, 26) or wanted not in (19, 25):
            return ""
        base = list(values[: 1 - len(values) % 2])
        arms = values[len(base) :]
        middle = len(arms) // 2
        keep_a = 0.0 if self.share_of_b else 1.0

        def fitted(arm: Sequence[float]) -> list[float]:
            return [*arm, *[keep_a] * wanted][: wanted // 2]

        converted = [*base, *fitted(arms[:middle]), arms[middle], *fitted(arms[middle + 1 :])]
        text = ",".join(f"{value:g}" for value in converted)
        if wanted == 19:
            return f". For SDXL, without IN09–11 and OUT09–11, the list is {text}"
        return f". For this model, with {keep_a:g} (A) for IN09–11 and OUT09–11, the list is {text}"


def _positions(names: BlockNames, option: str) -> list[frozenset[Unit]]:
    if not names.positions:
        raise ValueError(
            f"{option} needs blocks in a known order, and this {names.arch} model has none: "
            "name its blocks instead, under blocks or with gradient.pattern"
        )
    return list(names.positions.values())


def _numbers(text: str) -> list[float]:
    numbers = []
    for index, word in enumerate(filter(None, re.split(r"[\s,;]+", text.strip())), start=1):
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"value {index} of weights, {word!r}, is not a number: write 0.5, with commas between")
        numbers.append(number)
    if not numbers:
        raise ValueError("weights is empty: write a value for each block, with commas between")
    return numbers
