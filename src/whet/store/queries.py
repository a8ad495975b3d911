"""What is asked of the tables."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from whet.measure.record import Measurement, decode
from whet.measure.series import Setting
from whet.store import tables
from whet.store.database import Database
from whet.store.filters import Filters
from whet.store.results import Kept
from whet.store.store import Point, Series
from whet.store.tables import point, record, setting

AT_ONCE = 200  # records that are held in memory together


def series(database: Database, filters: Filters) -> list[Series]:
    """See `Store.series`."""
    mine = [point.c.series_id == tables.series.c.id, *_dates(filters, point.c.at)]

    def total(what: Any) -> Any:
        return sa.select(what).where(*mine).scalar_subquery()

    newest = (sa.select(point.c.value).where(*mine).order_by(point.c.at.desc(), point.c.record_id.desc()).limit(1)
              .scalar_subquery())
    query = (sa.select(tables.series.c.id.label("series_id"), tables.series.c.metric, tables.series.c.unit, setting,
                       total(sa.func.count()).label("count"), total(sa.func.min(point.c.at)).label("first"),
                       total(sa.func.max(point.c.at)).label("last"), newest.label("value"))
             .join(setting, setting.c.id == tables.series.c.setting_id)
             .where(*_conditions(filters), *_like(tables.series.c.metric, filters.metric))
             .order_by(setting.c.model, setting.c.backend, setting.c.precision, setting.c.shapes,
                       tables.series.c.metric, tables.series.c.id))
    with database.reading() as connection:
        return [Series(id=row.series_id, setting=_setting(row._mapping), device_name=row.device_name,
                       metric=row.metric, unit=row.unit, count=row._mapping["count"], first=row.first, last=row.last,
                       value=row.value)
                for row in connection.execute(query) if row._mapping["count"]]


def history(database: Database, ids: Sequence[int], filters: Filters, last: int | None) -> list[Point]:
    """See `Store.history`."""
    query = (sa.select(point.c.at, point.c.value, point.c.low, point.c.high, point.c.record_id, record.c.plan,
                       record.c.version)
             .join(record, record.c.id == point.c.record_id)
             .where(point.c.series_id.in_(ids), *_dates(filters, point.c.at))
             .order_by(point.c.at.desc(), point.c.record_id.desc()).limit(last))
    with database.reading() as connection:
        return [Point(*row) for row in reversed(connection.execute(query).all())]


def records(database: Database, filters: Filters, ids: Sequence[int]) -> Iterator[Measurement]:
    """See `Store.records`."""
    wanted = sa.select(record.c.id).where(*_dates(filters, record.c.at))
    wanted = wanted.join(setting, setting.c.id == record.c.setting_id).where(*_conditions(filters))
    if ids or filters.metric:
        have = sa.select(point.c.record_id).join(tables.series, tables.series.c.id == point.c.series_id)
        have = have.where(*_like(tables.series.c.metric, filters.metric))
        have = have.where(tables.series.c.id.in_(ids)) if ids else have
        wanted = wanted.where(record.c.id.in_(have))
    with database.reading() as connection:
        # The numbers alone of all of them, so that the database need not sort bodies nor this process hold them.
        order = array("q", connection.execute(wanted.order_by(record.c.at, record.c.id)).scalars())
        for i in range(0, len(order), AT_ONCE):
            part = order[i:i + AT_ONCE].tolist()
            query = sa.select(record.c.body).where(record.c.id.in_(part)).order_by(record.c.at, record.c.id)
            for body in connection.execute(query).scalars():
                yield from decode(body.encode(), database.place)


def kept(database: Database, kind: str, model: str, last: int | None, dates: Filters) -> list[Kept]:
    """See `Store.kept`."""
    of = tables.result.c
    query = (sa.select(of.kind, of.model, of.at, of.body, of.id)
             .where(*_like(of.kind, kind), *_like(of.model, model), *_dates(dates, of.at))
             .order_by(of.at.desc(), of.id.desc()).limit(last))
    with database.reading() as connection:
        return [Kept(row.kind, row.model, row.at, json.loads(row.body), row.id)
                for row in reversed(connection.execute(query).all())]


def _setting(row: Any) -> Setting:
    return Setting(**{name: row[name] for name in Setting.__dataclass_fields__})


def _conditions(filters: Filters) -> list[sa.ColumnElement[bool]]:
    """What a setting must be."""
    found: list[sa.ColumnElement[bool]] = []
    for name in ("model", "backend", "precision", "shapes", "load"):
        found += _like(setting.c[name], getattr(filters, name))
    for name in ("sha256", "device"):
        if start := getattr(filters, name):
            found.append(setting.c[name].startswith(start, autoescape=True))
    if filters.source:
        found.append(setting.c.source.contains(filters.source, autoescape=True))
    if filters.threads is not None:
        found.append(setting.c.threads == filters.threads)
    if filters.batch is not None:
        found.append(setting.c.batch == filters.batch)
    return found


def _like(column: Any, pattern: str) -> list[sa.ColumnElement[bool]]:
    """Equal, or where there are `*` and `?` alike, whatever the case."""
    if not pattern:
        return []
    if "*" not in pattern and "?" not in pattern:
        return [column == pattern]
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return [column.ilike(escaped.replace("*", "%").replace("?", "_"), escape="\\")]


def _dates(filters: Filters, column: Any) -> list[sa.ColumnElement[bool]]:
    return [*([column >= filters.since] if filters.since else []), *([column < filters.until] if filters.until else [])]
