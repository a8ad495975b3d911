"""What a page over the store asks: answers that cost as little in a store of millions of records as in a small one.

Nothing here counts or reads the points of series that are not shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import sqlalchemy as sa

from whet.measure.series import Setting
from whet.store import tables
from whet.store.database import Database
from whet.store.filters import Filters
from whet.store.queries import _dates, _setting
from whet.store.results import Kept
from whet.store.tables import point, record, setting


@dataclass(frozen=True)
class Known:
    """A model by its name, of whatever hash: how many settings it was measured in, and when last."""

    name: str
    settings: int
    newest: datetime


@dataclass(frozen=True)
class Latest:
    """A series with its newest point alone."""

    id: int
    setting: Setting
    device_name: str
    metric: str
    unit: str
    at: datetime
    value: float


@dataclass(frozen=True)
class Marks:
    """Points in columns, the oldest first: [n] seconds since 1970 (UTC, whole), values, and the ends of the intervals
    that records state, NaN where they state none."""

    at: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __len__(self) -> int:
        return len(self.at)


def models(database: Database, part: str, offset: int, limit: int) -> tuple[list[Known], int]:
    """Models whose names hold `part`, those measured last first: one page of them, and how many there are."""
    mine = setting.c.model.icontains(part, autoescape=True) if part else sa.true()
    newest = sa.select(sa.func.max(record.c.at)).where(record.c.setting_id == setting.c.id).scalar_subquery()
    each = sa.select(setting.c.model, newest.label("newest")).where(mine).subquery()
    last = sa.func.max(each.c.newest)
    query = (sa.select(each.c.model, sa.func.count(), last).group_by(each.c.model)
             .order_by(last.desc(), each.c.model).offset(offset).limit(limit))
    total = sa.select(sa.func.count(sa.distinct(setting.c.model))).where(mine)
    with database.reading() as connection:
        return [Known(*row) for row in connection.execute(query)], connection.execute(total).scalar_one()


def latest(database: Database, names: Sequence[str]) -> list[Latest]:
    """All series of models of these names, each with its newest point."""
    newest = (sa.select(point.c.at).where(point.c.series_id == tables.series.c.id)
              .order_by(point.c.at.desc(), point.c.record_id.desc()).limit(1).scalar_subquery())
    value = (sa.select(point.c.value).where(point.c.series_id == tables.series.c.id)
             .order_by(point.c.at.desc(), point.c.record_id.desc()).limit(1).scalar_subquery())
    query = (sa.select(tables.series.c.id.label("series_id"), tables.series.c.metric, tables.series.c.unit, setting,
                       newest.label("newest"), value.label("value"))
             .join(setting, setting.c.id == tables.series.c.setting_id).where(setting.c.model.in_(names))
             .order_by(setting.c.model, setting.c.backend, setting.c.precision, setting.c.shapes,
                       tables.series.c.metric, tables.series.c.id))
    with database.reading() as connection:
        return [Latest(row.series_id, _setting(row._mapping), row.device_name, row.metric, row.unit, row.newest,
                       row.value) for row in connection.execute(query) if row.newest is not None]


def marks(database: Database, ids: Sequence[int], filters: Filters, last: int) -> Marks:
    """The newest `last` points of series, the oldest first, without what their records say besides."""
    query = (sa.select(sa.extract("epoch", point.c.at), point.c.value, point.c.low, point.c.high)
             .where(point.c.series_id.in_(ids), *_dates(filters, point.c.at))
             .order_by(point.c.at.desc(), point.c.record_id.desc()).limit(last))
    with database.reading() as connection:
        found = connection.execute(query)
        # The driver's own rows: a hundred thousand objects less, of numbers that need no conversion.
        rows = found.cursor.fetchall() if found.cursor is not None else []
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)[::-1]
    return Marks(*table.T.copy())


def size(database: Database) -> tuple[int, int]:
    """How many settings and records there are."""
    with database.reading() as connection:
        return (connection.execute(sa.select(sa.func.count()).select_from(setting)).scalar_one(),
                connection.execute(sa.select(sa.func.count()).select_from(record)).scalar_one())


def results(database: Database, kind: str, model: str, offset: int, limit: int) -> tuple[list[Kept], int]:
    """One page of the results that are kept, the newest first, and how many there are."""
    of = tables.result.c
    mine = [*([of.kind == kind] if kind else []), *([of.model == model] if model else [])]
    query = (sa.select(of.kind, of.model, of.at, of.body, of.id).where(*mine).order_by(of.at.desc(), of.id.desc())
             .offset(offset).limit(limit))
    with database.reading() as connection:
        total = connection.execute(sa.select(sa.func.count()).select_from(tables.result).where(*mine)).scalar_one()
        return [_kept(*row) for row in connection.execute(query)], total


def result(database: Database, number: int) -> Kept | None:
    """The result of that number in the store, None where there is none."""
    of = tables.result.c
    with database.reading() as connection:
        row = connection.execute(sa.select(of.kind, of.model, of.at, of.body, of.id).where(of.id == number)).first()
        return _kept(*row) if row is not None else None


def _kept(kind: str, model: str, at: datetime, body: str, number: int) -> Kept:
    return Kept(kind, model, at, json.loads(body), number)
