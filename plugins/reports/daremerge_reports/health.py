"""Whether a model is sound."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from daremerge_core import ModelRef, Report, Reporter
from daremerge_core.dtypes import BYTES, FLOATS
from daremerge_core.layout import PARTS
from daremerge_core.sizes import format_size

from .coverage import copies, coverage
from .findings import SEVERITIES, Finding, by_severity
from .order import Block, by_block, by_part
from .statistics import together
from .words import how_many, words, words_of_shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from daremerge_core import Layout, Model, Survey, TensorMeta

    from .kernels import Health

__all__ = ["HealthReport"]

WIDE = frozenset({"F64", "F32", "BF16"})
"""Dtypes with more range than float16."""
PEAK = 100.0
"""A magnitude is extreme at so many times the root mean square of its tensor: of n numbers from a normal distribution
none reaches √(2 ln n), which is 6 for a hundred million."""
SCALE = 100.0
"""A tensor is out of scale when its root mean square is so many times the median of its peers."""
PEERS = 5
"""Fewer tensors than this say nothing of each other's scale."""
VANISHING = 0.01
"""Share of a tensor's weights that may become zero in float16 before it is told."""


class HealthReport(Reporter):
    """Looks a model over: NaN and infinity, dead weights, extreme values, dtypes, missing tensors.

    Reads the file once. An error is what keeps the model from working: NaN, infinity, tensors missing in a block. A
    warning is to be looked at: weights all zero, rows of zeros, magnitudes 100 times those around them, weights that
    float16 cannot hold, missing blocks. Notes are good to know: zero and constant vectors, mixed dtypes, EMA copies.
    """

    name: ClassVar[str] = "health"

    model: ModelRef = Field(description="The model.")
    limit: int = Field(100, ge=1, le=100_000, description="Rows of the table of findings; the data has all of them.")

    def report(self, survey: Survey) -> Report:
        from .kernels import examine

        model: Model = self.model
        layout = survey.layout(model)
        metas = {key: model.meta(key) for key in model.keys()}
        keys = [key for key, meta in metas.items() if meta.dtype in FLOATS]
        found = survey.each(
            keys,
            [model],
            lambda key, blocks: examine(blocks, _row(metas[key]), wide=metas[key].dtype in WIDE),
            what="examining the model",
        )
        health = dict(zip(keys, found, strict=True))
        findings = sorted([*whole_model(layout, metas), *tensors(layout, metas, health)], key=by_severity)
        blocks = by_block(layout, keys)
        whole = together(one.statistics for one in health.values())
        return Report(
            title=f"Health: {_verdict(findings)}",
            text=_text(layout, metas, findings, self.limit),
            rows=[_table_row(layout, finding) for finding in findings[: self.limit]],
            data={
                "architecture": layout.arch,
                "verdict": _verdict(findings),
                "counts": {severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES},
                "elements": whole.count,
                "nan": whole.nans,
                "infinite": whole.infinities,
                "zeros": whole.zeros,
                "dtypes": _dtypes(metas.values()),
                "findings": [finding.as_data() for finding in findings],
            },
            figures={
                "Standard deviation and largest magnitude of each block's weights, with what was found": partial(
                    _draw, layout, blocks, health, findings
                )
            }
            if whole.finite
            else {},
        )


def _row(meta: TensorMeta) -> int:
    """Elements of a row of a matrix or convolution; 0 for what has no rows."""
    return math.prod(meta.shape[1:]) if len(meta.shape) >= 2 else 0


# --- findings -------------------------------------------------------------------------------------------


def whole_model(layout: Layout, metas: Mapping[str, TensorMeta]) -> list[Finding]:
    """What the headers show."""
    if not metas:
        return [Finding("error", "empty", "the file holds no tensors")]
    found = [*coverage(layout, metas), *copies(metas)]
    dtypes = _dtypes(meta for meta in metas.values() if meta.dtype in FLOATS)
    if len(dtypes) > 1:
        shares = ", ".join(f"{how_many(count)} in {dtype}" for dtype, count in dtypes.items())
        found.append(Finding("note", "mixed dtypes", shares))
    return found


