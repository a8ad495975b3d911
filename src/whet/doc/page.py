"""A document as one HTML file: the flow is drawn as SVG, nothing is fetched, nothing runs."""

from __future__ import annotations

import re
from html import escape
from importlib import resources

from whet.doc.parts import Block, Command, Document, Flow, Items, Mono, Part, Table, Text
from whet.report.graph_layout import layout

CHARACTER, HIGH, MARGIN = 7.6, 46.0, 24.0  # of a node's text; its height
LINE = 58  # characters of a label that are drawn
_STYLE = """
.flow { max-width: 100% } .flow rect { fill: var(--card); stroke: var(--line); stroke-width: 1.4 }
.flow .data rect { stroke-dasharray: 5 4; fill: var(--paper) } .flow text { fill: var(--ink); text-anchor: middle }
.flow .note { fill: var(--soft); font-size: 11.5px } .flow path { fill: none; stroke: var(--soft); stroke-width: 1.4 }
pre { overflow-x: auto; padding: 12px 14px; background: var(--card); border: 1px solid var(--line); border-radius: 8px }
td { overflow-wrap: anywhere; max-width: 330px } td:first-child { overflow-wrap: normal }
"""


def html(document: Document) -> str:
    """The whole page."""
    style = resources.files("whet.report").joinpath("style.css").read_text("utf-8") + _STYLE
    body = "".join(_block(b) for b in document.blocks)
    return (f'<!doctype html>\n<html lang="{escape(document.lang)}"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">'
            f"<title>{escape(document.title)}</title><style>{style}</style></head><body><main>{body}</main></body>"
            "</html>\n")


def _block(block: Block) -> str:
    heading = f"<h{block.level}>{escape(block.heading)}</h{block.level}>"
    return f"<section>{heading}{''.join(_part(p, block.heading) for p in block.parts)}</section>"


def _part(part: Part, heading: str) -> str:
    match part:
        case Table(columns, rows):
            head = "".join(f'<th scope="col">{escape(c)}</th>' for c in columns)
            body = "".join(f"<tr>{''.join(f'<td>{_cell(c)}</td>' for c in r)}</tr>" for r in rows)
            return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        case Flow():
            return f"<figure>{svg(part, heading)}</figure>"
        case Text(text):
            return f"<p>{_code(text)}</p>"
        case Items(items):
            return f"<ul>{''.join(f'<li>{escape(i)}</li>' for i in items)}</ul>"
        case Command(text):
            return f"<pre><code>{escape(text)}</code></pre>"


def _cell(text: str) -> str:
    return f"<code>{escape(text)}</code>" if isinstance(text, Mono) and text else escape(text) or "&ndash;"


def _code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def svg(flow: Flow, name: str) -> str:
    """The flow, top to bottom; its description lists the stages in order for those who do not see it."""
    index = {n.ident: i for i, n in enumerate(flow.nodes)}
    texts = [(_cut(n.label), _cut(n.note)) for n in flow.nodes]
    widths = [max(90.0, CHARACTER * max(_wide(a), _wide(b)) + MARGIN) for a, b in texts]
    edges = [(index[a], index[b]) for a, b in flow.edges]
    drawn = layout(widths, edges, low=[i for i, n in enumerate(flow.nodes) if n.data and n.ident != "plan"])
    parts = []
    for (a, b), bends in zip(edges, drawn.bends):
        points = [(drawn.x[a], drawn.y[a] + HIGH / 2), *(bends or []), (drawn.x[b], drawn.y[b] - HIGH / 2 - 2)]
        parts.append('<path marker-end="url(#tip)" d="M' + " L".join(f"{x:.1f} {y:.1f}" for x, y in points) + '"/>')
    for n, (label, note), w, x, y in zip(flow.nodes, texts, widths, drawn.x, drawn.y):
        kind = "node data" if n.data else "node"
        up = -4 if note else 5
        small = f'<text class="note" x="{x:.1f}" y="{y + 14:.1f}">{escape(note)}</text>' if note else ""
        parts.append(f'<g class="{kind}"><rect x="{x - w / 2:.1f}" y="{y - HIGH / 2:.1f}" width="{w:.1f}" '
                     f'height="{HIGH}" rx="7"/><text x="{x:.1f}" y="{y + up:.1f}">{escape(label)}</text>{small}</g>')
    told = "; ".join(f"{n.label} {n.note}".strip() for n in flow.nodes)
    tip = ('<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
           '<path d="M0 0 L8 4 L0 8"/></marker>')
    width, height = drawn.width + 8, drawn.height + HIGH + 8
    return (f'<svg class="flow" role="img" aria-label="{escape(name)}" viewBox="-4 {-HIGH / 2 - 4:.0f} {width:.0f} '
            f'{height:.0f}" style="max-width:{width:.0f}px"><desc>{escape(told)}</desc><defs>{tip}</defs>'
            f"{''.join(parts)}</svg>")


def _cut(text: str) -> str:
    return text if len(text) <= LINE else text[:LINE - 1] + "…"


def _wide(text: str) -> float:
    """The width of a text in letters; those of Chinese count as two."""
    return sum(1.8 if ord(c) > 0x2E80 else 1.0 for c in text)
