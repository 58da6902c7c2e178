"""JSON and YAML that no program writes: trees with duplicate names, raw tokens, and values out of all bounds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from random import Random
from typing import Any

__all__ = ["TEXTS", "Object", "Raw", "mutated", "spelt", "text", "tree"]


class Object(list[Any]):
    """A JSON object as ``[name, value]`` pairs, so that a name can come twice."""


class Raw(str):
    """Text that stands in the file as it is, whatever it is."""


SCRIPT = "<script>alert(1)</script>"

TEXTS: tuple[str, ...] = (
    "",
    "a",
    ".",
    "..",
    "../../escape",
    "/etc/passwd",
    "C:\\escape",
    "C:escape",
    "\\\\host\\share",
    "nul\0byte",
    "\x1b[31mred\x1b]0;owned\x07",
    "\x9b31m",
    "line\nbreak",
    "\r\x08\x7f",
    "\u202egnp.exe",
    "\u2028\u2029\ufeff",
    "\U000e0001",
    SCRIPT,
    "\"'><img src=x onerror=alert(1)>",
    "{}%s%n$\\frac{$",
    "[bold]x[/nope]",
    "__metadata__",
    "__class__",
    "名前" * 20,
    "a" * 999,
    "." * 999,
    "a" * 1001,
    ".lora_A." * 100,
    "blocks." + "9" * 990,
    "model.diffusion_model.input_blocks." + "1" * 400 + ".0.weight",
)

_TOKENS: tuple[str, ...] = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1e-999",
    "9" * 5000,
    "-0",
    "0.1",
    '"\\ud800"',
    '"\\u0000"',
    '"\\ud83d\\ude00"',
    "[" * 80 + "]" * 80,
    '{"a":' * 70 + "1" + "}" * 70,
    "[" * 3000,
    '{"a":' * 3000,
    "nul",
    "'a'",
    "// x\n1",
)

_NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 7, 8, 9, 63, 64, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63),
    0.0, -0.0, 0.5, 1.0, 1.5, -0.5, 1e-320, 1e308, True, False, None,
)  # fmt: skip


def text(rng: Random) -> str:
    """A text that may do harm where it is shown, opened or matched."""
    found = rng.choice(TEXTS)
    return found if rng.random() < 0.8 else found + rng.choice(TEXTS)[:400]


def value(rng: Random) -> Any:
    """A value that may stand anywhere, mostly where it does not belong."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(_NUMBERS)
    if kind < 0.6:
        return text(rng)
    if kind < 0.75:
        return Raw(rng.choice(_TOKENS))
    if kind < 0.85:
        return [rng.choice(_NUMBERS) for _ in range(rng.choice((0, 1, 2, 3, 65, 70)))]
    if kind < 0.95:
        return Object([[text(rng), rng.choice(_NUMBERS)] for _ in range(rng.randrange(3))])
    return rng.randrange(-(2**70), 2**70)


def tree(plain: Any) -> Any:
    """Plain data as a tree that can be mutated."""
    if isinstance(plain, dict):
        return Object([[name, tree(one)] for name, one in plain.items()])
    return [tree(one) for one in plain] if isinstance(plain, (list, tuple)) else plain


def _containers(node: Any) -> Iterable[list[Any]]:
    if isinstance(node, list):
        yield node
        for one in node:
            yield from _containers(one[1] if isinstance(node, Object) else one)


def mutated(rng: Random, node: Any, times: int | None = None) -> Any:
    """The tree, changed in place at some places (0 to 3); what comes back is its root, which may be another."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3)) if times is None else times):
        where = list(_containers(node))
        if not where or rng.random() < 0.02:
            node = value(rng)
            continue
        _change(rng, rng.choice(where))
    return node


def _change(rng: Random, at: list[Any]) -> None:
    named = isinstance(at, Object)
    kind = rng.randrange(7)
    if not at or kind == 0:
        at.insert(rng.randint(0, len(at)), [text(rng), value(rng)] if named else value(rng))
        return
    index = rng.randrange(len(at))
    if kind == 1:
        del at[index]
    elif kind == 2:
        at.append(list(at[index]) if named else at[index])
    elif kind == 3 and named:
        at[index][0] = text(rng)
    elif kind == 4:
        other = rng.randrange(len(at))
        if named:
            at[index][1], at[other][1] = at[other][1], at[index][1]
        else:
            at[index], at[other] = at[other], at[index]
    elif named:
        at[index][1] = value(rng) if kind == 5 else _nudged(rng, at[index][1])
    else:
        at[index] = value(rng) if kind == 5 else _nudged(rng, at[index])


def _nudged(rng: Random, found: Any) -> Any:
    """Something close: what passes a careless check."""
    if isinstance(found, bool) or not isinstance(found, (int, float, str)) or isinstance(found, Raw):
        return [found]
    if isinstance(found, str):
        return rng.choice((found + rng.choice(TEXTS)[:30], found[:-1], found.upper(), rng.choice(TEXTS)[:30] + found))
    return rng.choice((found + 1, found - 1, -found, float(found), str(found), found * 2**32))


def spelt(node: Any) -> str:
    """The tree as JSON, as far as it is JSON."""
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, Object):
        return "{" + ",".join(f"{json.dumps(name)}:{spelt(one)}" for name, one in node) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(spelt, node)) + "]"
    return json.dumps(node)
