"""The chart of `whet compare`: options by latency and loss, as inline SVG. Colours come from CSS classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from whet.report.pareto import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, pareto_front

STYLE = """
.front { fill: none; stroke: var(--ours); stroke-width: 1.5; stroke-opacity: .6 }
.dot circle { fill: var(--theirs); fill-opacity: .6; stroke: var(--theirs) }
.dot.ours circle { fill: var(--ours); stroke: var(--ours) }
.dot.chosen circle { stroke: var(--ink); stroke-width: 2.5 } .dot .whisker { stroke-opacity: .45 }
.dot text.chosen { font-weight: 600 }
"""


@dataclass(frozen=True)
class Dot:
    """An option: seconds and the other cost (less is better for both) with their ends; bytes, that its area shows."""

    label: str
    text: str
    x: float
    y: float
    x_low: float | None = None
    x_high: float | None = None
    y_high: float | None = None
    area: float | None = None
    ours: bool = False
    chosen: bool = False


def scatter(dots: Sequence[Dot], title: str, x_axis: str, y_axis: str, scale: float = 1.0,
            y_scale: float = 1.0) -> str:
    """Options with whiskers; seconds on a logarithmic axis, in units of 1 / scale. The front is a line. Labels lie
    beside their dots where there is room, the chosen one's and the front's first."""
    left, right = _range([v * scale for d in dots for v in (d.x, d.x_low, d.x_high) if v])
    ys = [v * y_scale for d in dots for v in (d.y, d.y_high) if v is not None and math.isfinite(v)]
    bottom, top = min(0.0, *ys), max(ys)
    top = top if top > bottom else bottom + 1.0
    room = 0.08 * (top - bottom)
    bottom, top = bottom - room, top + room
    floor = HEIGHT - BOTTOM

    def x(value: float) -> float:
        return LEFT + math.log(value * scale / left) / math.log(right / left) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (top - value * y_scale) / (top - bottom) * (floor - TOP)

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
           'xmlns="http://www.w3.org/2000/svg">']
    for tick in _log_ticks(left, right):
        at = x(tick / scale)
        out.append(f'<path class="grid" d="M{at:.1f} {TOP}V{floor}"/><text class="tick" x="{at:.1f}" y="{floor + 17}" '
                   f'text-anchor="middle">{tick:g}</text>')
    for tick in _ticks(bottom, top):
        at = y(tick / y_scale)
        out.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/><text class="tick" x="{LEFT - 8}" '
                   f'y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(x_axis)}</text>'
               f'<text class="tick" x="4" y="{TOP - 9}">{escape(y_axis)}</text>')
    front = [dots[i] for i in pareto_front([(d.x, d.y) for d in dots])]
    if len(front) > 1:
        steps = "".join(f"H{x(d.x):.1f}V{y(d.y):.1f}" for d in front[1:])
        out.append(f'<path class="front" d="M{x(front[0].x):.1f} {y(front[0].y):.1f}{steps}"/>')
    most = max((d.area for d in dots if d.area), default=None)
    taken = [(0.0, 0.0, float(WIDTH), TOP - 4.0)]
    for d in dots:
        r = 5.0 if most is None or not d.area else 4 + 11 * math.sqrt(d.area / most)
        taken.append((x(d.x) - r, y(d.y) - r, x(d.x) + r, y(d.y) + r))
    for d in sorted(dots, key=lambda d: (not d.chosen, d not in front, d.x)):
        out.append(_dot(d, x(d.x), y(d.y), [x(v) if v else None for v in (d.x_low, d.x_high)],
                        y(d.y_high) if d.y_high is not None and math.isfinite(d.y_high) else None, most,
                        taken))
    return "".join(out) + "</svg>"


def _dot(d: Dot, cx: float, cy: float, ends: Sequence[float | None], up: float | None, most: float | None,
         taken: list[tuple[float, float, float, float]]) -> str:
    r = 5.0 if most is None or not d.area else 4 + 11 * math.sqrt(d.area / most)
    kind = " ours" if d.ours else ""
    kind += " chosen" if d.chosen else ""
    out = [f'<g class="dot{kind}"><title>{escape(d.label)}: {escape(d.text)}</title>']
    if ends[0] is not None and ends[1] is not None:
        out.append(f'<path class="whisker" d="M{ends[0]:.1f} {cy:.1f}H{ends[1]:.1f}"/>')
    if up is not None:
        out.append(f'<path class="whisker" d="M{cx:.1f} {cy:.1f}V{up:.1f}"/>')
    out.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{r:.1f}"/>')
    if (at := _place(cx, cy, r, d.label, taken)) is not None:
        tx, ty, anchor = at
        out.append(f'<text class="name{" chosen" if d.chosen else ""}" x="{tx:.1f}" y="{ty:.1f}" '
                   f'text-anchor="{anchor}">{escape(d.label)}</text>')
    return "".join(out) + "</g>"


def _place(x: float, y: float, r: float, text: str,
           taken: list[tuple[float, float, float, float]]) -> tuple[float, float, str] | None:
    """A free place for a label beside its dot, which is then taken."""
    width = sum(12.5 if ord(c) > 0x2e80 else 6.7 for c in text)
    for dy in (-r - 4, r + 13, -r - 19, r + 28, -r - 34, r + 43):  # not at its height, where whiskers and the front are
        for dx, anchor in ((2, "start"), (-2, "end")):
            start = x + dx - (width if anchor == "end" else 0)
            box = (start, y + dy - 11, start + width, y + dy + 3)
            inside = box[0] >= LEFT and box[2] <= WIDTH - 4 and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
            if inside and not any(a[0] < box[2] and box[0] < a[2] and a[1] < box[3] and box[1] < a[3] for a in taken):
                taken.append(box)
                return x + dx, y + dy, anchor
    return None


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(1.15, (high / low) ** 0.06)
    return low / room, high * room


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; fewer where there are many."""
    steps: Sequence[float] = (1, 2, 5) if high / low < 1e3 else (1,)
    found = [m * 10.0 ** e for e in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
             for m in steps if low <= m * 10.0 ** e <= high]
    return found if len(found) > 1 else _ticks(low, high)


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= 6.5)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
