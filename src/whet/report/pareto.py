"""Latency against accuracy loss: the front of plans that no other plan beats in both, as a chart and as tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from whet.report import rows

if TYPE_CHECKING:
    from rich.table import Table

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 22, 46


@dataclass(frozen=True)
class Point:
    """A plan: seconds a call and its loss (lower is better for both), each with an interval where there is one.

    `bound` is the loss's one-sided upper bound. `chosen` marks the plan that was taken, `reference` the one that losses
    are counted from.
    """

    label: str
    seconds: float
    loss: float
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    note: str = ""
    chosen: bool = False
    reference: bool = False


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, loss) that no other beats, by cost: none is at most as large in both and smaller in
    one. Of equal points the first stays; points with a NaN are never on the front."""
    order = sorted((i for i, p in enumerate(points) if not any(math.isnan(x) for x in p)),
                   key=lambda i: (points[i][0], points[i][1], i))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] < points[front[-1]][1]:
            front.append(i)
    return front


def chart(points: Sequence[Point], *, budget: float | None = None, unit: str = "points", metric: str = "accuracy",
          title: str = "latency against loss") -> str:
    """The points as one inline SVG: latency to the right, loss upwards, the front as a line, the budget dashed.

    Horizontal whiskers are 95 % intervals of latency, vertical ones reach to the loss's upper bound. Losses far beyond
    the budget (over six times, where anything lies within) are drawn at the upper edge, open. Colours are CSS classes.
    """
    drawn = [p for p in points if math.isfinite(p.seconds) and not math.isnan(p.loss)]
    if not drawn:
        return ""
    scale, unit_of_time = rows.unit(max(p.seconds for p in drawn))
    bottom, top = _loss_range(drawn, budget)
    right = max(p.high or p.seconds for p in drawn) * scale * 1.08
    left = 0.0

    def x(seconds: float) -> float:
        return LEFT + (seconds * scale - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def y(loss: float) -> float:
        return TOP + (top - min(max(loss, bottom), top)) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
           'xmlns="http://www.w3.org/2000/svg">']
    floor = HEIGHT - BOTTOM
    for tick in _ticks(left, right):
        at = LEFT + (tick - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        out.append(f'<path class="grid" d="M{at:.1f} {TOP}V{floor}"/>'
                   f'<text class="tick" x="{at:.1f}" y="{floor + 17}" text-anchor="middle">{tick:g}</text>')
    for tick in _ticks(bottom, top):
        out.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/><text class="tick" x="{LEFT - 8}" '
                   f'y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">median latency, '
               f'{unit_of_time}</text><text class="tick" x="{LEFT - 8}" y="{TOP - 9}">'
               f'{escape(f"loss of {metric}, {unit}".rstrip(", "))}</text>')
    if budget is not None and bottom <= budget <= top:
        out.append(f'<path class="reference" d="M{LEFT} {y(budget):.1f}H{WIDTH - RIGHT}"/><text class="tick" '
                   f'x="{WIDTH - RIGHT}" y="{y(budget) - 6:.1f}" text-anchor="end">budget {budget:g}</text>')
    front = [drawn[i] for i in pareto_front([(p.seconds, p.loss) for p in drawn])]
    if len(front) > 1:
        steps = "".join(f"H{x(p.seconds):.1f}V{y(p.loss):.1f}" for p in front[1:])
        out.append(f'<path class="front" d="M{x(front[0].seconds):.1f} {y(front[0].loss):.1f}{steps}"/>')
    placed = _Places()
    for p in sorted(drawn, key=lambda p: (not p.chosen, not p.reference, p not in front)):
        out.append(_mark(p, x, y, p in front, p.loss > top, placed))
    return "".join(out) + "</svg>"


def _mark(p: Point, x: Callable[[float], float], y: Callable[[float], float], on_front: bool, beyond: bool,
          placed: _Places) -> str:
    cx, cy = x(p.seconds), y(p.loss)
    kind = "chosen" if p.chosen else "on" if on_front else "off"
    most = f", at most {p.bound:.3g}" if p.bound is not None else ""
    figures = f"{rows.seconds(p.seconds)}, loss {p.loss:.3g}{most}"
    out = [f'<g class="point {kind}{" beyond" if beyond else ""}"><title>{escape(p.label)}: {escape(figures)}'
           f'{escape(f"; {p.note}") if p.note else ""}</title>']
    if p.low is not None and p.high is not None:
        out.append(f'<path class="whisker" d="M{x(p.low):.1f} {cy:.1f}H{x(p.high):.1f}"/>')
    if p.bound is not None and math.isfinite(p.bound) and not beyond:
        out.append(f'<path class="whisker" d="M{cx:.1f} {cy:.1f}V{y(p.bound):.1f}"/>')
    out.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{7 if p.chosen else 5}"/>')
    if p.chosen or p.reference or on_front:
        at = placed.find(cx, cy, p.label)
        if at is not None:
            tx, ty, anchor = at
            out.append(f'<text class="{"value" if p.chosen else "name"}" x="{tx:.1f}" y="{ty:.1f}" '
                       f'text-anchor="{anchor}">{escape(p.label)}</text>')
    return "".join(out) + "</g>"


