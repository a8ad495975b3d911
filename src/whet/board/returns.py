"""What a change would return, with figures that people move: scenarios, from files or from the store, evaluated by
`whet.decide.roi`. Money is computed there and nowhere else."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from markupsafe import Markup

from whet import data_file
from whet.board import charts
from whet.board.words import text
from whet.decide import roi, scenario
from whet.decide.result import Result
from whet.decide.scenario import Source
from whet.errors import InputError
from whet.measure.record import Measurement
from whet.measure.series import Setting
from whet.report import roi as report
from whet.report import rows
from whet.report.roi_charts import money, ticks
from whet.report.roi_words import label
from whet.store import Filters, Store
from whet.store.views import Latest

REQUESTS, DRAWS = 20_000, 1_000  # what follows a hand that moves a slider
MOST_RATE, MOST = 1e6, 1e12  # of a load, and of any other figure
REMEMBERED = 128  # results
AT_ONCE = 2  # evaluations; who comes later waits
UNCERTAIN = {"load": {"low": 0.8, "high": 1.3}}  # of scenarios from the store: how well loads are known


@dataclass(frozen=True)
class Slider:
    """A figure to move: its name in the address, its field of the scenario, its value and the ends of its range.

    `unit` is the unit as it is, or the name of a text.
    """

    name: str
    field: str
    value: float
    low: float
    high: float
    step: float
    unit: str = ""


@dataclass(frozen=True)
class Choice:
    """A way to serve a model that the store has measured: all batch sizes of one backend, precision, threads, machine.
    """

    key: str
    name: str
    setting: Setting
    ids: tuple[int, ...]  # of the series of latencies, one of each batch
    largest: int
    mean: float  # seconds of the smallest batch


def choices(store: Store, model: str) -> list[Choice]:
    """What of a model can be compared: closed loops with a latency, the slowest first. Of several trainings of a model
    (several hashes), the one that was measured last."""
    found: dict[tuple[object, ...], list[Latest]] = {}
    for series in sorted(store.latest([model]), key=lambda s: s.at, reverse=True):
        s = series.setting
        if series.metric == "latency.mean" and s.load.startswith("closed-loop") and s.batch and not s.source:
            found.setdefault((s.backend, s.precision, s.threads, s.device, s.load), []).append(series)
    out: list[Choice] = []
    taken: set[str] = set()
    for kind, group in found.items():
        by_batch: dict[int, Latest] = {}
        for series in group:
            if series.setting.sha256 == group[0].setting.sha256:
                by_batch.setdefault(series.setting.batch or 1, series)
        s = group[0].setting
        threads = f", {s.threads} threads" if s.threads else ""
        name = f"{rows.NAMES.get(s.backend, s.backend)} {s.precision}{threads}"[:60]
        name = name if name not in taken else f"{name}, {group[0].device_name}"[:74]
        name = name if name not in taken else f"{name} {len(taken)}"
        name = "".join(c if c.isprintable() else "?" for c in name)  # as scenarios have it
        taken.add(name)
        out.append(Choice(hashlib.sha256(json.dumps(kind).encode()).hexdigest()[:12], name, s,
                          tuple(l.id for l in by_batch.values()), max(by_batch), by_batch[min(by_batch)].value))
    return sorted(out, key=lambda c: (-c.mean, c.name))


@dataclass(frozen=True)
class Question:
    """A scenario before its figures are moved."""

    data: dict[str, Any]
    origin: str
    folder: Path
    sliders: tuple[Slider, ...]
    lines: Mapping[str, int]
    records: Mapping[str, tuple[Measurement, ...]]

    def moved(self, values: Mapping[str, float]) -> tuple[Slider, ...]:
        """The sliders where somebody put them; a range grows to hold what is typed in."""
        out = []
        for s in self.sliders:
            value = values.get(s.name, s.value)
            out.append(Slider(s.name, s.field, value, min(s.low, value), max(s.high, value), s.step, s.unit))
        return tuple(out)

    def source(self, values: Mapping[str, float]) -> Source:
        """The scenario with the figures as moved, checked. InputError where they cannot be."""
        changes: dict[str, Any] = {}
        for s in self.sliders:
            if s.name in values:
                value = values[s.name]
                changes[s.field] = int(value) if s.name == "horizon" and value == int(value) else value
        return scenario.build(deepcopy(self.data), self.origin, self.lines, self.folder, changes)


def from_store(store: Store, before: Choice, after: Choice, title: str) -> Question:
    """A scenario of two measured ways to serve a model. Its load and prices are there to be moved."""
    records = {}
    for choice in (before, after):
        found = []
        for series in choice.ids:
            newest = store.history(series, last=1)
            if newest:
                found += list(store.records(Filters(since=newest[0].at), series=[series]))[-1:]
        records[f"store:{choice.key}"] = tuple(found)
    rate = _round(10 / before.mean)  # what keeps ten servers busy, one request at a time
    objective = _round(8e3 * max(before.mean, after.mean))
    options = [{"name": c.name, "measurements": f"store:{c.key}", "price_per_hour": 0.5, "max_batch": c.largest}
               for c in (before, after)]
    data = {"title": title[:200], "load": {"rate": rate, "growth_percent_per_month": 0},
            "objective": {"p99_ms": objective}, "labour": {"cost": 5000}, "before": before.name, "after": after.name,
            "options": options, "uncertainty": UNCERTAIN}
    return Question(data, "the store", Path(), _sliders(data), {}, records)


def from_file(path: Path) -> Question:
    """A scenario of somebody's. InputError where it is none."""
    document = data_file.load(path)
    scenario.build(deepcopy(document.data), str(path), document.lines, path.parent)
    return Question(document.data, path.name, path.parent, _sliders(document.data), document.lines, {})


