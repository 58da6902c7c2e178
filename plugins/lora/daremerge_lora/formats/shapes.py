"""The shape of the weight change that a module's tensors make, from their shapes alone.

LoRA: Hu et al., arXiv:2106.09685. LoHa: Hyeon-Woo et al., FedPara, arXiv:2108.06098. LoKr, and the Tucker form of
each for convolutions: Yeh et al., LyCORIS, arXiv:2309.14859.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..modules import Family

__all__ = ["complete", "factored_rank", "weight_shape"]

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Slot → shape of its tensor."""


def complete(family: Family, slots: frozenset[str]) -> bool:
    """Whether the slots of one module make a weight change: both factors, say."""
    if family == "lora":
        return {"up", "down"} <= slots
    if family == "loha":
        return {"w1_a", "w1_b", "w2_a", "w2_b"} <= slots and len({"t1", "t2"} & slots) in (0, 2)
    if family == "lokr":
        first, second = ("w1" in slots or {"w1_a", "w1_b"} <= slots), ("w2" in slots or {"w2_a", "w2_b"} <= slots)
        return first and second and ("t2" not in slots or "w2" not in slots)
    return bool({"diff", "diff_b"} & slots)


def factored_rank(family: Family, shapes: Shapes) -> int | None:
    """The rank that alpha is divided by: the inner dimension; None where nothing is factored.

    Raises ``ValueError`` for a factor without dimensions.
    """
    factor = _INNER.get(family)
    if family == "lokr":
        # Where both are factored they have the same rank, and the second decides, as in LyCORIS and ComfyUI.
        factor = "w2_b" if "w2" not in shapes else "w1_b" if "w1" not in shapes else None
    if factor is None:
        return None
    if not shapes[factor]:
        raise ValueError(f"{factor} has no dimensions")
    return shapes[factor][0]


_INNER: Mapping[Family, str] = {"lora": "down", "loha": "w1_b"}


def weight_shape(family: Family, shapes: Shapes) -> Shape:
    """Shape of the change; ``()`` for a module that changes a bias alone.

    ``(out, in)`` or ``(out, in, kh, kw)``; a convolution whose factors are matrices gives ``(out, in · kh · kw)``.
    Raises ``ValueError`` for tensors that do not fit together.
    """
    try:
        if family == "lora":
            return _lora(shapes)
        if family == "loha":
            first, second = (_product(shapes, f"{w}_a", f"{w}_b", t) for w, t in (("w1", "t1"), ("w2", "t2")))
            _agree(first == second, f"w1 {first} and w2 {second}")
            return first
        if family == "lokr":
            return _lokr(shapes)
        return shapes.get("diff", ())
    except IndexError:
        raise ValueError(f"too few dimensions: {dict(shapes)}") from None


def _agree(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"{what} do not fit together")


def _lora(shapes: Shapes) -> Shape:
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    _agree(all(size == 1 for size in up[2:]), f"up {up} with a kernel of its own")
    if mid is None:
        _agree(up[1] == down[0], f"up {up} and down {down}")
        return (up[0], *down[1:])
    _agree(up[1] == mid[0] and mid[1] == down[0] and all(size == 1 for size in down[2:]), f"up {up}, {mid}, {down}")
    return (up[0], down[1], *mid[2:])


def _product(shapes: Shapes, a: str, b: str, core: str) -> Shape:
    """``a @ b``, or with a Tucker core ``t``: ``t[i, j] · a[i, out] · b[j, in]`` for each place of the kernel."""
    left, right = shapes[a], shapes[b]
    if core not in shapes:
        _agree(left[1] == right[0] and len(left) == len(right) == 2, f"{a} {left} and {b} {right}")
        return (left[0], right[1])
    middle = shapes[core]
    _agree(middle[:2] == (left[0], right[0]), f"{core} {middle}, {a} {left} and {b} {right}")
    return (left[1], right[1], *middle[2:])


def _lokr(shapes: Shapes) -> Shape:
    first = shapes["w1"] if "w1" in shapes else _product(shapes, "w1_a", "w1_b", "")
    second = shapes["w2"] if "w2" in shapes else _product(shapes, "w2_a", "w2_b", "t2")
    _agree(len(first) >= 2 and len(second) >= 2, f"w1 {first} and w2 {second}")
    return (first[0] * second[0], first[1] * second[1], *second[2:])
