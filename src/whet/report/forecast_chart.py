"""The fan chart of a forecast as inline SVG: what was measured, and bands of what may come."""

from __future__ import annotations

import math
from datetime import date
from html import escape
from typing import TYPE_CHECKING

from whet.report.charts import WIDTH
from whet.report.history_chart import ticks
from whet.report.rows import unit as time_unit

if TYPE_CHECKING:
    from whet.decide.forecast.result import Milestone

HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 300, 70, 16, 30, 12
STYLE = """
.line { fill: none; stroke: var(--ours); stroke-width: 1.5 } .dot { fill: var(--ours) }
.band { fill: var(--ours); fill-opacity: .16; stroke: none } .middle { fill: none; stroke: var(--ours); stroke-width: 2;
 stroke-dasharray: 2 3 }
.limit { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 1 4 } .now { stroke: var(--soft); stroke-width: 1 }
"""


def fan(m: Milestone, title: str) -> str:
    """The SVG of a milestone with dates; nothing for one without. Times in the unit that suits them."""
    if m.fan is None or not m.history:
        return ""
    scale, unit = time_unit(max(abs(p.value) for p in m.history)) if m.unit == "s" else (1.0, m.unit)
    first, now, last = (_day(d) for d in (m.history[0].date, m.fan.dates[0], m.fan.dates[-1]))
    first = max(first, now - 2 * max(1, last - now))  # of a long history its last part, so that the fan can be seen
    shown = [p for p in m.history if _day(p.date) >= first]
    rows = [[v * scale for v in row] for row in m.fan.values]
    marks = [v * scale for v in (m.target, m.limit) if v is not None and math.isfinite(v)]
    ends = [*(p.value * scale for p in shown), *rows[1], *rows[-2], *marks]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    bottom, top = (max(0.0, low - room) if low >= 0 else low - room), high + room
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(day: int) -> float:
        return LEFT + wide * (day - first) / max(1, last - first)

    def y(value: float) -> float:
        return TOP + tall * (1 - (min(max(value, bottom), top) - bottom) / (top - bottom))

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
           'xmlns="http://www.w3.org/2000/svg">']
    for tick in ticks(bottom, top):
        out.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/><text class="tick" x="{LEFT - 6}" '
                   f'y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    out.append(f'<text class="tick" x="{LEFT - 6}" y="{HEIGHT - 8}" text-anchor="end">{escape(unit)}</text>')
    for i in range(5):
        day = round(first + (last - first) * i / 4)
        anchor = ("start", "middle", "middle", "middle", "end")[i]
        out.append(f'<text class="tick" x="{x(day):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">'
                   f"{date.fromordinal(day)}</text>")
    days = [_day(d) for d in m.fan.dates]
    count = len(rows)
    for i in range(count // 2):
        upper = " ".join(f"{x(d):.1f},{y(v):.1f}" for d, v in zip(days, rows[count - 1 - i]))
        lower = " ".join(f"{x(d):.1f},{y(v):.1f}" for d, v in zip(reversed(days), reversed(rows[i])))
        share = round(100 * (m.fan.levels[count - 1 - i] - m.fan.levels[i]))
        out.append(f'<polygon class="band" points="{upper} {lower}"><title>{share} %</title></polygon>')
    out.append('<path class="middle" d="M' + "L".join(f"{x(d):.1f} {y(v):.1f}" for d, v in zip(days, rows[count // 2]))
               + '"/>')
    places = [(x(_day(p.date)), y(p.value * scale)) for p in shown]
    out.append('<path class="line" d="M' + "L".join(f"{a:.1f} {b:.1f}" for a, b in places) + '"/>')
    for p, (a, b) in zip(shown, places):
        out.append(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="2"><title>{escape(p.date)}: '
                   f"{p.value * scale:.5g} {escape(unit)}</title></circle>")
    out.append(f'<path class="now" d="M{x(now):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    for value, kind in ((m.target, "reference"), (m.limit, "limit")):
        if value is not None and bottom <= value * scale <= top:
            at = y(value * scale)
            out.append(f'<path class="{kind}" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
                       f'<text class="tick" x="{LEFT + 4}" y="{at - 4:.1f}">{value * scale:.4g} {escape(unit)}</text>')
    return "".join(out) + "</svg>"


def _day(text: str) -> int:
    return date.fromisoformat(text).toordinal()
