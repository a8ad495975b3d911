"""The page of a model: one line over time with its changes, its other settings, its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from markupsafe import Markup

from whet.board import charts, thin
from whet.board.data import MOST_POINTS, Line, Story
from whet.board.words import text
from whet.report import history as report
from whet.report import rows

COLUMNS = 300  # spans of time that points are thinned to
TOLD = 600  # points that the cursor stops at
DOTTED = 400  # points up to which each is a dot
AHEAD = 20  # values ahead that are shown
LABELLED = 8  # changes with a label in the chart; all are in the table
MINUTE = "%Y-%m-%d %H:%M"


@dataclass(frozen=True)
class Tile:
    """A figure: what it is, the figure, a note, and a class."""

    label: str
    value: str
    note: str
    kind: str = ""


def share(value: float) -> str:
    """`+3.2 %`, `−38 %`: of a change."""
    size = abs(value) * 100
    number = f"{size:.0f}" if size >= 10 else f"{size:.1f}" if size >= 1 else f"{size:.2g}"
    return f"{'−' if value < 0 else '+'}{number} %"


def effect(value: float, level_log: bool, unit: str) -> str:
    """A change: relative where values are positive, else in their unit."""
    return share(value) if level_log else ("+" if value >= 0 else "−") + report.amount(abs(value), unit)


def better(metric: str, change: float) -> str:
    """`better` or `worse` of a change of a metric whose good direction is known, else nothing."""
    down = metric.startswith(("latency", "memory", "error", "build", "cached_build", "load", "plan.bytes"))
    up = metric.startswith(("throughput", "accuracy", "limit."))
    return "" if not (down or up) or change == 0 else "better" if (change < 0) == down else "worse"


def tiles(line: Line, told: Story, lang: str) -> list[Tile]:
    """What is looked for first: the newest value, the level now, the last change, the next value."""
    newest, level = told.marks[-1], told.level
    unit = line.unit
    out = [Tile(text("newest", lang), report.amount(newest.value, unit), f"{newest.at:{MINUTE}}")]
    changed = [s for s in told.segments if s.change]
    last = told.segments[-1]
    if level is None:
        out.append(Tile(text("now", lang), text("unknown", lang), text("unknown note", lang)))
    else:
        note = text("95", lang, low=report.amount(level.low, unit), high=report.amount(level.high, unit))
        out.append(Tile(text("now", lang), report.amount(level.value, unit), note))
    log = is_log(told)
    if changed and last.change:
        since = text("since", lang, date=f"{told.marks[last.start].at:%Y-%m-%d}", n=f"{last.count:,}")
        out.append(Tile(text("last change", lang), effect(last.change.effect, log, unit), since,
                        better(line.metric, last.change.effect)))
    else:
        out.append(Tile(text("last change", lang), text("no change", lang), text("no change note", lang)))
    if level is not None:
        ahead = level.predict(1)
        low, high = ahead.interval(0.95)
        note = text("95", lang, low=report.amount(low, unit), high=report.amount(high, unit))
        out.append(Tile(text("next value", lang), report.amount(ahead.median, unit),
                        note + ("; " + text("thin", lang) if level.thin else "")))
    return out


def is_log(told: Story) -> bool:
    """Whether changes are relative: all values are positive."""
    return bool((told.values > 0).all())


def scale(told: Story, unit: str) -> tuple[float, str]:
    """The factor and the name of the unit that values are drawn in."""
    top = float(np.abs(told.values).max())
    if unit == "s":
        return rows.unit(top)
    if unit == "bytes":
        power = next((p for p in (3, 2, 1) if top >= 1024**p), 0)
        return 1 / 1024**power, ("bytes", "KiB", "MiB", "GiB")[power]
    return 1.0, unit


def chart(line: Line, told: Story, lang: str) -> tuple[Markup, list[str]]:
    """The chart with the data of its cursor, and what must be said of it."""
    at = np.array([m.at.timestamp() for m in told.marks])
    factor, unit = scale(told, line.unit)
    kept = thin.m4(at, told.values, COLUMNS)
    ys = [told.values[kept] * factor]
    dotted = len(kept) <= DOTTED
    spans = [(at[i], m.low * factor, m.high * factor) for i in kept if dotted for m in (told.marks[i],)
             if m.low is not None and m.high is not None]
    ahead = _ahead(told, at, factor)
    if ahead:
        ys.append(np.array([v for _, low, high in ahead for v in (low, high)]))
    middle = float(np.median(told.values)) * factor
    reach = 4 * max(float(np.ptp(np.concatenate(ys))), abs(middle) * 0.05)  # an interval may be far wider than all else
    spans = [(x, max(low, middle - reach), min(high, middle + reach)) for x, low, high in spans]
    if spans and len(spans) <= DOTTED:
        ys.append(np.array([v for _, low, high in spans for v in (low, high)]))
    right = ahead[-1][0] if ahead else at[-1]
    around = charts.frame([at[0], right], np.concatenate(ys))
    plot = charts.Plot(around, summary(line, told, lang))
    plot.y_axis(lambda v: f"{v:.6g}")
    plot.x_axis(charts.dates(around.left, around.right))
    _levels(plot, told, at, factor)
    plot.spans(spans, "span")
    points = [(float(at[i]), float(told.values[i]) * factor) for i in kept]
    plot.curve(points, "line" if dotted else "line dense")
    if dotted:
        plot.dots(points, "dots")
    if ahead:
        plot.band([(x, low) for x, low, _ in ahead], [(x, high) for x, _, high in ahead], "fan")
    changes = [s for s in told.segments if s.change]
    labelled = sorted(changes, key=lambda s: -abs(s.change.effect if s.change else 0))[:LABELLED]
    far = 0.0
    for s in changes:
        assert s.change is not None
        place = around.x(at[s.start])
        fits = s in labelled and place - far > 9  # labels side by side, in percent of the width
        far = place if fits else far
        plot.upright(at[s.start], effect(s.change.effect, is_log(told), line.unit) if fits else "",
                     f"change {better(line.metric, s.change.effect)}")
    told_of = kept if len(kept) <= TOLD else kept[np.linspace(0, len(kept) - 1, TOLD).astype(int)]
    said = [(around.x(at[i]), around.y(told.values[i] * factor),
             f"{told.marks[i].at:{MINUTE}}: {report.amount(told.values[i], line.unit)}") for i in told_of]
    notes = [unit] if unit else []
    notes.append(text("legend", lang, h=AHEAD) if ahead else text("legend short", lang))
    if len(kept) < len(told.marks):
        notes.append(text("thinned", lang, n=f"{len(kept):,}", all=f"{len(told.marks):,}"))
    if told.stretch > 1:
        notes.append(text("stretched", lang, n=told.stretch))
    if told.cut:
        notes.append(text("cut", lang, n=f"{MOST_POINTS:,}"))
    return plot.svg(cursor=True) + charts.data(said), notes


def _ahead(told: Story, at: np.ndarray, factor: float) -> list[tuple[float, float, float]]:
    """Time, low and high of the values to come, at the pace of the last ones."""
    if told.level is None or len(at) < 2:
        return []
    recent = np.diff(at[-21:])
    step = float(np.median(recent))
    reach = min(AHEAD * step, 0.12 * float(at[-1] - at[0]))
    if reach <= 0:
        return []
    steps = [1, 2, 5, 10, AHEAD]
    out = []
    for h in steps:
        low, high = told.level.predict(h).interval(0.95)
        if not np.isfinite([low, high]).all():
            return []
        out.append((float(at[-1]) + reach * h / AHEAD, low * factor, high * factor))
    return out


def _levels(plot: charts.Plot, told: Story, at: np.ndarray, factor: float) -> None:
    log = is_log(told)
    for s in told.segments:
        a, z = float(at[s.start]), float(at[min(s.stop, len(at) - 1)])
        low, high = ((s.level / (1 + s.spread), s.level * (1 + s.spread)) if log
                     else (s.level - s.spread, s.level + s.spread))
        if told.stretch == 1:  # medians spread less than points do
            plot.band([(a, low * factor), (z, low * factor)], [(a, high * factor), (z, high * factor)], "spread")
        plot.curve([(a, s.level * factor), (z, s.level * factor)], "level")


def summary(line: Line, told: Story, lang: str) -> str:
    """The chart in a sentence."""
    values = told.values
    return text("chart", lang, metric=line.metric, model=line.setting.model, n=f"{len(values):,}",
                first=f"{told.marks[0].at:%Y-%m-%d}", last=f"{told.marks[-1].at:%Y-%m-%d}",
                low=report.amount(float(values.min()), line.unit), high=report.amount(float(values.max()), line.unit),
                changes=sum(s.change is not None for s in told.segments),
                now=report.amount(told.segments[-1].level, line.unit))


@dataclass(frozen=True)
class Row:
    """A change as the table has it."""

    at: datetime
    before: str
    after: str
    effect: str
    interval: str
    confidence: str
    kind: str


def changes(line: Line, told: Story, lang: str) -> list[Row]:
    """All changes, the newest first."""
    log, out = is_log(told), []
    for before, s in zip(told.segments, told.segments[1:]):
        if s.change is not None:
            c = s.change
            ends = text("span", lang, low=effect(c.low, log, line.unit), high=effect(c.high, log, line.unit))
            out.append(Row(told.marks[s.start].at, report.amount(before.level, line.unit),
                           report.amount(s.level, line.unit), effect(c.effect, log, line.unit), ends,
                           confidence(c.confidence), better(line.metric, c.effect)))
    return out[::-1]


def confidence(value: float) -> str:
    """`99.3 %`, `> 99.9 %`."""
    return "> 99.9 %" if value > 0.999 else f"{value * 100:.1f} %"


def noise(line: Line, told: Story) -> str:
    """How far one value lies from its level."""
    spread = told.segments[-1].spread
    return f"{spread * 100:.2g} %" if is_log(told) else report.amount(spread, line.unit)


def settings(lines: Sequence[Line], shown: Line, lang: str, address: dict[str, str], most: int) -> tuple[Markup, int]:
    """The newest value of the metric in each setting as bars, each leading to its history; how many are left out."""
    alike = [l for l in lines if l.metric == shown.metric and l.unit == shown.unit]
    drawn = alike[:most]
    if shown not in drawn:
        drawn = [shown, *drawn[:most - 1]]
    drawn = sorted(drawn, key=lambda l: l.value)
    title = text("settings note", lang, metric=shown.metric)
    return charts.bars([charts.Bar(report.setting(l.setting, lang), l.value, report.amount(l.value, l.unit),
                                   "current" if l.key == shown.key else "", href=address[l.key]) for l in drawn],
                       title), len(alike) - len(drawn)


def slice_dates(told: Story, page: int, size: int) -> tuple[list[int], datetime, datetime]:
    """A page of points, the newest first: their indices, and dates around them for a query."""
    n = len(told.marks)
    stop = n - page * size
    taken = list(range(max(0, stop - size), stop))
    return taken, told.marks[taken[0]].at, told.marks[taken[-1]].at + timedelta(microseconds=1)
