"""Pictures of what gates and forecasts found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from markupsafe import Markup

from whet.board import charts
from whet.board.data import lines as of_model
from whet.board.data import story
from whet.board.words import text
from whet.decide.forecast.result import Forecast, Milestone
from whet.decide.gate.result import Case, Trend
from whet.report import forecast, rows
from whet.report.history import amount
from whet.store import Filters, Store

BEFORE = 60  # values before a gate
ALIKE = ("backend", "precision", "threads", "shapes", "device", "load")


def fan(m: Milestone, lang: str) -> Markup:
    """A history, the quantiles of its level on dates to come, the target and the hardware's limit."""
    if m.fan is None or not m.history:
        return Markup("")
    scale, unit = _scale(m.unit, [p.value for p in m.history])
    days, now, last = [_seconds(d) for d in m.fan.dates], _seconds(m.fan.dates[0]), _seconds(m.fan.dates[-1])
    first = max(_seconds(m.history[0].date), now - 2 * max(86400.0, last - now))  # so that the fan can be seen
    past = [(_seconds(p.date), p.value * scale) for p in m.history if _seconds(p.date) >= first]
    quantiles = [[v * scale for v in row] for row in m.fan.values]
    marks = [(kind, v * scale) for kind, v in (("target", m.target), ("limit", m.limit))
             if v is not None and math.isfinite(v)]
    ys = [*(v for _, v in past), *quantiles[1], *quantiles[-2], *(v for _, v in marks)]
    said = "; ".join(s for found in forecast.findings(_alone(m), lang) for s in found)
    plot = charts.Plot(charts.frame([first, last], ys), said)
    plot.y_axis(lambda v: f"{v:.6g}")
    plot.x_axis(charts.dates(first, last))
    for i in range(len(quantiles) // 2):
        plot.band(list(zip(days, quantiles[i])), list(zip(days, quantiles[-1 - i])), "fan")
    plot.curve(list(zip(days, quantiles[len(quantiles) // 2])), "middle")
    plot.curve(past, "line")
    plot.dots(past, "dots")
    for kind, value in marks:
        plot.level(value, f"{text(kind, lang)} {value:.4g} {unit}".rstrip(), "target" if kind == "target" else "zero")
    return plot.svg()


def dates(m: Milestone, lang: str) -> Markup:
    """The probability of having reached the target by each date."""
    return charts.bars([charts.Bar(r.date, r.probability, forecast.chance(r.probability), "current" if r.asked else "")
                        for r in m.by_date], text("by date", lang), upto=1.0)


def trend(store: Store, case: Case, t: Trend, lang: str) -> tuple[Markup, str] | None:
    """A metric before a gate with its levels, and what the gate measured; and the unit of its axis.

    Gates are kept without the history that they judged by: it is the store's. None where that has none of it.
    """
    lines = [l for l in of_model(store.latest([case.model])) if l.metric == t.metric and all(
        getattr(l.setting, name) == getattr(case, name) for name in ALIKE)]
    if not lines or not t.values:
        return None
    told = story(store.marks(lines[0].ids, Filters(until=datetime.fromisoformat(case.date)), last=BEFORE))
    count = len(told.marks)
    if not count:
        return None
    scale, unit = _scale(t.unit, [*told.values.tolist(), *t.values])
    past = list(enumerate((told.values * scale).tolist()))
    new = [(count + i, v * scale) for i, v in enumerate(t.values)]
    plot = charts.Plot(charts.frame([0, new[-1][0]], [v for _, v in (*past, *new)]),
                       text("trend", lang, metric=t.metric, n=count, now=amount(t.values[-1], t.unit)))
    plot.y_axis(lambda v: f"{v:.6g}")
    plot.x_axis([(i, f"{told.when(i):%Y-%m-%d}") for i in dict.fromkeys((0, count - 1))])
    for s in told.segments:
        plot.curve([(s.start, s.level * scale), (s.stop - 1, s.level * scale)], "level")
    plot.curve(past, "line")
    plot.dots(past, "dots")
    bad = " worse" if t.state in ("regressed", "suspected") else ""
    plot.dots(new, f"dots now{bad}")
    return plot.svg(), unit


def _alone(m: Milestone) -> Forecast:
    return Forecast(date="", sure=0.95, milestones=(m,))


def _scale(unit: str, values: Sequence[float]) -> tuple[float, str]:
    return rows.unit(max(map(abs, values), default=1.0)) if unit == "s" else (1.0, unit)


def _seconds(text_: str) -> float:
    found = datetime.fromisoformat(text_)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