class _Places:
    """Where labels lie already. A label goes beside its point if there is room; else the point has its title only."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, float, float, float]] = [(0, 0, LEFT + 200, TOP - 4)]  # the axis's title

    def find(self, x: float, y: float, label: str) -> tuple[float, float, str] | None:
        width = 7.0 * len(label)
        for dx, dy, anchor in ((11, -7, "start"), (-11, -7, "end"), (11, 17, "start"), (-11, 17, "end"),
                               (11, -22, "start"), (-11, -22, "end")):
            start = x + dx - (width if anchor == "end" else 0)
            box = (start, y + dy - 11, start + width, y + dy + 3)
            inside = box[0] >= LEFT and box[2] <= WIDTH - 4 and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
            if inside and not any(a[0] < box[2] and box[0] < a[2] and a[1] < box[3] and box[1] < a[3]
                                  for a in self.taken):
                self.taken.append(box)
                return x + dx, y + dy, anchor
        return None


def _loss_range(points: Sequence[Point], budget: float | None) -> tuple[float, float]:
    losses = [p.loss for p in points if math.isfinite(p.loss)] or [0.0]
    ends = losses + [p.bound for p in points if p.bound is not None and math.isfinite(p.bound)]
    top, bottom = max(ends), min(0.0, *losses)
    if budget is not None:
        top = max(top, 1.25 * budget)
        if any(loss <= 6 * budget for loss in losses):
            top = min(top, 6 * budget)
    top = top if top > bottom else bottom + 1.0
    room = 0.06 * (top - bottom)
    return bottom - room, top + room


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= 6.5)
    return [round(float(k) * step, 10) for k in np.arange(math.ceil(low / step), math.floor(high / step) + 1)]


def _columns(unit: str) -> tuple[str, ...]:
    losses = f"loss, {unit}" if unit else "loss"
    return ("plan", "latency", "95 % interval", "speed", losses, "at most", "")


def cells(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """A row for each point, fastest first; speed is against the reference's. The last cell says what the point is."""
    front = set(pareto_front([(p.seconds, p.loss) for p in points]))
    base = next((p.seconds for p in points if p.reference), None)
    out: list[tuple[str, ...]] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i].seconds, points[i].loss)):
        p = points[i]
        marks = [word for word, holds in (("chosen", p.chosen), ("reference", p.reference), ("front", i in front))
                 if holds]
        spread = rows.interval_text(p.seconds, p.low, p.high) if p.low is not None and p.high is not None else ""
        out.append((p.label, rows.seconds(p.seconds), spread, f"{base / p.seconds:.2f}x" if base else "",
                    f"{p.loss:.2f}", f"{p.bound:.2f}" if p.bound is not None else "", ", ".join(marks)))
    return out


def markdown(points: Sequence[Point], unit: str = "points") -> list[str]:
    """The same as the lines of a Markdown table."""
    head = _columns(unit)
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * 5 + "---|"]
    for row, bold in ((r, "chosen" in r[-1]) for r in cells(points)):
        shown = [cell.replace("|", r"\|") or "-" for cell in row[:-1]] + [row[-1]]
        lines.append(f"| {' | '.join([f'**{shown[0]}**' if bold else shown[0], *shown[1:]])} |")
    return lines


def table(points: Sequence[Point], unit: str = "points", title: str | None = None) -> Table:
    """The same for the terminal."""
    from rich.table import Table
    from rich.text import Text

    out = Table(title=title, title_justify="left")
    for i, name in enumerate(_columns(unit)):
        out.add_column(name, justify="left" if i in (0, 6) else "right")
    for row in cells(points):
        out.add_row(*[Text(cell) for cell in row], style="bold" if "chosen" in row[-1] else None)
    return out
