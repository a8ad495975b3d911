"""Charts of trials as inline SVG: the loss beside its margin, and power by number of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABEL, ROW = 760, 200, 40
STYLE = (".span { stroke: var(--theirs); stroke-width: 3; fill: none } .span.decides { stroke: var(--ours); "
         "stroke-width: 6 } .at { fill: var(--ink) } .curve { fill: none; stroke: var(--ours); stroke-width: 2 }")


@dataclass(frozen=True)
class Span:
    """An interval of the loss; None where it is unbounded. `decides`: the bounds of the verdict."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    decides: bool


def losses(spans: Sequence[Span], margin: float, title: str, text: Callable[[float], str]) -> str:
    """Intervals in rows, zero as a line and the margin dashed; an open end runs to the edge."""
    ends = [x for s in spans for x in (s.value, s.low, s.high) if x is not None and math.isfinite(x)]
    if not ends:
        return ""
    low, high = min([*ends, 0.0, margin]), max([*ends, 0.0, margin])
    room = 0.08 * (high - low)
    low, high = low - room, high + room
    height = ROW * len(spans) + 48

    def x(value: float) -> float:
        return LABEL + (min(max(value, low), high) - low) / (high - low) * (WIDTH - LABEL - 24)

    out = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
           f'xmlns="http://www.w3.org/2000/svg"><path class="grid" d="M{x(0):.1f} 0V{height - 42}"/>'
           f'<text class="tick" x="{x(0):.1f}" y="{height - 26}" text-anchor="middle">0</text>'
           f'<path class="reference" d="M{x(margin):.1f} 0V{height - 42}"/>'
           f'<text class="tick" x="{x(margin):.1f}" y="{height - 8}" text-anchor="middle">{escape(text(margin))}'
           "</text>"]
    for i, s in enumerate(spans):
        y = i * ROW + 22
        a, b = x(low if s.low is None else s.low), x(high if s.high is None else s.high)
        told = ", ".join("?" if v is None else text(v) for v in (s.low, s.high))
        out.append(f'<text class="name" x="{LABEL - 12}" y="{y + 4}" text-anchor="end">{escape(s.label)}</text>'
                   f'<path class="span{" decides" if s.decides else ""}" d="M{a:.1f} {y}H{b:.1f}">'
                   f"<title>{escape(told)}</title></path>")
        if s.value is not None and math.isfinite(s.value):
            out.append(f'<circle class="at" cx="{x(s.value):.1f}" cy="{y}" r="4"/>')
    return "".join(out) + "</svg>"


def power(points: Sequence[tuple[int, float]], wanted: float, title: str, axis: str) -> str:
    """Power (0 to 1) against the number of samples, as a line; the wanted power dashed."""
    if len(points) < 2:
        return ""
    left, right, top, floor = 56, 40, 12, 232
    most = max(n for n, _ in points)

    def x(n: float) -> float:
        return left + n / most * (WIDTH - left - right)

    def y(p: float) -> float:
        return floor - p * (floor - top)

    out = [f'<svg viewBox="0 0 {WIDTH} {floor + 42}" role="img" aria-label="{escape(title)}" '
           'xmlns="http://www.w3.org/2000/svg">']
    for p in (0, 0.25, 0.5, 0.75, 1):
        out.append(f'<path class="grid" d="M{left} {y(p):.1f}H{WIDTH - right}"/><text class="tick" x="{left - 8}" '
                   f'y="{y(p) + 4:.1f}" text-anchor="end">{100 * p:g} %</text>')
    line = "L".join(f"{x(n):.1f} {y(p):.1f}" for n, p in points)
    out.append(f'<path class="reference" d="M{left} {y(wanted):.1f}H{WIDTH - right}"/>'
               f'<path class="curve" d="M{line}"/>')
    end = -1e9
    for n, p in points:
        out.append(f'<circle class="at" cx="{x(n):.1f}" cy="{y(p):.1f}" r="4"><title>{n:,}: {100 * p:.1f} %</title>'
                   "</circle>")
        if x(n) > end + 48:
            end = x(n)
            out.append(f'<text class="tick" x="{end:.1f}" y="{floor + 18}" text-anchor="middle">{n:,}</text>')
    out.append(f'<text class="tick" x="{WIDTH - right}" y="{floor + 36}" text-anchor="end">{escape(axis)}</text>')
    return "".join(out) + "</svg>"
