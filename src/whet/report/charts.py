"""Charts as inline SVG, drawn by hand: bars with intervals, and samples as dots. Colours come from CSS classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH = 760
LABEL = 190
VALUE = 110
ROW = 34


@dataclass(frozen=True)
class Bar:
    """A bar with its label, value, text, an optional interval, and whether it is whet's."""

    label: str
    value: float
    text: str
    ours: bool
    low: float | None = None
    high: float | None = None


def bars(items: Sequence[Bar], title: str, axis: str, reference: float | None = None,
         label_width: int = LABEL) -> str:
    """Horizontal bars from zero; whiskers are intervals; a dashed line at `reference`."""
    top = max([b.value for b in items] + [b.high for b in items if b.high is not None] + [reference or 0]) or 1.0
    left = label_width
    plot = WIDTH - left - VALUE
    scale = plot / (top * 1.02)
    height = ROW * len(items) + 34
    out = [_open(height, title)]
    out += _grid(top, scale, height, axis, left)
    for i, b in enumerate(items):
        y = i * ROW + 5
        kind = "ours" if b.ours else "theirs"
        out.append(f'<text class="name" x="{left - 10}" y="{y + 16}" text-anchor="end">{escape(b.label)}</text>')
        width = max(1, b.value * scale)
        out.append(f'<rect class="bar {kind}" x="{left}" y="{y}" rx="2" width="{width:.1f}" height="24">'
                   f'<title>{escape(b.label)}: {escape(b.text)}</title></rect>')
        end = b.value
        if b.low is not None and b.high is not None:
            a, z = left + b.low * scale, left + b.high * scale
            out.append(f'<path class="whisker" d="M{a:.1f} {y + 12}H{z:.1f}M{a:.1f} {y + 7}v10M{z:.1f} {y + 7}v10"/>')
            end = max(end, b.high)
        out.append(f'<text class="value" x="{left + end * scale + 8:.1f}" y="{y + 16}">{escape(b.text)}</text>')
    if reference is not None:
        x = left + reference * scale
        out.append(f'<path class="reference" d="M{x:.1f} 0V{height - 28}"/>')
    return "".join(out) + "</svg>"


@dataclass(frozen=True)
class Strip:
    """Samples of one backend."""

    label: str
    samples: Sequence[float]
    ours: bool


def strips(items: Sequence[Strip], title: str, axis: str) -> str:
    """Every sample as a dot, spread over a row; the line is the median. Up to 400 dots, evenly spaced, a row.

    The axis ends at 1.15 times the highest 98th percentile; dots beyond it stand at its edge, open.
    """
    top = 1.15 * max(float(np.quantile(np.asarray(s.samples), 0.98)) for s in items) or 1.0
    plot = WIDTH - LABEL - 30
    scale = plot / top
    row = 46
    height = row * len(items) + 34
    rng = np.random.default_rng(0)
    out = [_open(height, title), *_grid(top, scale, height, axis)]
    for i, s in enumerate(items):
        x = np.asarray(s.samples, dtype=float)
        x = x[np.linspace(0, len(x) - 1, min(len(x), 400)).astype(int)]
        middle = i * row + row / 2
        kind = "ours" if s.ours else "theirs"
        out.append(f'<text class="name" x="{LABEL - 10}" y="{middle + 4:.1f}" text-anchor="end">'
                   f'{escape(s.label)}</text>')
        out.append(f'<g class="dots {kind}">')
        for value, offset in zip(x, rng.uniform(-13, 13, len(x))):
            beyond = ' class="beyond"' if value > top else ""
            out.append(f'<circle{beyond} cx="{LABEL + min(value, top) * scale:.1f}" cy="{middle + offset:.1f}" r="2"/>')
        at = LABEL + float(np.median(np.asarray(s.samples))) * scale
        out.append(f'</g><path class="median" d="M{at:.1f} {middle - 17:.1f}v34"/>')
    return "".join(out) + "</svg>"


def _open(height: int, title: str) -> str:
    return (f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
            f'xmlns="http://www.w3.org/2000/svg">')


def _grid(top: float, scale: float, height: int, axis: str, left: int = LABEL) -> list[str]:
    """Vertical lines at round values, with their figures below."""
    step = 10 ** np.floor(np.log10(top / 4))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if top / (step * m) <= 6)
    out = []
    for tick in np.arange(0, top * 1.0001, step):
        x = left + tick * scale
        out.append(f'<path class="grid" d="M{x:.1f} 0V{height - 28}"/>'
                   f'<text class="tick" x="{x:.1f}" y="{height - 14}" text-anchor="middle">{tick:g}</text>')
    out.append(f'<text class="tick" x="{left - 10}" y="{height - 14}" text-anchor="end">{escape(axis)}</text>')
    return out
