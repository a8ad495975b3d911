"""Where `whet forecast` has its histories from: the store, files of measurements, CSV files."""

from __future__ import annotations

import csv
import io
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from whet.decide.forecast.outlook import History
from whet.decide.forecast.result import Note
from whet.errors import InputError
from whet.measure import record as records
from whet.measure.record import Measurement
from whet.measure.series import Setting, setting, values, when

if TYPE_CHECKING:
    from whet.store import Filters, Store

LIMITED = 50  # records, the newest, whose roofline is looked at
RECENT = 20  # of a model's records, the newest, that readiness is judged by
MOST_BYTES = 64 << 20  # of a CSV file


@dataclass(frozen=True)
class Line:
    """One metric of one setting, the oldest value first; `limits` are the best values that its rooflines allow."""

    setting: Setting
    device_name: str
    metric: str
    unit: str
    points: list[tuple[datetime, float]]
    limits: tuple[float, ...] = ()


@dataclass(frozen=True)
class Joining:
    """Which settings may be taken for one."""

    across: bool = False
    mixed: bool = False


def of_store(store: Store, filters: Filters, joining: Joining) -> list[Line]:
    """The series of one metric that the filters let through; several that may not be taken for one are refused before
    they are read."""
    found = store.series(filters)
    check([(s.setting, s.device_name) for s in found], filters.metric, joining, store.place)
    out = []
    for s in found:
        points = store.history(s.id, filters)
        limits: tuple[float, ...] = ()
        if points and s.metric.startswith(("latency.", "throughput")):
            newest = replace(filters, since=points[-LIMITED:][0].at)
            limits = _limits(store.records(newest, series=[s.id]), s.metric)
        out.append(Line(s.setting, s.device_name, s.metric, s.unit, [(p.at, p.value) for p in points], limits))
    return [line for line in out if line.points]


def recent(store: Store, filters: Filters, metrics: Sequence[str]) -> list[Measurement]:
    """The newest records of each setting that speak of one of some metrics (`loss`: of an accuracy), oldest first."""
    found: dict[bytes, Measurement] = {}
    for metric in metrics:
        for s in store.series(replace(filters, metric="accuracy.*" if metric == "loss" else metric)):
            last = store.history(s.id, filters, last=RECENT)
            if last:
                for r in store.records(replace(filters, since=last[0].at), series=[s.id]):
                    found[records.encode([r])] = r
    return sorted(found.values(), key=when)


def of_records(found: Iterable[Measurement], metric: str) -> list[Line]:
    """The lines of a metric in measurement records, by setting, in order of date."""
    groups: dict[Setting, list[Measurement]] = {}
    for r in found:
        groups.setdefault(setting(r), []).append(r)
    out = []
    for key, group in groups.items():
        group.sort(key=when)
        points = [(when(r), v) for r in group for v in values(r) if v.metric == metric]
        if points:
            out.append(Line(key, group[-1].device.name, metric, points[-1][1].unit, [(at, v.value) for at, v in points],
                            _limits(group[-LIMITED:], metric)))
    return out


def _limits(found: Iterable[Measurement], metric: str) -> tuple[float, ...]:
    """What the roofline of each record allows: seconds of a call, or samples a second."""
    out = []
    for r in found:
        if r.limit is not None and r.limit.seconds > 0:
            batch = next(iter(r.shapes.values()), (1,))[:1] or (1,)
            if metric.startswith("latency."):
                out.append(r.limit.seconds)
            elif metric == "throughput" and batch[0] > 0:
                out.append(batch[0] / r.limit.seconds)
    return tuple(out)


def check(found: Sequence[tuple[Setting, str]], metric: str, joining: Joining, where: str) -> None:
    """InputError where nothing fits, or several settings (with their machines' names) that may not be taken for one."""
    if not found:
        raise InputError(f"nothing that was measured has {metric}", where=where,
                         do="whet history lists the metrics that there are")
    alike = {replace(s, sha256="" if joining.across else s.sha256, device="" if joining.mixed else s.device)
             for s, _ in found}
    if len(alike) == 1:
        return
    differ = [f.name for f in fields(Setting) if len({getattr(s, f.name) for s, _ in found}) > 1]
    if differ == ["device"]:
        names = ", ".join(dict.fromkeys(f"{name} ({s.device[:8]})" for s, name in found))
        raise InputError("measured on different hardware", where=f"{names}"[:300],
                         why="a faster machine is no optimization", do="choose with --device, or say --mixed-hardware: "
                         "the result is labelled")
    hint = "--across-models takes a model that was trained anew for one; " if "sha256" in differ else ""
    told = "; ".join(f"{name}: {', '.join(sorted({str(getattr(s, name))[:24] for s, _ in found})[:4])}"
                     for name in differ)
    raise InputError(f"{len(found)} series of {metric}", where=where, why=f"they differ in {told}",
                     do=f"{hint}choose with --model, --backend, --precision, --shapes...")


