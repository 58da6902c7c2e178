"""What happens to each tensor of a merge, decided from headers alone: merged, copied or left out, and why.

Everything that headers can show to be wrong is found here, before any tensor data is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from .components import _Selective
from .dtypes import FLOATS
from .errors import PlanError
from .layout import Layout, LayoutSpec, detect
from .select import select
from .values import Gradient, Mask, Model

__all__ = ["Action", "Decision", "Other", "decide", "detect_layout", "tally"]


class Action(str, Enum):
    """What happens to one tensor of the anchor model."""

    MERGE = "merge"
    COPY = "copy"
    SKIP = "skip"


@dataclass(frozen=True)
class Decision:
    """What a view does with one tensor, and why."""

    action: Action
    reason: str = ""
    ratio: float = 0.0


@dataclass(frozen=True)
class Other:
    """A model port beside the anchor."""

    port: str
    model: Model
    keys: frozenset[str]


def tally(decisions: Mapping[str, Decision]) -> tuple[int, Counter[str], Counter[str]]:
    """Tensors merged; copied, by reason; left out, by reason."""
    by_action: dict[Action, Counter[str]] = {action: Counter() for action in Action}
    for one in decisions.values():
        by_action[one.action][one.reason] += 1
    return by_action[Action.MERGE].total(), by_action[Action.COPY], by_action[Action.SKIP]


def detect_layout(model: Model, extra: Sequence[LayoutSpec] = ()) -> Layout:
    """The architecture of a model, from names and shapes."""
    return detect({key: model.meta(key) for key in model.keys()}, extra)


def decide(
    component: _Selective,
    anchor: Model,
    others: Sequence[Other],
    layout: Layout,
    *,
    label: str,
    layouts: Sequence[LayoutSpec] = (),
) -> dict[str, Decision]:
    """What a merge or edit does with each tensor of its anchor model.

    Args:
        layout: the anchor's.
        label: the step's name, for messages.
        layouts: architectures that plugins know.

    Raises:
        PlanError: the models do not fit together, or nothing would change.
        SelectorError: ``include`` or ``exclude`` matches nothing.
    """
    keys = list(anchor.keys())
    if not keys:
        raise PlanError(f"step {label!r}: {component.anchor_field()} holds no tensors")
    policy = component.on_mismatch
    strict = policy in ("error", "common-rows")
    if strict:
        _check_architectures(component, layout, others, label, layouts)

    chosen = set(keys)
    if component.parts is not None:
        chosen = {key for key in chosen if layout.place(key).part in component.parts}
        if not chosen:
            found = sorted({layout.place(key).part for key in keys})
            raise PlanError(
                f"step {label!r}: parts {', '.join(component.parts)} hold no tensor of the model",
                hint=f"This {layout.arch} model has: {', '.join(found)}",
            )
    if component.include is not None:
        chosen &= set(select(keys, component.include, what="include"))
    if component.exclude is not None:
        chosen -= set(select(keys, component.exclude, what="exclude"))

    gradient, mask = component.gradient, component.mask
    base_ratio = component.ratio
    decisions: dict[str, Decision] = {}
    wrong: list[str] = []
    for key in keys:
        decision, problem = _decide_one(
            key,
            "not selected" if key not in chosen else component.leaves_alone(layout.place(key)),
            anchor,
            others,
            gradient=gradient,
            mask=mask,
            ratio=base_ratio,
            by_rows=policy == "common-rows",
        )
        if decision.action is Action.MERGE:
            try:
                component.check_ratio(decision.ratio)
            except ValueError as error:
                raise PlanError(
                    f"step {label!r}: the gradient's ratio for {key!r} is not possible: {error}",
                    hint="Change that value of the gradient.",
                ) from None
        if problem:
            wrong.append(problem)
            decision = Decision(Action.SKIP if policy == "skip" else Action.COPY, problem)
        decisions[key] = decision
    if wrong and strict:
        shown = "\n".join(f"  {line}" for line in wrong[:5])
        more = f"\n  … and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise PlanError(
            f"step {label!r}: {len(wrong)} of {len(keys)} tensors do not fit together:\n{shown}{more}",
            hint="Keep A's tensors there with --on-mismatch keep-a, leave them out with --on-mismatch skip, "
            "merge the rows they share with --on-mismatch common-rows, or limit the merge with --parts or --include.",
        )
    if not any(one.action is Action.MERGE for one in decisions.values()):
        reasons = sorted({one.reason for one in decisions.values()})
        if "ratio is 1" not in reasons:  # that is a choice, and the plan warns of it
            raise PlanError(
                f"step {label!r} would change nothing: " + "; ".join(reasons[:4]),
                hint=f"A has {len(keys)} tensors such as {keys[0]!r}. Check that the models are of one architecture "
                "and that parts, selectors, mask and gradient leave something to merge.",
            )
    return decisions


def _decide_one(
    key: str,
    left_out: str | None,
    anchor: Model,
    others: Sequence[Other],
    *,
    gradient: Gradient | None,
    mask: Mask | None,
    ratio: float,
    by_rows: bool,
) -> tuple[Decision, str | None]:
    """A decision for one tensor, and what is wrong with it, if anything.

    ``left_out``: why the step does not concern the tensor; None where it does. ``by_rows``: numbers of rows may differ.
    """
    meta = anchor.meta(key)
    if meta.dtype not in FLOATS:
        return Decision(Action.COPY, f"{meta.dtype} tensors pass through"), None
    if left_out is not None:
        return Decision(Action.COPY, left_out), None
    if gradient is not None:
        found = gradient.ratio(key)
        if found is None:
            return Decision(Action.COPY, "not in the gradient"), None
        ratio = found
    if ratio == 1.0:
        return Decision(Action.COPY, "ratio is 1"), None
    missing = [other.port for other in others if key not in other.keys]
    if missing and (len(missing) == len(others) or "base" not in missing):
        return Decision(Action.COPY, f"not in {', '.join(dict.fromkeys(missing))}"), None
    if missing:
        return Decision(Action.COPY), f"{key}: not in base"
    for other in others:
        theirs = other.model.meta(key)
        if theirs.shape != meta.shape and not (by_rows and _same_but_rows(meta.shape, theirs.shape)):
            return Decision(Action.COPY), f"{key}: {list(meta.shape)} here, {list(theirs.shape)} in {other.port}"
        if theirs.dtype not in FLOATS:
            return Decision(Action.COPY), f"{key}: {meta.dtype} here, {theirs.dtype} in {other.port}"
    if mask is not None:
        shape = mask.shape(key)
        if shape is None:
            return Decision(Action.COPY, "not in the mask"), None
        if tuple(shape) != meta.shape:
            return Decision(Action.COPY), f"{key}: {list(meta.shape)} here, {list(shape)} in the mask"
    return Decision(Action.MERGE, ratio=ratio), None


def _same_but_rows(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) >= 1 and one[1:] == other[1:]


def _check_architectures(
    component: _Selective, layout: Layout, others: Sequence[Other], label: str, layouts: Sequence[LayoutSpec]
) -> None:
    mine = layout.arch
    for other in others:
        theirs = detect_layout(other.model, layouts).arch
        if theirs != mine and "generic" not in (mine, theirs):
            raise PlanError(
                f"step {label!r}: {component.anchor_field()} is {mine} and {other.port} is {theirs}",
                hint="Models of different architectures do not merge. To merge only what fits, "
                "pass --on-mismatch keep-a.",
            )
