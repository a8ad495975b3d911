"""A metric's history with its levels, and where this run lies, as an SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from whet.report.charts import WIDTH
from whet.report.history_chart import ticks
from whet.report.rows import unit as time_unit

if TYPE_CHECKING:
    from whet.decide.gate.result import Trend

HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 200, 80, 14, 26, 10
STYLE = """
.dot { fill: var(--ours) } .dot.rejected { fill: none; stroke: var(--warn); stroke-width: 1.5 }
.level { stroke: var(--ink); stroke-width: 2; fill: none } .run { fill: var(--warn) }
"""


def trend(t: Trend, date: str, title: str) -> str:
    """Dots in order (not by date: what counts is which run came after which), the levels as lines, this run last."""
    scale, name = time_unit(max(abs(v) for v in (*(p.value for p in t.points), *t.values))) if t.unit == "s" \
        else (1.0, t.unit)
    earlier = [p.value * scale for p in t.points]
    now = [v * scale for v in t.values]
    every = [*earlier, *now]
    margin = (max(every) - min(every)) * 0.08 or abs(every[0]) * 0.1 or 1.0
    bottom, top = max(0.0, min(every) - margin), max(every) + margin
    count = len(earlier) + 1

    def x(i: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (i + 0.5) / count

    def y(v: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (v - bottom) / (top - bottom))

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
           'xmlns="http://www.w3.org/2000/svg">']
    for tick in ticks(bottom, top):
        out.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>'
                   f'<text class="tick" x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    out.append(f'<text class="tick" x="{LEFT - 6}" y="{HEIGHT - 6}" text-anchor="end">{escape(name)}</text>')
    for i, at in ((0, t.points[0].at), (count - 1, date)):
        out.append(f'<text class="tick" x="{x(i):.1f}" y="{HEIGHT - 6}" text-anchor="{"start" if not i else "end"}">'
                   f"{escape(at[:10])}</text>")
    for s in t.steps:
        out.append(f'<path class="level" d="M{x(s.start - 0.4):.1f} {y(s.level * scale):.1f}'
                   f'H{x(s.start + s.count - 0.6):.1f}"/>')
    for i, (p, v) in enumerate(zip(t.points, earlier)):
        out.append(f'<circle class="dot{" rejected" if p.rejected else ""}" cx="{x(i):.1f}" cy="{y(v):.1f}" r="2.5">'
                   f"<title>{escape(p.at[:16])}: {v:.5g} {escape(name)}</title></circle>")
    middle = float(np.median(now))
    out.append(f'<path class="reference" d="M{LEFT} {y(middle):.1f}H{WIDTH - RIGHT}"/>')
    out += [f'<circle class="run" cx="{x(count - 1):.1f}" cy="{y(v):.1f}" r="4"><title>{escape(date[:16])}: {v:.5g} '
            f"{escape(name)}</title></circle>" for v in now]
    return "".join(out) + "</svg>"
