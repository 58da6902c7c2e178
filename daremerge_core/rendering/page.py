"""A report as one web page that needs nothing beside itself: no script, no font, no picture from anywhere else."""

from __future__ import annotations

import json
from base64 import b64encode
from html import escape

from ..values import Report
from .text import cell, columns, is_number, paragraphs

__all__ = ["to_page"]

LONG_TABLE = 40
"""Rows; a longer table is folded away."""

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --line: #d0d7de; --soft: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --line: #3d444d; --soft: #161b22; } }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
p { overflow-wrap: anywhere; }
p span { display: block; }
p .in { padding-left: 2.5rem; text-indent: -1.5rem; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; }
figcaption { font-weight: 600; margin-bottom: .5rem; overflow-wrap: anywhere; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { position: sticky; top: 0; background: var(--soft); }
td { overflow-wrap: anywhere; min-width: 4.5rem; }
.number { text-align: right; white-space: nowrap; min-width: 0; }
summary { cursor: pointer; margin: 1rem 0; }
"""


def to_page(report: Report) -> str:
    """HTML with the text, the pictures for light and dark screens, the table, and the data as JSON in it."""
    from . import to_json

    title = escape(report.title)
    body = [f"<h1>{title}</h1>", *map(_paragraph, paragraphs(report))]
    if report.figures:
        from .pictures import draw

        for caption, figure in report.figures.items():
            light, dark = (b64encode(draw(figure, theme)).decode() for theme in ("light", "dark"))
            body.append(
                f"<figure><figcaption>{escape(caption)}</figcaption><picture>"
                f'<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
                f'<img alt="{escape(caption, quote=True)}" src="data:image/png;base64,{light}">'
                "</picture></figure>"
            )
    if report.rows:
        body.append(_table(report))
    data = json.dumps(json.loads(to_json(report))["data"], ensure_ascii=True).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body>",
            *body,
            f'<script type="application/json" id="data">{data}</script>',
            "</body></html>\n",
        ]
    )


def _paragraph(text: str) -> str:
    """A line each; one that is set in hangs by its first words."""
    lines = (
        f'<span class="{"in" if line.startswith(" ") else ""}">{escape(line)}</span>' for line in text.splitlines()
    )
    return f"<p>{''.join(lines)}</p>".replace(' class=""', "")


def _cell(value: object) -> str:
    """A name breaks at its dots where it must."""
    shown = escape(cell(value))
    return shown.replace(".", ".<wbr>") if isinstance(value, str) else shown


def _table(report: Report) -> str:
    names = columns(report)
    classes = {name: ' class="number"' if is_number(report, name) else "" for name in names}
    head = "".join(f"<th{classes[name]}>{escape(name)}</th>" for name in names)
    lines = (
        "<tr>" + "".join(f"<td{classes[name]}>{_cell(row.get(name))}</td>" for name in names) + "</tr>"
        for row in report.rows
    )
    table = (
        f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>\n'
        + "\n".join(lines)
        + "</tbody></table></div>"
    )
    if len(report.rows) <= LONG_TABLE:
        return table
    return f"<details><summary>The table: {len(report.rows)} rows</summary>{table}</details>"