def tensors(layout: Layout, metas: Mapping[str, TensorMeta], health: Mapping[str, Health]) -> list[Finding]:
    """What the weights show, in the order of the file."""
    usual = _usual_sizes(layout, metas, health)
    return [
        finding
        for key, found in health.items()
        for finding in (
            *_broken(key, found),
            *_dead(metas[key], found),
            *_extreme(key, found, usual.get(_peers(layout, metas[key]))),
            *_in_half(key, found),
        )
    ]


def _broken(key: str, found: Health) -> list[Finding]:
    counts = {"NaN": found.statistics.nans, "infinite": found.statistics.infinities}
    return [
        Finding("error", what, f"{_share(count, found.statistics.count)} of its elements", key, count)
        for what, count in counts.items()
        if count
    ]


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.3g} %"


def _dead(meta: TensorMeta, found: Health) -> list[Finding]:
    statistics = found.statistics
    if not statistics.count:
        return []
    matrix = len(meta.shape) >= 2
    if statistics.zeros == statistics.count:
        detail = f"{words_of_shape(meta.shape)}, {meta.dtype}"
        return [Finding("warning" if matrix else "note", "all zeros", detail, meta.key)]
    if statistics.count > 1 and statistics.finite == statistics.count and statistics.low == statistics.high:
        detail = f"{words_of_shape(meta.shape)}, every element is {statistics.low:.4g}"
        return [Finding("warning" if matrix else "note", "constant", detail, meta.key)]
    if found.dead_rows:
        detail = f"{_share(found.dead_rows, meta.shape[0])} of its {meta.shape[0]:,} rows are all zeros"
        return [Finding("warning", "dead rows", detail, meta.key, found.dead_rows)]
    return []


def _extreme(key: str, found: Health, usual: float | None) -> list[Finding]:
    rms, largest = found.statistics.rms, found.statistics.largest
    if not rms or not largest:
        return []
    if usual and rms > SCALE * usual:
        detail = f"root mean square {rms:.4g}, {rms / usual:,.0f} times the median of its peers"
        return [Finding("warning", "out of scale", detail, key)]
    if largest > PEAK * rms:
        detail = f"largest magnitude {largest:.4g}, {largest / rms:,.0f} times the root mean square"
        return [Finding("warning", "extreme value", detail, key)]
    return []


def _in_half(key: str, found: Health) -> list[Finding]:
    """What saving the tensor as float16 would do to it."""
    counts = found.statistics
    findings = []
    if found.over:
        detail = f"beyond 65504: infinite in fp16 (largest magnitude {counts.largest:.4g})"
        findings.append(Finding("warning", "overflows fp16", detail, key, found.over))
    if found.under > VANISHING * counts.count:
        detail = f"{_share(found.under, counts.count)} of its elements are smaller than 3e-8: zero in fp16"
        findings.append(Finding("note", "vanishes in fp16", detail, key, found.under))
    return findings


_Peers = tuple[str, str, bool, str]


def _peers(layout: Layout, meta: TensorMeta) -> _Peers:
    """Tensors whose weights are of about one size: of one part and role, both matrices or not, weights or biases."""
    place = layout.place(meta.key)
    return place.part, place.role, len(meta.shape) >= 2, meta.key.rpartition(".")[2]


def _usual_sizes(layout: Layout, metas: Mapping[str, TensorMeta], health: Mapping[str, Health]) -> dict[_Peers, float]:
    sizes: dict[_Peers, list[float]] = {}
    for key, found in health.items():
        if found.statistics.rms:
            sizes.setdefault(_peers(layout, metas[key]), []).append(found.statistics.rms)
    return {peers: median(found) for peers, found in sizes.items() if len(found) >= PEERS}


def _dtypes(metas: Any) -> dict[str, int]:
    return dict(Counter(meta.dtype for meta in metas).most_common())


# --- words ----------------------------------------------------------------------------------------------


def _verdict(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.severity for finding in findings)
    said = [
        f"{counts[severity]:,} {severity}{'s' if counts[severity] > 1 else ''}"
        for severity in SEVERITIES
        if counts[severity]
    ]
    if not counts["error"] and not counts["warning"]:
        return "healthy" if not said else f"healthy, {said[0]}"
    return ", ".join(said)


