"""The inputs of the old pack's nodes.

Saved workflows hold widget values by position: nothing here may be renamed, reordered or taken out. What is new comes
last and is optional.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..generated import KEEP
from ..widgets import GRADIENT, MASK

__all__ = [
    "BASE",
    "KEEP",
    "MODEL_MASK",
    "attention",
    "blocks",
    "choice",
    "dare",
    "gradient",
    "integer",
    "layers",
    "mask",
    "mbw",
    "method",
    "model",
    "number",
    "rate",
    "seed",
    "shells",
]

BLENDS = (
    "comfy",
    "lerp",
    "slerp",
    "slice",
    "cyclic",
    "gradient",
    "hslerp",
    "bislerp",
    "colorize",
    "cosine",
    "cubic",
    "scaled_add",
)

MODEL_MASK = MASK.Input(
    "model_mask",
    optional=True,
    tooltip="Only what this mask selects may change; without one, everything.",
)
BASE = io.Model.Input(
    "base",
    optional=True,
    tooltip="The model that B was tuned from. With it the changes are B − base, as in the DARE paper; without, B − A.",
)


def model(id: str, tooltip: str) -> io.Input:
    return io.Model.Input(id, tooltip=tooltip)


def mask(id: str, tooltip: str) -> io.Input:
    return MASK.Input(id, tooltip=tooltip)


def gradient(id: str, tooltip: str) -> io.Input:
    return GRADIENT.Input(id, tooltip=tooltip)


def rate(id: str, default: float, tooltip: str) -> io.Input:
    """A number from 0 to 1."""
    return number(id, default, 0.0, 1.0, tooltip)


def number(id: str, default: float, low: float, high: float, tooltip: str) -> io.Input:
    return io.Float.Input(id, default=default, min=low, max=high, step=0.01, tooltip=tooltip)


def integer(id: str, default: int, low: int, high: int, tooltip: str, *, step: int | None = None) -> io.Input:
    return io.Int.Input(id, default=default, min=low, max=high, step=step, tooltip=tooltip)


def choice(id: str, options: Sequence[str], default: str | None, tooltip: str) -> io.Input:
    return io.Combo.Input(id, options=list(options), default=default, tooltip=tooltip)


def seed() -> io.Input:
    return integer("seed", 1, 0, 99999999999, "Chooses the random numbers; the same seed gives the same result.")


def method(options: Sequence[str] = BLENDS, default: str | None = "comfy") -> io.Input:
    return choice(
        "method",
        options,
        default,
        "How the two are blended at a layer's ratio. comfy and lerp: in a straight line; slerp: along an arc; the "
        "others have pages of their own.",
    )


def layers(**extra: Any) -> io.Input:
    return io.String.Input(
        "layers",
        multiline=True,
        tooltip="Which layers: names or wildcards such as *.attn2.*, with {0-3} and {a,b}, by comma or by line.",
        **extra,
    )


def blocks(*, rest: str = "1 keeps A, 0 takes B.") -> list[io.Input]:
    return [
        rate("time", 1.0, f"Ratio of the time embedding. {rest}"),
        rate("label", 1.0, f"Ratio of the label embedding, which SDXL has. {rest}"),
        rate("input", 1.0, f"Ratio of the input blocks. {rest}"),
        rate("middle", 1.0, f"Ratio of the middle block. {rest}"),
        rate("output", 1.0, f"Ratio of the output blocks. {rest}"),
        rate("out", 1.0, f"Ratio of the last convolution. {rest}"),
    ]


def mbw() -> list[io.Input]:
    named = [*(f"input_blocks.{i}" for i in range(12)), *(f"middle_block.{i}" for i in range(3))]
    named += [f"output_blocks.{i}" for i in range(12)]
    return [
        rate("time", 1.0, "Ratio of the time embedding. 1 keeps A, 0 takes B."),
        rate("label", 1.0, "Ratio of the label embedding, which SDXL has. 1 keeps A, 0 takes B."),
        *(rate(name, 0.0, f"Ratio of {name}; unused where the model has no such block.") for name in named),
        rate("out", 0.0, "Ratio of the last convolution. 1 keeps A, 0 takes B."),
    ]


def shells() -> list[io.Input]:
    return [
        rate("exterior", 1.0, "Ratio of the outer third of the blocks (SD1.5: in 0–3, out 8–11)."),
        rate("interior", 1.0, "Ratio of the third between (SD1.5: in 4–7, out 4–7)."),
        rate("core", 1.0, "Ratio of the inner third, with the middle block (SD1.5: in 8–11, out 0–3)."),
    ]


def attention() -> list[io.Input]:
    def flag(id: str, what: str) -> io.Input:
        return io.Boolean.Input(id, default=True, tooltip=f"Whether {what} get a ratio; if not, they are left alone.")

    return [
        flag("process_norm", "the normalisations of transformer blocks"),
        flag("process_attn", "the attention layers"),
        flag("process_ff_net", "the feed-forward layers"),
        rate("norm", 1.0, "Ratio of the normalisations. 1 keeps A, 0 takes B."),
        rate("attn", 1.0, "Ratio of the attention layers. 1 keeps A, 0 takes B."),
        rate("ff_net", 1.0, "Ratio of the feed-forward layers. 1 keeps A, 0 takes B."),
    ]


def dare() -> list[io.Input]:
    """What all DARE nodes have, in their order."""
    return [
        rate("drop_rate", 0.9, "Share of the changes that is dropped at random."),
        ties(),
        rescale(),
        seed(),
        method(),
        iterations(),
    ]


def ties() -> io.Input:
    return choice(
        "ties",
        ("sum", "count", "off"),
        "sum",
        "Keep only changes in the direction that wins in a layer: by their sum, by their number, or keep both.",
    )


def rescale() -> io.Input:
    return choice(
        "rescale",
        ("off", "on"),
        "off",
        "Divide what is kept by 1 − drop rate, as the paper does. Off loses most of what B learned.",
    )


def iterations() -> io.Input:
    return integer("iterations", 1, 1, 100, "Average this many independent random choices.", step=1)