def one(lines: Sequence[Line], metric: str, joining: Joining, where: str) -> History:
    """The one history that is followed. InputError as of `check`."""
    check([(x.setting, x.device_name) for x in lines], metric, joining, where)
    newest = max(lines, key=lambda x: x.points[-1][0])
    points = sorted((p for x in lines for p in x.points), key=lambda p: p[0])
    limits = [v for x in lines for v in x.limits]
    devices = list(dict.fromkeys(x.device_name for x in lines))
    notes = []
    if len({x.setting.device for x in lines}) > 1:
        notes.append(Note(code="mixed", values={"devices": ", ".join(devices)[:200]}))
    if len({x.setting.sha256 for x in lines}) > 1:
        notes.append(Note(code="across"))
    limit = None
    if limits:
        from whet.report.history import amount

        limit = max(limits) if metric == "throughput" else min(limits)
        notes.append(Note(code="limit", values={"n": str(len(limits)), "limit": amount(limit, newest.unit)}))
    model = newest.setting.model
    return History(metric, [at for at, _ in points], [v for _, v in points], newest.unit, limit=limit, model=model,
                   label=f"{model}, {metric}", device=", ".join(devices)[:200], notes=tuple(notes))


def read_csv(path: Path, column: str = "") -> History:
    """A history of a CSV file with a header: `date` (ISO 8601) and a column of values, in the order of rows.

    InputError for what is none: no such columns, a row without a date or number, a file that is no text.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError("a history too large to read", where=str(path), why=f"{MOST_BYTES >> 20} MiB are read")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError("the history cannot be read", where=str(path), why=getattr(e, "strerror", None) or str(e),
                         do="give a CSV file in UTF-8") from e
    try:
        rows = [r for r in csv.reader(io.StringIO(text), strict=True) if any(c.strip() for c in r)]
    except csv.Error as e:
        raise InputError("not a CSV file", where=str(path), why=str(e), do="give a CSV file of date,value") from e
    if len(rows) < 2:
        raise InputError("an empty history", where=str(path), why="there is no row below the header",
                         do="give a CSV file of date,value")
    head = [h.strip().lower() for h in rows[0]]
    if "date" not in head:
        raise InputError("a history without dates", where=str(path), why=f"its columns are {', '.join(head)[:200]}",
                         do="name one of them date")
    at, place = head.index("date"), _column(head, column, path)
    dates, found = [], []
    for i, row in enumerate(rows[1:], 2):
        where = f"{path}:{i}"
        if len(row) != len(head):
            raise InputError(f"{len(row)} cells under {len(head)} headings", where=where, do="correct the row")
        dates.append(_date(row[at], where))
        found.append(_number(row[place], where))
        if len(dates) > 1 and dates[-1] < dates[-2]:
            raise InputError(f"the dates go back from {dates[-2]:%Y-%m-%d} to {dates[-1]:%Y-%m-%d}", where=where,
                             why="a history is told in order: either a clock was wrong, or these are several in one",
                             do="sort the rows, or split the file")
    return History(rows[0][place].strip()[:60], dates, found, label=f"{path.name}, {rows[0][place].strip()[:60]}")


def _column(head: Sequence[str], column: str, path: Path) -> int:
    wanted = column.strip().lower()
    if wanted:
        if wanted not in head:
            raise InputError(f"no column {column!r}", where=str(path), why=f"there are {', '.join(head)[:200]}",
                             do="choose among these with --column")
        return head.index(wanted)
    others = [h for h in head if h != "date"]
    if "value" in others or len(others) == 1:
        return head.index("value" if "value" in others else others[0])
    raise InputError("which column holds the values?", where=str(path), why=f"there are {', '.join(others)[:200]}",
                     do="say --column NAME")


def _date(text: str, where: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as e:
        raise InputError(f"not a date: {text.strip()[:40]!r}", where=where, why=str(e),
                         do="dates are ISO 8601, as 2026-01-31") from e


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"not a finite number: {text.strip()[:40]!r}", where=where,
                         why="what could not be measured is no value", do="leave the row out")
    return value


def by_model(found: Iterable[Measurement], backend: str, metrics: Sequence[str], joining: Joining, where: str
             ) -> dict[str, list[Measurement]]:
    """The newest records of each model, of one setting each. InputError for several, or other hardware."""
    kept: dict[str, dict[tuple[object, ...], deque[Measurement]]] = {}
    for r in found:
        key = (r.backend, r.precision, r.threads, "" if joining.mixed else r.device.fingerprint)
        kept.setdefault(r.model.name, {}).setdefault(key, deque(maxlen=RECENT)).append(r)
    out = {}
    for name, groups in kept.items():
        ours = {k: g for k, g in groups.items() if k[0] == "whet"}
        chosen = ours if ours and not backend else groups
        if len(chosen) > 1:
            told = "; ".join(" ".join(str(x)[:12] for x in k if x) for k in list(chosen)[:4])
            alike = len({k[:3] for k in chosen}) == 1
            raise InputError(f"{name} was measured {'on different hardware' if alike else 'in several ways'}",
                             where=where, why=told, do="choose with --device, or say --mixed-hardware" if alike
                             else "choose with --backend, --precision, --threads")
        group = sorted(next(iter(chosen.values())), key=when)
        for metric in metrics:
            shapes = {setting(r).shapes for r in group if any(v.metric == metric for v in values(r))}
            if len(shapes) > 1:
                raise InputError(f"{name} was measured at several shapes", where=where,
                                 why="; ".join(sorted(shapes)[:4])[:300], do="choose with --shapes, or --batch")
        out[name] = group
    devices = {r.device.fingerprint: r.device.name for group in out.values() for r in group}
    if len(devices) > 1 and not joining.mixed:
        raise InputError("models measured on different hardware", where=", ".join(devices.values())[:300],
                         why="whether they are ready is a question of one machine",
                         do="choose with --device, or say --mixed-hardware: the result is labelled")
    return out


def read_files(paths: Sequence[Path]) -> list[Measurement]:
    """All records of some files."""
    return [r for path in paths for r in records.read(path)]