def _text(layout: Layout, metas: Mapping[str, TensorMeta], findings: Sequence[Finding], limit: int) -> str:
    parts = Counter(layout.place(key).part for key in metas)
    size = sum(BYTES[meta.dtype] * meta.numel for meta in metas.values())
    held = ", ".join(f"{part} ({how_many(parts[part])})" for part in PARTS if part in parts)
    paragraphs = [
        f"Architecture {layout.arch}, {format_size(size)}. It holds: {held or 'nothing'}.",
    ]
    for severity, meaning in SEVERITIES.items():
        kinds: dict[str, list[Finding]] = {}
        for finding in findings:
            if finding.severity == severity:
                kinds.setdefault(finding.what, []).append(finding)
        if kinds:
            lines = [f"{severity.capitalize()}s ({meaning}):", *(_kind(what, of) for what, of in kinds.items())]
            paragraphs.append("\n".join(lines))
    if not any(finding.severity != "note" for finding in findings):
        paragraphs.insert(0, "Nothing wrong was found: all weights are finite, none is dead, out of scale or missing.")
    if len(findings) > limit:
        paragraphs.append(f"The table shows {limit:,} of {len(findings):,} findings; --limit shows more.")
    return "\n\n".join(paragraphs)


def _kind(what: str, findings: Sequence[Finding]) -> str:
    keys = [finding.key for finding in findings if finding.key is not None]
    if len(findings) == 1:
        return f"  {what}: {keys[0] + ': ' if keys else ''}{findings[0].detail}"
    if not keys:
        return f"  {what}: {'; '.join(finding.detail for finding in findings[:3])}" + (
            f"; and {len(findings) - 3} more" if len(findings) > 3 else ""
        )
    return f"  {what}: {len(keys):,} tensors, {words(keys, limit=1)}"


def _table_row(layout: Layout, finding: Finding) -> dict[str, Any]:
    place = layout.place(finding.key) if finding.key else None
    return {
        "severity": finding.severity,
        "finding": finding.what,
        "tensor": finding.key,
        "block": place.block if place else None,
        "count": finding.count,
        "detail": finding.detail,
    }


# --- picture --------------------------------------------------------------------------------------------

_COLOURS = {"error": "#d62728", "warning": "#ff9f1c", "note": "0.6"}


def _draw(
    layout: Layout, blocks: Mapping[Block, Sequence[str]], health: Mapping[str, Health], findings: Sequence[Finding]
) -> Figure:
    """Each block's standard deviation and largest magnitude on a logarithmic scale; marks above where something is."""
    from matplotlib.lines import Line2D

    from .charts import panels

    parts = by_part({block: together(health[key].statistics for key in keys) for block, keys in blocks.items()})
    sizes = [size for found in parts.values() for one in found.values() for size in (one.std, one.largest) if size]
    low, high = min(sizes, default=0.1) / 2, max(sizes, default=1.0) * 2
    marks: dict[Block, list[Finding]] = {}
    for finding in findings:
        if finding.key is not None:
            place = layout.place(finding.key)
            marks.setdefault(Block(place.part, place.block or "-"), []).append(finding)

    def draw(axes: Axes, part: str, names: Sequence[str]) -> None:
        for at, name in enumerate(names):
            found = parts[part][name]
            largest = found.largest
            if largest:
                axes.plot([at, at], [found.std or largest, largest], color="C0", alpha=0.4, linewidth=2)
                axes.plot(at, largest, "_", color="C0", markersize=9, markeredgewidth=2)
            if found.std:
                axes.plot(at, found.std, "o", color="C0", markersize=5)
            severities = {finding.severity for finding in marks.get(Block(part, name), ())}
            worst = next((severity for severity in SEVERITIES if severity in severities), None)
            if worst:
                axes.axvspan(at - 0.45, at + 0.45, color=_COLOURS[worst], alpha=0.25, linewidth=0)
                axes.plot(
                    at, 0.93, "v", color=_COLOURS[worst], markersize=7, transform=axes.get_xaxis_transform(), zorder=3
                )
        axes.set_yscale("log")
        axes.set_ylim(low, high * (high / low) ** 0.15)
        axes.set_ylabel("|weight|")
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    figure = panels({part: list(found) for part, found in parts.items()}, draw)
    handles = [
        Line2D([], [], linestyle="", marker="_", color="C0", markeredgewidth=2, markersize=9, label="largest"),
        Line2D([], [], linestyle="", marker="o", color="C0", markersize=5, label="standard deviation"),
        *(
            Line2D([], [], linestyle="", marker="v", color=_COLOURS[severity], markersize=7, label=severity)
            for severity in SEVERITIES
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure
