"""The page of a model: one line over time with its changes, its other settings, its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

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
LAST = 253402300799.0  # seconds of the last date that there is
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
    level, unit, log = told.level, line.unit, told.log
    out = [Tile(text("newest", lang), report.amount(float(told.marks.value[-1]), unit), f"{told.when(-1):{MINUTE}}")]
    changed = [s for s in told.segments if s.change]
    last = told.segments[-1]
    if level is None:
        out.append(Tile(text("now", lang), text("unknown", lang), text("unknown note", lang)))
    else:
        note = text("95", lang, low=report.amount(level.low, unit), high=report.amount(level.high, unit))
        out.append(Tile(text("now", lang), report.amount(level.value, unit), note))
    if changed and last.change:
        since = text("since", lang, date=f"{told.when(last.start):%Y-%m-%d}", n=f"{last.count:,}")
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


def scale(told: Story, unit: str) -> tuple[float, str]:
    """The factor and the name of the unit that values are drawn in."""
    top = float(np.abs(told.values).max())
    if unit == "s":
        return rows.unit(top)
    if unit == "bytes":
        power = next((p for p in (3, 2, 1) if top >= 1024**p), 0)
        return 1 / 1024**power, ("bytes", "KiB", "MiB", "GiB")[power]
    return 1.0, unit


@dataclass(frozen=True)
class Drawn:
    """A chart with the data of its cursor, the unit of its axis, what is what in it, and what must be said of it."""

    svg: Markup
    unit: str
    legend: list[tuple[str, str]]
    notes: list[str]


def chart(line: Line, told: Story, lang: str) -> Drawn:
    """The chart of a line with its levels, its changes and the values to come."""
    at, values = told.marks.at, told.values
    factor, unit = scale(told, line.unit)
    kept = thin.m4(at, values, COLUMNS)
    ys = [values[kept] * factor]
    dotted = len(kept) <= DOTTED
    spans = _spans(told, kept, factor) if dotted else []
    ahead = _ahead(told, factor)
    ys += [np.array(row[1:]) for row in (*spans, *ahead)]
    right = ahead[-1][0] if ahead else at[-1]
    around = charts.frame([at[0], right], np.concatenate(ys))
    plot = charts.Plot(around, summary(line, told, lang))
    plot.y_axis(lambda v: f"{v:.6g}")
    plot.x_axis(charts.dates(around.left, around.right))
    _levels(plot, told, factor)
    plot.spans(spans, "span")
    points = list(zip(at[kept].tolist(), (values[kept] * factor).tolist()))
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
        plot.upright(at[s.start], effect(s.change.effect, told.log, line.unit) if fits else "",
                     f"change {better(line.metric, s.change.effect)}")
    told_of = kept if len(kept) <= TOLD else kept[np.linspace(0, len(kept) - 1, TOLD).astype(int)]
    said = [(around.x(at[i]), around.y(values[i] * factor),
             f"{told.when(i):{MINUTE}}: {report.amount(float(told.marks.value[i]), line.unit)}") for i in told_of]
    notes = []
    if len(kept) < len(told.marks):
        notes.append(text("thinned", lang, n=f"{len(kept):,}", all=f"{len(told.marks):,}"))
    if told.stretch > 1:
        notes.append(text("stretched", lang, n=told.stretch))
    if told.cut:
        notes.append(text("cut", lang, n=f"{MOST_POINTS:,}"))
    legend = [("dot", text("measured point", lang)),
              ("level", text("level" if told.stretch == 1 else "level alone", lang))]
    legend += [("change", text("change point", lang))] if changes else []
    legend += [("fan", text("ahead", lang, h=AHEAD))] if ahead else []
    return Drawn(plot.svg(cursor=True) + charts.data(said), unit, legend, notes)


def _spans(told: Story, kept: np.ndarray, factor: float) -> list[tuple[float, float, float]]:
    """The intervals of points, cut where they would make all else small."""
    value = told.values
    reach = 4 * max(float(np.ptp(value[kept])), abs(float(np.median(value))) * 0.05)
    both = kept[~(np.isnan(told.marks.low[kept]) | np.isnan(told.marks.high[kept]))]
    low, high = (np.clip(end[both], value[both] - reach, value[both] + reach) * factor
                 for end in (told.marks.low, told.marks.high))
    return list(zip(told.marks.at[both].tolist(), low.tolist(), high.tolist()))


def _ahead(told: Story, factor: float) -> list[tuple[float, float, float]]:
    """Time, low and high of the values to come, at the pace of the last ones."""
    at = told.marks.at
    if told.level is None or len(at) < 2:
        return []
    recent = np.diff(at[-21:])
    step = float(np.median(recent))
    reach = min(AHEAD * step, 0.12 * float(at[-1] - at[0]), LAST - float(at[-1]))
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


def _levels(plot: charts.Plot, told: Story, factor: float) -> None:
    at = told.marks.at
    for s in told.segments:
        a, z = float(at[s.start]), float(at[min(s.stop, len(at) - 1)])
        low, high = ((s.level / (1 + s.spread), s.level * (1 + s.spread)) if told.log
                     else (s.level - s.spread, s.level + s.spread))
        if told.stretch == 1:  # medians spread less than points do
            plot.band([(a, low * factor), (z, low * factor)], [(a, high * factor), (z, high * factor)], "spread")
        plot.curve([(a, s.level * factor), (z, s.level * factor)], "level")


def summary(line: Line, told: Story, lang: str) -> str:
    """The chart in a sentence."""
    values = told.marks.value
    return text("chart", lang, metric=line.metric, model=line.setting.model, n=f"{len(values):,}",
                first=f"{told.when(0):%Y-%m-%d}", last=f"{told.when(-1):%Y-%m-%d}",
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
    log, out = told.log, []
    for before, s in zip(told.segments, told.segments[1:]):
        if s.change is not None:
            c = s.change
            ends = text("span", lang, low=effect(c.low, log, line.unit), high=effect(c.high, log, line.unit))
            out.append(Row(told.when(s.start), report.amount(before.level, line.unit),
                           report.amount(s.level, line.unit), effect(c.effect, log, line.unit), ends,
                           confidence(c.confidence), better(line.metric, c.effect)))
    return out[::-1]


def confidence(value: float) -> str:
    """`99.3 %`, `> 99.9 %`."""
    return "> 99.9 %" if value > 0.999 else f"{value * 100:.1f} %"


def unchanged(line: Line, told: Story, lang: str) -> str:
    """What there is to say where no change was found: how far one value lies from its level."""
    if len(told.marks) == 1:
        return text("one value", lang)
    spread = told.segments[-1].spread
    return text("no changes", lang,
                spread=f"{spread * 100:.2g} %" if told.log else report.amount(spread, line.unit))


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


def after(at: datetime) -> datetime:
    """The end of the second of a date (points are placed by whole seconds), or the last date that there is."""
    return min(at, datetime.max.replace(tzinfo=UTC) - timedelta(seconds=1)) + timedelta(seconds=1)


def slice_dates(told: Story, page: int, size: int) -> tuple[int, datetime, datetime]:
    """A page of points, the newest first: how many they are, and the dates around them for a query."""
    stop = len(told.marks) - page * size
    start = max(0, stop - size)
    return stop - start, told.when(start), after(told.when(stop - 1))
