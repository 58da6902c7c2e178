"""The presets of merge block weighted, as curves over a model's blocks.

Each curve maps a block's position, from 0 at the first (IN00) over 1/2 (M00) to 1 at the last (OUT11), to the *share
of B*, as supermerger's list of presets does: at i/24 it has the values of that list. A model with another number of
blocks takes the curve at its own positions; where a curve jumps, each block takes the value of the nearest of the 25.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from daremerge_core.errors import nearest

__all__ = ["PRESETS", "canonical_preset", "preset_of_base"]

Curve = Callable[[float], float]


def _flat(value: float) -> Curve:
    return lambda x: value


def _ranges(*ranges: tuple[int, int], value: float = 1.0) -> Curve:
    """``value`` on these ranges of the 25 blocks, both ends included; 0 elsewhere."""
    return lambda x: value if any(first <= math.floor(24.0 * x + 0.5) <= last for first, last in ranges) else 0.0


def _ramp(x: float) -> float:
    """From 0 up to 1 in the middle, and down again; repeated beyond 0 to 1."""
    return 1.0 - abs(1.0 - 2.0 * x % 2.0)


def _smoothstep(x: float) -> float:
    return min(x * x * (3.0 - 2.0 * x), 1.0)


def _waves(n: int) -> Curve:
    """Smoothstep, n times as high, folded back into 0 to 1."""
    return lambda x: _ramp(n * _smoothstep(x) / 2.0)


def _steps(n: int) -> Curve:
    """n smoothsteps, up and down in turn."""
    return lambda x: _smoothstep(_ramp(n * x / 2.0))


def _soft_rings(x: float) -> float:
    """Around blocks 7 and 17, which are IN07 and OUT04: 1 as far as a block away, 1/2 at two, 0 at three."""
    away = min(abs(24.0 * x - 7.0), abs(24.0 * x - 17.0))
    return min(max((3.0 - away) / 2.0, 0.0), 1.0)


def _cosine(x: float) -> float:
    return (1.0 + math.cos(math.pi * x)) / 2.0


def _true_hermite(x: float) -> float:
    """A cubic through 1/24 at x = 0, where the list has 0 all the same."""
    return 0.0 if 24.0 * x < 0.5 else (((154.0 * x - 231.0) * x + 100.0) * x + 1.0) / 24.0


def _fake_hermite(x: float) -> float:
    return ((38.0 * x - 57.0) * x + 25.0) * x / 6.0


def _reverse(curve: Curve) -> Curve:
    return lambda x: 1.0 - curve(x)


PRESETS: Mapping[str, Curve] = MappingProxyType(
    {
        "GRAD_V": _reverse(_ramp),
        "GRAD_A": _ramp,
        "FLAT_25": _flat(0.25),
        "FLAT_75": _flat(0.75),
        "WRAP08": _ranges((0, 3), (21, 24)),
        "WRAP12": _ranges((0, 5), (19, 24)),
        "WRAP14": _ranges((0, 6), (18, 24)),
        "WRAP16": _ranges((0, 7), (17, 24)),
        "MID12_50": _ranges((5, 18), value=0.5),
        "OUT07": _ranges((18, 24)),
        "OUT12": _ranges((13, 24)),
        "OUT12_5": lambda x: 0.5 if math.floor(24.0 * x + 0.5) == 12 else _ranges((13, 24))(x),
        "RING08_SOFT": _soft_rings,
        "RING08_5": _ranges((6, 9), (15, 18)),
        "RING10_5": _ranges((5, 9), (15, 19)),
        "RING10_3": _ranges((6, 10), (14, 18)),
        "SMOOTHSTEP": _smoothstep,
        "REVERSE_SMOOTHSTEP": _reverse(_smoothstep),
        **{f"SMOOTHSTEP*{n}": _waves(n) for n in (2, 3, 4)},
        **{f"R_SMOOTHSTEP*{n}": _reverse(_waves(n)) for n in (2, 3, 4)},
        **{f"SMOOTHSTEP/{n}": _steps(n) for n in (2, 3, 4)},
        **{f"R_SMOOTHSTEP/{n}": _reverse(_steps(n)) for n in (2, 3, 4)},
        "COSINE": _cosine,
        "REVERSE_COSINE": _reverse(_cosine),
        "TRUE_CUBIC_HERMITE": _true_hermite,
        "TRUE_REVERSE_CUBIC_HERMITE": _reverse(_true_hermite),
        "FAKE_CUBIC_HERMITE": _fake_hermite,
        "FAKE_REVERSE_CUBIC_HERMITE": _reverse(_fake_hermite),
        "ALL_A": _flat(0.0),
        "ALL_B": _flat(1.0),
    }
)
"""Name → share of B by position."""

_ALSO: Mapping[str, str] = MappingProxyType(
    {
        "R_SMOOTHSTEP": "REVERSE_SMOOTHSTEP",
        "R_COSINE": "REVERSE_COSINE",
        **{f"{n}{r}SMOOTHSTEP": f"{r}SMOOTHSTEP*{n}" for n in (2, 3, 4) for r in ("", "R_")},
        **{
            f"{word}_{r}SMOOTHSTEP": f"{r}SMOOTHSTEP/{n}"
            for n, word in ((2, "HALF"), (3, "ONE_THIRD"), (4, "ONE_FOURTH"))
            for r in ("", "R_")
        },
    }
)
"""Other spellings of the same presets, most of them sd-meh's."""


def canonical_preset(name: str) -> str:
    """The name in :data:`PRESETS`, from any spelling: letters of any case, ``-`` for ``_``, sd-meh's names.

    Raises ``ValueError`` with the nearest names for one that there is not.
    """
    word = name.strip().upper().replace("-", "_")
    word = _ALSO.get(word, word)
    if word not in PRESETS:
        raise ValueError(
            f"there is no preset {name!r}.{nearest(word, (*PRESETS, *_ALSO))} The presets are {', '.join(PRESETS)}"
        )
    return word


def preset_of_base(name: str) -> float:
    """The share of B that a preset gives BASE: nothing, but for ALL_B."""
    return 1.0 if name == "ALL_B" else 0.0
