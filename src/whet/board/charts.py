"""Charts as SVG that fill whatever width they get: places are percentages, so that text keeps its size on a phone.

Curves lie in an inner drawing of 1000 x 1000 units that is stretched (strokes are not); labels, and what must stay
round, lie in the outer one. Colours come from CSS classes. What a chart shows also stands in a table beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from markupsafe import Markup
from markupsafe import escape as escaped

from whet.board.safe import visible
from whet.report.roi_charts import ticks


def escape(text: str) -> Markup:
    """Text in a chart."""
    return escaped(visible(text))


@dataclass(frozen=True)
class Frame:
    """The ends of both axes."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        """A place from the left, in percent."""
        return 100 * (value - self.left) / (self.right - self.left) if self.right > self.left else 50.0

    def y(self, value: float) -> float:
        """A place from above, in percent."""
        return 100 * (self.top - value) / (self.top - self.bottom) if self.top > self.bottom else 50.0


def frame(xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray, zero: bool = False) -> Frame:
    """A frame around points, with room above and below; `zero`: it reaches 0."""
    low, high = float(np.min(ys)), float(np.max(ys))
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * 0.07 or abs(high) * 0.1 or 1.0
    bottom = low if zero and low == 0 else max(0.0, low - room) if low >= 0 else low - room
    return Frame(float(np.min(xs)), float(np.max(xs)), bottom, high + room)


def dates(start: float, end: float) -> list[tuple[float, str]]:
    """Round dates between two times (seconds since 1970): at most six, with what is needed of each."""
    a, b = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)
    days = (end - start) / 86400
    if days <= 1.5:
        if end <= start:
            return [(start, f"{a:%Y-%m-%d %H:%M}")]
        return [(t, f"{datetime.fromtimestamp(t, UTC):%m-%d %H:%M}") for t in np.linspace(start, end, 4).tolist()]
    if days <= 150:
        step = next(s for s in (1, 2, 5, 7, 14, 30) if days / s <= 6)
        first = datetime(a.year, a.month, a.day, tzinfo=UTC) + timedelta(days=1)
        found = [first + timedelta(days=step * i) for i in range(int(days / step) + 1)]
        return [(d.timestamp(), f"{d:%m-%d}" if a.year == b.year else f"{d:%Y-%m-%d}") for d in found if d <= b]
    months = next((s for s in (1, 2, 3, 6) if days / 30.4 / s <= 6), 12 * math.ceil(days / 365.25 / 6))
    out, month = [], a.year * 12 + a.month  # the month after the first one, counted from 0
    month += -month % months
    while month < 12 * 10_000 and (d := datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)) <= b:
        out.append((d.timestamp(), f"{d:%Y}" if months % 12 == 0 else f"{d:%Y-%m}"))
        month += months
    return out


Points = Sequence[tuple[float, float]]


class Plot:
    """An SVG that grows: grid first, then what lies on it."""

    def __init__(self, around: Frame, title: str) -> None:
        self.frame, self._title = around, title
        self._under: list[str] = []
        self._curves: list[str] = []
        self._over: list[str] = []

    def y_axis(self, text: Callable[[float], str]) -> None:
        """Horizontal lines at round values."""
        for value in ticks(self.frame.bottom, self.frame.top, 5):
            at = f"{self.frame.y(value):.2f}%"
            self._under.append(f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>'
                               f'<text class="tick" x="-8" y="{at}" dy=".32em" text-anchor="end">'
                               f"{escape(text(value))}</text>")

    def x_axis(self, marks: Sequence[tuple[float, str]]) -> None:
        """Labels below; every other one is left out on narrow screens."""
        for i, (value, text) in enumerate(marks):
            at = self.frame.x(value)
            anchor = "start" if at < 4 else "end" if at > 96 else "middle"
            less = " less" if len(marks) > 3 and i % 2 else ""
            self._under.append(f'<text class="tick{less}" x="{at:.2f}%" y="100%" dy="1.6em" text-anchor="{anchor}">'
                               f"{escape(text)}</text>")

    def curve(self, points: Points, kind: str) -> None:
        """A line through points."""
        if points:
            self._curves.append(f'<path class="{kind}" d="M{"L".join(self._places(points))}"/>')

    def dots(self, points: Points, kind: str) -> None:
        """A dot at each point: lines of no length with round ends, which stretching does not deform."""
        if points:
            self._curves.append(f'<path class="{kind}" d="' + "".join(f"M{p}h0" for p in self._places(points)) + '"/>')

    def band(self, lower: Points, upper: Points, kind: str) -> None:
        """The area between two lines."""
        if lower and upper:
            edge = "L".join([*self._places(lower), *self._places(list(reversed(upper)))])
            self._curves.append(f'<path class="{kind}" d="M{edge}Z"/>')

    def spans(self, points: Sequence[tuple[float, float, float]], kind: str) -> None:
        """Vertical lines: x, low, high."""
        if points:
            self._curves.append(f'<path class="{kind}" d="' + "".join(
                f"M{self._place(x, low)}V{10 * self.frame.y(high):.1f}" for x, low, high in points) + '"/>')

    def upright(self, x: float, text: str, kind: str) -> None:
        """A vertical line over the whole height with a label at its top."""
        at = self.frame.x(x)
        anchor, dx = ("end", -6) if at > 80 else ("start", 6)
        self._under.append(f'<line class="{kind}" x1="{at:.2f}%" x2="{at:.2f}%" y1="0" y2="100%"/>')
        if text:
            self._over.append(f'<text class="{kind}" x="{at:.2f}%" dx="{dx}" y="0" dy=".9em" text-anchor="{anchor}">'
                              f"{escape(text)}</text>")

    def level(self, y: float, text: str, kind: str) -> None:
        """A horizontal line over the whole width with a label at its end."""
        at = f"{self.frame.y(y):.2f}%"
        self._over.append(f'<line class="{kind}" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
        if text:
            self._over.append(f'<text class="{kind}" x="100%" y="{at}" dy="-.4em" text-anchor="end">'
                              f"{escape(text)}</text>")

    def svg(self, cursor: bool = False) -> Markup:
        """The chart."""
        line = '<line class="cursor" x1="0" x2="0" y1="0" y2="100%" visibility="hidden"/>' if cursor else ""
        return Markup(
            f'<svg class="plot" role="img" aria-label="{escape(self._title)}" xmlns="http://www.w3.org/2000/svg">'
            + "".join(self._under)
            + '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%" overflow="visible">'
            + "".join(self._curves) + "</svg>" + "".join(self._over) + line + "</svg>")

    def _places(self, points: Points) -> list[str]:
        return [self._place(x, y) for x, y in points]

    def _place(self, x: float, y: float) -> str:
        return f"{10 * self.frame.x(x):.1f} {10 * self.frame.y(y):.1f}"


def spark(values: Sequence[float]) -> Markup:
    """A line as small as a word; what it says stands beside it in words, so it is hidden from screen readers."""
    if len(values) < 2:
        return Markup('<svg class="spark" aria-hidden="true"></svg>')
    low, span = min(values), max(values) - min(values)
    step = 100 / (len(values) - 1)
    places = [f"{i * step:.1f} {4 + 24 * (1 - ((v - low) / span if span > 0 else 0.5)):.1f}"
              for i, v in enumerate(values)]
    return Markup('<svg class="spark" viewBox="0 0 100 32" preserveAspectRatio="none" aria-hidden="true">'
                  f'<path d="M{"L".join(places)}"/></svg>')


@dataclass(frozen=True)
class Bar:
    """A bar from zero or, with `base`, from there: what it is, its length, its text, and a class."""

    label: str
    value: float
    text: str
    kind: str = ""
    base: float = 0.0
    href: str = ""


def bars(items: Sequence[Bar], title: str, mark: float | None = None, upto: float | None = None) -> Markup:
    """Rows of label, bar and figure, as a list that reads well aloud; the drawing of each bar is hidden there.

    mark: a value at which every row has an upright line. upto: what a bar over the whole width stands for.
    """
    ends = [v for b in items for v in (b.value, b.base)] + [v for v in (mark, upto) if v is not None]
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    span = (high - low) or 1.0
    line = Markup("")
    if mark is not None:
        at = f"{(mark - low) / span * 100:.2f}%"
        line = Markup('<line x1="{}" x2="{}" y1="-4" y2="20"/>').format(at, at)
    rows = []
    for b in items:
        a, z = sorted(((b.base - low) / span * 100, (b.value - low) / span * 100))
        name = Markup('<a href="{}">{}</a>').format(b.href, escape(b.label)) if b.href else escape(b.label)
        rows.append(Markup('<li class="{}"><span class="name">{}</span><svg class="bar" aria-hidden="true">'
                           '<rect x="{:.2f}%" width="{:.2f}%" y="0" height="100%" rx="3"/>{}</svg>'
                           '<span class="value">{}</span></li>').format(b.kind, name, a, max(0.4, z - a), line,
                                                                        escape(b.text)))
    return Markup('<ul class="bars" aria-label="{}">').format(escape(title)) + Markup("").join(rows) + Markup("</ul>")


def data(points: Sequence[tuple[float, float, str]]) -> Markup:
    """Places in percent and their texts, for the cursor: data, which the browser runs nothing of."""
    text = json.dumps([[round(x, 2), round(y, 2), visible(said)] for x, y, said in points], ensure_ascii=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup('<script type="application/json" class="points">' + text + "</script>")
