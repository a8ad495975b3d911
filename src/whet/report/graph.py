"""The graph of a model or plan as one HTML file: zoomable, searchable, coloured by time, without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Any

from whet.report import rows
from whet.report.graph_layout import layout

WIDTH, SMALL = 232.0, 132.0  # of a node, and of a view, input or output
CHARACTERS, FEW = 30, 17  # that fit into these


@dataclass(frozen=True)
class Node:
    """A box: `kind` decides its look (`input`, `output`, `view`, `host`, `control`, else a kernel); `details` are
    (label, text) for people; `seconds` and `fraction` (of the limit) colour it."""

    name: str
    kind: str
    label: str = ""
    seconds: float | None = None
    fraction: float | None = None
    precision: str = ""
    details: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Picture:
    """What is drawn. Edges (from, to, value) point from lower to higher indices of `nodes`."""

    title: str
    nodes: Sequence[Node]
    edges: Sequence[tuple[int, int, str]]
    facts: Sequence[tuple[str, str]] = ()
    basis: str = ""  # of the seconds: measured, tuned, estimated
    note: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def page(picture: Picture) -> str:
    """The whole file. Scripts, styles and data are inside, and its content security policy allows nothing else."""
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v).replace(chr(10), '<br>')}</dd>" for k, v in picture.facts)
    note = f'<p class="note">{escape(picture.note)}</p>' if picture.note else ""
    parts = {"title": escape(picture.title), "style": _resource("graph.css"), "script": _resource("graph.js"),
             "facts": facts, "note": note, "data": _embed(data(picture))}
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], _resource("graph.html"))


def data(picture: Picture) -> dict[str, Any]:
    """What the page draws: nodes with places, edges with points."""
    nodes, edges = picture.nodes, picture.edges
    widths = [_width(n) for n in nodes]
    drawing = layout(widths, [(a, b) for a, b, _ in edges],
                     low=[i for i, n in enumerate(nodes) if n.kind == "input"])
    total = sum(n.seconds or 0.0 for n in nodes)
    return {
        "title": picture.title, "basis": picture.basis, "total": total,
        "width": drawing.width, "height": drawing.height,
        "nodes": [_node(n, w, x, y, total) for n, w, x, y in zip(nodes, widths, drawing.x, drawing.y)],
        "edges": [[a, b, name, None if bends is None else [[round(x), round(y)] for x, y in bends]]
                  for (a, b, name), bends in zip(edges, drawing.bends)],
        **picture.extra,
    }


def _small(n: Node) -> bool:
    return n.kind in ("input", "output", "view")


def _width(n: Node) -> float:
    return SMALL if _small(n) else WIDTH


def _node(n: Node, width: float, x: float, y: float, total: float) -> dict[str, Any]:
    out: dict[str, Any] = {"n": n.name, "k": n.kind, "x": round(x, 1), "y": round(y, 1), "w": width,
                           "l": shorten(n.label or n.name, FEW if _small(n) else CHARACTERS)}
    if n.seconds is not None:
        out |= {"s": n.seconds, "t": rows.seconds(n.seconds), "p": n.seconds / total if total else 0.0}
    if n.fraction is not None:
        out["f"] = round(n.fraction, 4)
    if n.precision:
        out["c"] = n.precision
    out["d"] = [[k, v] for k, v in n.details if v]
    return out


def shorten(text: str, most: int) -> str:
    """The text with its middle left out where it is too long: both ends of a node's name tell something."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head):]}"


def _embed(value: Any) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").replace(
        "\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _resource(name: str) -> str:
    return resources.files("whet.report").joinpath(name).read_text("utf-8")