def _sliders(data: Mapping[str, Any]) -> tuple[Slider, ...]:
    """The figures of a scenario that have a slider: those that it gives as plain numbers."""
    load, labour = data["load"], data.get("labour") or {}
    rate, objective = float(load["rate"]), float(data["objective"]["p99_ms"])
    out = [Slider("rate", "load.rate", rate, _step(rate), _round(5 * rate), _step(rate), "/s"),
           Slider("p99", "objective.p99_ms", objective, _step(objective), _round(4 * objective), _step(objective),
                  "ms")]
    currency = str(data.get("currency", "USD"))
    for name in ("before", "after"):
        for i, option in enumerate(data["options"]):
            price = option.get("price_per_hour")
            if option.get("name") == data.get(name) and price is not None:
                step = _step(price or 1)
                out.append(Slider(f"price_{name}", f"options[{i}].price_per_hour", float(price), 0.0,
                                  _round(4 * (price or 1)), step, f"{currency}/h"))
    if "cost" in labour:
        cost = float(labour["cost"])
        size = cost or 5000
        out.append(Slider("labour", "labour.cost", cost, 0.0, _round(4 * size), _step(size), currency))
    out.append(Slider("growth", "load.growth_percent_per_month", float(load.get("growth_percent_per_month", 0)), 0.0,
                      20.0, 0.5, "%"))
    out.append(Slider("horizon", "horizon_months", float(data.get("horizon_months", 12)), 1.0, 60.0, 1.0, "months"))
    out.append(Slider("discount", "discount_percent_per_year", float(data.get("discount_percent_per_year", 0)), 0.0,
                      30.0, 0.5, "%"))
    return tuple(out)


def _round(value: float) -> float:
    """To two significant digits."""
    return float(f"{value:.2g}")


def _step(value: float) -> float:
    """A power of ten that is a fiftieth of a figure or less."""
    return float(f"{10.0 ** math.floor(math.log10(max(abs(value), 1e-9) / 50)):.0e}")


