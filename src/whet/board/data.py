"""What the pages show, read from the store and put together: models, lines over time, settings of a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import numpy as np

from whet.decide.history import Level, Segment, fit, segments
from whet.errors import InputError
from whet.measure.series import Setting
from whet.store import Filters, Store
from whet.store.views import Latest, Marks

MOST_POINTS = 100_000  # of a line, the newest
MOST_STRETCHES = 2_000  # that change points are looked for among; of longer lines, medians of equal stretches
LARGEST = 1e100  # what larger values are drawn and judged as: their squares are no floats (1e300 stands for infinity)
GLANCE = 60  # points of a model in the list
FIRST = ("latency.p50", "throughput", "latency.mean", "latency.p99")  # the metric that a model is known by
_ALIKE = attrgetter(*(f.name for f in fields(Setting) if f.name != "sha256"))  # what is equal within a line
RANGES = {"30d": 30, "90d": 90, "1y": 365, "all": None}  # days before the newest point


@dataclass(frozen=True)
class Line:
    """A metric of one setting, over models that differ in their hash alone (one trained anew each week is one line)."""

    ids: tuple[int, ...]
    setting: Setting  # without a hash where there are several
    device_name: str
    metric: str
    unit: str
    at: datetime
    value: float

    @property
    def key(self) -> str:
        """What stands for the setting in an address: the same in every store."""
        return setting_key(self.setting)


def setting_key(setting: Setting) -> str:
    """Twelve hexadecimal digits: of all of a setting but the model's hash."""
    return hashlib.sha256(json.dumps(_ALIKE(setting)).encode()).hexdigest()[:12]


def lines(found: Sequence[Latest]) -> list[Line]:
    """Series as lines, the one that was measured last first."""
    alike: dict[tuple[object, str, str], list[Latest]] = {}
    for s in found:
        alike.setdefault((_ALIKE(s.setting), s.metric, s.unit), []).append(s)
    out = []
    for group in alike.values():
        last = max(group, key=lambda s: (s.at, s.id))
        setting = last.setting if len(group) == 1 else replace(last.setting, sha256="")
        out.append(Line(tuple(sorted(s.id for s in group)), setting, last.device_name, last.metric, last.unit, last.at,
                        last.value))
    return sorted(out, key=lambda l: (-l.at.timestamp(), l.metric, l.ids))


def chosen(found: Sequence[Line], metric: str, key: str) -> Line:
    """The line that an address means; with nothing named, the newest by the metrics that are looked at first.

    InputError for a metric or setting that is not there.
    """
    if key:
        of_key = [l for l in found if l.key == key]
        if not of_key:
            raise InputError("no such setting of this model", where=key[:40], do="choose one from the model's page")
        found = of_key
    if metric:
        of_metric = [l for l in found if l.metric == metric]
        if not of_metric:
            raise InputError("no such metric of this setting", where=metric[:80],
                             why=f"there are {', '.join(dict.fromkeys(l.metric for l in found))}"[:400],
                             do="choose one from the model's page")
        return of_metric[0]
    return next((l for name in FIRST for l in found if l.metric == name), found[0])


def within(store: Store, line: Line, span: str) -> Filters:
    """The dates of a range: `30d`, `90d`, `1y` (back from the newest point), `all`, or `2026-01-01..2026-03-01`."""
    if span in RANGES:
        days = RANGES[span]
        return Filters(since=_moved(line.at, -days)) if days else Filters()
    first, dots, last = span.partition("..")
    try:
        ends = [datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None for text in (first, last)]
    except ValueError as e:
        raise InputError(f"no range {span[:40]!r}", why=str(e)[:200],
                         do=f"{', '.join(RANGES)}, or as 2026-01-01..2026-03-01") from e
    if not dots or (ends[0] and ends[1] and ends[0] > ends[1]):
        raise InputError(f"no range {span[:40]!r}", why="it ends before it begins" if dots else "it has no ..",
                         do=f"{', '.join(RANGES)}, or as 2026-01-01..2026-03-01")
    return Filters(since=ends[0], until=_moved(ends[1], 1) if ends[1] else None)


def _moved(at: datetime, days: int) -> datetime | None:
    """So many days on; None beyond the dates that there are, where nothing ends."""
    try:
        return at + timedelta(days=days)
    except OverflowError:
        return None


@dataclass(frozen=True)
class Story:
    """A line over a range: its points, where its level changed, and where it stands.

    `log`: all values are positive, so that changes are relative. `stretch`: how many points in a row one value of the
    search for changes is the median of (1: it is the point).
    """

    marks: Marks
    values: np.ndarray  # of the marks, within what can be drawn
    cut: bool  # there are older points in the range that were not read
    segments: tuple[Segment, ...]  # indices are those of `marks`
    level: Level | None
    log: bool
    stretch: int

    def when(self, index: int) -> datetime:
        """The date of a point."""
        return date(self.marks.at[index])


def date(seconds: float) -> datetime:
    """Seconds since 1970 as a date, UTC."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=float(seconds))


def story(marks: Marks) -> Story:
    """What `whet.decide.history` says of points, the newest `MOST_POINTS`. No points, no story."""
    cut = len(marks) > MOST_POINTS
    marks = Marks(*(column[-MOST_POINTS:] for column in (marks.at, marks.value, marks.low, marks.high)))
    values = within_reach(marks.value)
    if not len(values):
        return Story(marks, values, cut, (), None, True, 1)
    stretch = -(-len(values) // MOST_STRETCHES)
    if stretch == 1:
        found = segments(values)
        level = _level(values[found[-1].start:])
    else:
        # Stretches end with the newest point; the oldest points that fill none are left out of the search.
        first = len(values) % stretch
        middles = np.median(values[first:].reshape(-1, stretch), axis=1)
        found = [replace(s, start=s.start * stretch + first if s.start else 0, stop=s.stop * stretch + first,
                         count=s.count * stretch,
                         change=replace(s.change, at=s.change.at * stretch + first) if s.change else None)
                 for s in segments(middles)]
        level = _level(values[found[-1].start:][-MOST_STRETCHES:])
    return Story(marks, values, cut, tuple(found), level, bool((values > 0).all()), stretch)


def within_reach(values: np.ndarray) -> np.ndarray:
    """Values of no more than `LARGEST`."""
    return np.clip(values, -LARGEST, LARGEST)


def _level(values: np.ndarray) -> Level | None:
    try:
        return fit(values)
    except InputError:  # too little to say how far the next may lie
        return None


@dataclass(frozen=True)
class Glance:
    """A model as the list shows it; `change`: of the newest level against the one before, None for no change."""

    name: str
    settings: int
    newest: datetime
    line: Line
    recent: tuple[float, ...]
    level: Segment
    changed: datetime | None


def glances(store: Store, part: str, offset: int, limit: int) -> tuple[list[Glance], int]:
    """One page of the models, those measured last first, and how many there are."""
    known, total = store.models(part, offset=offset, limit=limit)
    by_name: dict[str, list[Latest]] = {}
    for series in store.latest([k.name for k in known]):
        by_name.setdefault(series.setting.model, []).append(series)
    out = []
    for k in known:
        if k.name not in by_name:  # records without a single metric
            continue
        line = chosen(lines(by_name[k.name]), "", "")
        marks = store.marks(line.ids, last=GLANCE)
        values = within_reach(marks.value)
        found = segments(values)[-1]
        out.append(Glance(k.name, k.settings, k.newest, line, tuple(values.tolist()), found,
                          date(marks.at[found.change.at]) if found.change else None))
    return out, total
