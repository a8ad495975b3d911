"""A series over time, as an SVG and as one line of text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Protocol

import numpy as np

from whet.report.charts import WIDTH
from whet.report.rows import unit as time_unit

MOST = 1_000  # dots of a chart
HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 260, 70, 14, 30, 10
BLOCKS = "▁▂▃▄▅▆▇█"


class Dot(Protocol):
    """What a chart reads of a point."""

    @property
    def at(self) -> datetime: ...
    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Values from the least to the greatest as blocks; of more than `width`, medians of equal stretches."""
    if not values:
        return ""
    x = np.asarray(values, dtype=float)
    cells = np.array([np.median(part) for part in np.array_split(x, min(width, len(x)))])
    low, span = cells.min(), cells.max() - cells.min()
    steps = ((cells - low) / span * (len(BLOCKS) - 1)).round().astype(int) if span > 0 else np.full(len(cells), 3)
    return "".join(BLOCKS[i] for i in steps)


def chart(dots: Sequence[Dot], unit: str, title: str) -> tuple[str, int]:
    """The SVG, and how many dots are in it: of more than 1,000, evenly spaced ones. The axis begins near the least."""
    if not dots:
        return "", 0
    kept = [dots[i] for i in sorted({int(i) for i in np.linspace(0, len(dots) - 1, min(len(dots), MOST))})]
    scale, name = time_unit(max(abs(d.value) for d in kept)) if unit == "s" else (1.0, unit)
    bounds = [v * scale for d in kept for v in (d.value, d.low, d.high) if v is not None]
    low, high = min(bounds), max(bounds)
    margin = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    bottom, top = (max(0.0, low - margin) if low >= 0 else low - margin), high + margin
    start, end = kept[0].at.timestamp(), kept[-1].at.timestamp()
    wide, high_ = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(at: float) -> float:
        return LEFT + (wide * (at - start) / (end - start) if end > start else wide / 2)

    def y(value: float) -> float:
        return TOP + high_ * (1 - (value * scale - bottom) / (top - bottom))

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
           'xmlns="http://www.w3.org/2000/svg">']
    for tick in ticks(bottom, top):
        at = y(tick / scale)
        out.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
                   f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    out.append(f'<text class="tick" x="{LEFT - 6}" y="{HEIGHT - 8}" text-anchor="end">{escape(name)}</text>')
    for i, at in enumerate(np.linspace(start, end, 5) if end > start else [start]):
        anchor = "middle" if end <= start else ("start", "middle", "middle", "middle", "end")[i]
        out.append(f'<text class="tick" x="{x(at):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">'
                   f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}</text>")
    for d in kept:
        if d.low is not None and d.high is not None:
            out.append(f'<path class="span" d="M{x(d.at.timestamp()):.1f} {y(d.low):.1f}V{y(d.high):.1f}"/>')
    places = [(x(d.at.timestamp()), y(d.value)) for d in kept]
    out.append('<path class="line" d="M' + "L".join(f"{a:.1f} {b:.1f}" for a, b in places) + '"/>')
    for d, (a, b) in zip(kept, places):
        out.append(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="2.5"><title>{d.at:%Y-%m-%d %H:%M}: '
                   f"{d.value * scale:.5g} {escape(name)}</title></circle>")
    return "".join(out) + "</svg>", len(kept)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, four to eight of them."""
    step = 10 ** np.floor(np.log10((high - low) / 4))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= 8)
    first = np.ceil(low / step)
    return [float(k * step) for k in np.arange(first, np.floor(high / step) + 1)]