def values_of(given: Mapping[str, str], sliders: Sequence[Slider]) -> dict[str, float]:
    """The figures that an address holds. InputError for one that is no number."""
    out = {}
    for s in sliders:
        if s.name in given and given[s.name] != "":
            try:
                value = float(given[s.name])
            except ValueError as e:
                raise InputError(f"{s.name} is no number", where=given[s.name][:40], do="give a figure") from e
            most = MOST_RATE if s.name == "rate" else MOST
            if not abs(value) <= most:
                raise InputError(f"{s.name} is {value:g}", why=f"figures here are up to {most:g}",
                                 do="whet roi takes larger ones" if s.name == "rate" else "give a smaller one")
            out[s.name] = value
    return out


class Evaluator:
    """Evaluates scenarios, a few at a time, and remembers results: sliders go back and forth."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Result] = OrderedDict()
        self._lock = threading.Lock()
        self._turn = threading.Semaphore(AT_ONCE)

    def __call__(self, question: Question, values: Mapping[str, float]) -> Result:
        """The result with the figures as moved. InputError where they cannot be."""
        source = question.source(values)
        ids = {name: [(r.date, r.model.sha256, r.latency.count if r.latency else 0) for r in found]
               for name, found in question.records.items()}
        key = hashlib.sha256(json.dumps([question.origin, str(question.folder), question.data, dict(values), ids],
                                        sort_keys=True, default=str).encode()).hexdigest()
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        with self._turn:
            found = roi.evaluate(source, roi.Settings(draws=DRAWS, requests=REQUESTS, load=self._loader(question)))
        with self._lock:
            self._known[key] = found
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    @staticmethod
    def _loader(question: Question) -> Any:
        from whet.decide.speed import from_file as load

        def records(name: str, folder: Path, select: Mapping[str, str]) -> list[Measurement]:
            if name in question.records:
                return list(question.records[name])
            if name.startswith("store:"):
                raise InputError("this scenario takes its measurements from a store", where=name,
                                 do="whet history --records writes them into a file; or choose from the store here")
            return load(name, folder, select)

        return records


def cash(r: Result, lang: str) -> Markup:
    """Money by the end of each month: as given, and the bands of the draws."""
    if r.returned is None:
        return Markup("")
    totals = list(accumulate(r.returned.flows))
    drawn = r.returned.intervals
    fan = drawn.fan if drawn else ()
    every = [*totals, *(v for row in fan for v in row)]
    last = len(totals) - 1
    plot = charts.Plot(charts.frame([0, last], every, zero=True), cash_summary(r, lang))
    plot.y_axis(money)
    plot.x_axis([(m, f"{m:.0f}") for m in ticks(0, last, 12) if m == round(m)])
    if fan:
        for kind, a, b in (("fan", 0, 4), ("fan inner", 1, 3)):
            plot.band(list(enumerate(fan[a])), list(enumerate(fan[b])), kind)
    plot.level(0.0, "", "zero")
    plot.curve(list(enumerate(totals)), "line strong")
    return plot.svg()


def cash_summary(r: Result, lang: str) -> str:
    """The chart of money in a sentence."""
    return "; ".join(f"{name}: {value}" for name, value, _ in report.tiles(r, lang))


def tornado(r: Result, lang: str) -> Markup:
    """What the net present value becomes with one figure moved at a time: from its low end to its high end."""
    if r.returned is None:
        return Markup("")
    items = []
    for bar in report.sways(r, lang):
        low, high = sorted((bar.at_low, bar.at_high))
        items.append(charts.Bar(bar.label, high, f"{money(low)} … {money(high)}", "range", low))
    return charts.bars(items, label("What sways it", lang), r.returned.npv)


def status(r: Result, lang: str) -> str:
    """The verdict in a line, for those who do not see the figures change."""
    first = [f"{name} {value}" for name, value, _ in report.tiles(r, lang)[:2]]
    return ". ".join([label(r.verdict, lang).capitalize(), *first]) + "."


def note(question: Question, lang: str) -> list[str]:
    """What must be said of how it was computed."""
    said = [text("quick", lang, requests=f"{REQUESTS:,}", draws=f"{DRAWS:,}")]
    return [*said, text("assumed spread", lang)] if question.records else said
