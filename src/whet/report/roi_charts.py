"""Charts of a return: the tornado, the cash flow with its fan, P99 against cost. Inline SVG, colours by CSS classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH = 760
SERIES = 6


def money(value: float) -> str:
    """`12.3k`, `1.5M`: for axes."""
    size = abs(value)
    for scale, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= scale:
            return f"{value / scale:.3g}{name}"
    return f"{value:.3g}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values within the ends."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * m for m in (1, 2, 2.5, 5, 10, 20) if (high - low) / (step * m) <= most)
    return [float(k) * step for k in np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Bar:
    """A figure of the tornado: what it is called, its ends as text, and the NPV at each."""

    label: str
    low: str
    high: str
    at_low: float
    at_high: float


def tornado(bars: Sequence[Bar], base: float, title: str) -> str:
    """Bars around the value as given, the widest first; grey is the low end of a figure's range, green the high one."""
    ends = [x for b in bars for x in (b.at_low, b.at_high)] + [base]
    room = 0.12 * (max(ends) - min(ends) or abs(base) or 1.0)
    low, high = min(ends) - room, max(ends) + room
    left, right, row = 190, 24, 40
    height = row * len(bars) + 40

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - left - right)

    out = [_open(height, title)]
    for tick in ticks(low, high):
        out.append(f'<path class="grid" d="M{x(tick):.1f} 0V{height - 30}"/><text class="tick" x="{x(tick):.1f}" '
                   f'y="{height - 14}" text-anchor="middle">{money(tick)}</text>')
    for i, b in enumerate(bars):
        y = i * row + 6
        out.append(f'<text class="name" x="{left - 10}" y="{y + 18}" text-anchor="end">{escape(b.label)}</text>')
        for kind, value, text in (("low", b.at_low, b.low), ("high", b.at_high, b.high)):
            a, z = sorted((x(base), x(value)))
            out.append(f'<rect class="{kind}" x="{a:.1f}" y="{y}" width="{max(1.0, z - a):.1f}" height="26" rx="2">'
                       f"<title>{escape(b.label)} {escape(text)}: {value:,.0f}</title></rect>")
            side = value < base if value != base else kind == "low"
            out.append(f'<text class="end" x="{x(value) + (-6 if side else 6):.1f}" y="{y + 17}" '
                       f'text-anchor="{"end" if side else "start"}">{escape(text)}</text>')
    out.append(f'<path class="reference" d="M{x(base):.1f} 0V{height - 30}"/>')
    return "".join(out) + "</svg>"


def cash(totals: Sequence[float], fan: Sequence[Sequence[float]], title: str, months: str) -> str:
    """Money by the end of each month: the line as given, bands of the draws (percentiles 5, 25, 50, 75, 95)."""
    every = [*totals, *(v for row in fan for v in row), 0.0]
    room = 0.06 * (max(every) - min(every) or 1.0)
    low, high = min(every) - room, max(every) + room
    left, right, top, height = 70, 20, 10, 330
    floor, last = height - 40, len(totals) - 1

    def x(month: float) -> float:
        return left + month / last * (WIDTH - left - right)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (floor - top)

    out = [_open(height, title)]
    for tick in ticks(low, high):
        out.append(f'<path class="grid" d="M{left} {y(tick):.1f}H{WIDTH - right}"/><text class="tick" x="{left - 8}" '
                   f'y="{y(tick) + 4:.1f}" text-anchor="end">{money(tick)}</text>')
    for month in sorted({round(t) for t in ticks(0, last, 12)}):
        out.append(f'<text class="tick" x="{x(month):.1f}" y="{floor + 18}" text-anchor="middle">{month}</text>')
    out.append(f'<text class="tick" x="{WIDTH - right}" y="{height - 6}" text-anchor="end">{escape(months)}</text>')
    if fan:
        for kind, a, b in (("fan90", 0, 4), ("fan50", 1, 3)):
            ahead = "L".join(f"{x(i):.1f} {y(v):.1f}" for i, v in enumerate(fan[a]))
            back = "L".join(f"{x(i):.1f} {y(v):.1f}" for i, v in reversed(list(enumerate(fan[b]))))
            out.append(f'<path class="{kind}" d="M{ahead}L{back}Z"/>')
        out.append(f'<path class="middle" d="M{_path(fan[2], x, y)}"/>')
    out.append(f'<path class="zero" d="M{left} {y(0):.1f}H{WIDTH - right}"/>')
    out.append(f'<path class="line" d="M{_path(totals, x, y)}"/>')
    return "".join(out) + "</svg>"


def _path(values: Sequence[float], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    return "L".join(f"{x(i):.1f} {y(v):.1f}" for i, v in enumerate(values))


@dataclass(frozen=True)
class Fleet:
    """A fleet on the chart: cost a month, P99 in ms with its interval, a text, and whether it is the chosen one."""

    cost: float
    p99: float
    low: float
    high: float
    text: str
    chosen: bool


def frontier(options: Sequence[tuple[str, Sequence[Fleet]]], objective: float, title: str,
             axes: tuple[str, str]) -> str:
    """P99 over cost: for each option the fleets that were simulated, joined; the objective dashed."""
    fleets = [f for _, row in options for f in row]
    top = 1.12 * max([objective, *(f.p99 for f in fleets if f.p99 <= 4 * objective)])
    costs = [f.cost for f in fleets]
    room = 0.08 * (max(costs) - min(costs) or max(costs) or 1.0)
    first, end = max(0.0, min(costs) - room), max(costs) + room
    left, right, above, height = 70, 24, 16, 340
    floor = height - 66

    def x(cost: float) -> float:
        return left + (cost - first) / (end - first) * (WIDTH - left - right)

    def y(p99: float) -> float:
        return above + (top - min(p99, top)) / top * (floor - above)

    out = [_open(height, title)]
    for tick in ticks(first, end):
        out.append(f'<path class="grid" d="M{x(tick):.1f} {above}V{floor}"/><text class="tick" x="{x(tick):.1f}" '
                   f'y="{floor + 17}" text-anchor="middle">{money(tick)}</text>')
    for tick in ticks(0, top):
        out.append(f'<path class="grid" d="M{left} {y(tick):.1f}H{WIDTH - right}"/><text class="tick" x="{left - 8}" '
                   f'y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<text class="tick" x="{left - 8}" y="{above - 5}" text-anchor="start">{escape(axes[1])}</text>'
               f'<text class="tick" x="{WIDTH - right}" y="{floor + 34}" text-anchor="end">{escape(axes[0])}</text>'
               f'<path class="reference" d="M{left} {y(objective):.1f}H{WIDTH - right}"/>')
    at = float(left)
    for i, (name, row) in enumerate(options):
        kind = f"s{i % SERIES}"
        joined = "L".join(f"{x(f.cost):.1f} {y(f.p99):.1f}" for f in sorted(row, key=lambda f: f.cost))
        out.append(f'<path class="trail {kind}" style="fill:none" d="M{joined}"/>')
        for f in row:
            out.append(f'<path class="whisker" d="M{x(f.cost):.1f} {y(f.low):.1f}V{y(f.high):.1f}"/>'
                       f'<circle class="{kind}{" chosen" if f.chosen else ""}" cx="{x(f.cost):.1f}" '
                       f'cy="{y(f.p99):.1f}" r="{7 if f.chosen else 4}"><title>{escape(name)}, {escape(f.text)}'
                       "</title></circle>")
        out.append(f'<circle class="{kind}" cx="{at + 6:.1f}" cy="{height - 12}" r="5"/><text class="tick" '
                   f'x="{at + 16:.1f}" y="{height - 8}">{escape(name)}</text>')
        at += 34 + 7.2 * sum(2 if ord(c) > 0x2e80 else 1 for c in name)
    return "".join(out) + "</svg>"


def _open(height: int, title: str) -> str:
    return (f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
            'xmlns="http://www.w3.org/2000/svg">')
