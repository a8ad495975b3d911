"""Records into the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from whet.errors import InputError
from whet.measure.record import SCHEMA, Measurement
from whet.measure.series import Setting, Value, setting, values, when
from whet.store import tables
from whet.store.database import Database
from whet.store.results import Row
from whet.store.store import Added, digest

T = TypeVar("T")
AT_ONCE = 500  # values in one list of SQL's


@dataclass(frozen=True)
class _Row:
    """A record, ready to be written."""

    digest: str
    setting: Setting
    device_name: str
    at: datetime
    plan: str
    version: str
    body: str
    values: tuple[Value, ...]


def add(database: Database, records: Sequence[Measurement]) -> Added:
    """Write records in one transaction; those that are there already are left as they are."""
    # In one order for all writers: two that wait for each other's rows would wait forever.
    rows = sorted({row.digest: row for row in map(_row, records)}.values(), key=lambda row: row.digest)
    new = database.write(lambda connection: _write(connection, rows))
    return Added(new, len(records) - new)


def keep(database: Database, row: Row) -> int:
    """Write a result; its number, also where it was there already."""
    def write(connection: sa.Connection) -> int:
        return _ids(connection, tables.result, ("digest",), [asdict(row)])[row.digest,]
    return database.write(write)


def _row(record: Measurement) -> _Row:
    where = record.model.name[:80]
    if record.schema > SCHEMA:
        raise InputError("a measurement of a newer whet", where=where,
                         why=f"schema {record.schema}, this whet knows up to {SCHEMA}", do="update whet")
    body = msgspec.json.encode({"schema": record.schema, **msgspec.to_builtins(record)})
    try:
        why = "" if msgspec.json.decode(body, type=Measurement) == record else "a number is NaN or infinite"
    except msgspec.DecodeError as e:
        why = str(e)
    if why:
        raise InputError("a record that breaks the schema", where=where, why=why, do="correct the record")
    version = record.versions.get(record.backend) or record.versions.get("commit", "")
    return _Row(digest(body), setting(record), _text(record.device.name), when(record),
                _text(record.plan.hash) if record.plan else "", _text(version), body.decode(),
                tuple(replace(v, metric=_text(v.metric), unit=_text(v.unit)) if "\0" in v.metric + v.unit else v
                      for v in values(record)))


def _write(connection: sa.Connection, rows: Sequence[_Row]) -> int:
    found = {r.setting.key: r for r in rows}
    settings = _ids(connection, tables.setting, ("key",), [
        {"key": key, "device_name": r.device_name, **{k: _text(v) for k, v in asdict(r.setting).items()}}
        for key, r in sorted(found.items())])
    new = _insert(connection, tables.record, [
        {"digest": r.digest, "setting_id": settings[r.setting.key,], "at": r.at, "plan": r.plan,
         "version": r.version, "body": r.body} for r in rows], tables.record.c.id, tables.record.c.digest)
    ids = {digest: id for id, digest in new}
    written = [(ids[r.digest], settings[r.setting.key,], r) for r in rows if r.digest in ids]
    wanted = {(setting_id, v.metric, v.unit) for _, setting_id, r in written for v in r.values}
    names = ("setting_id", "metric", "unit")
    series = _ids(connection, tables.series, names, [dict(zip(names, key)) for key in sorted(wanted)])
    points = [{"series_id": series[setting_id, v.metric, v.unit], "at": r.at, "record_id": id, "value": v.value,
               "low": v.low, "high": v.high} for id, setting_id, r in written for v in r.values]
    if points:
        connection.execute(sa.insert(tables.point), points)
    return len(written)


def _ids(connection: sa.Connection, table: sa.Table, unique: Sequence[str],
         rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], int]:
    """The ids of rows by their unique columns; those that are not there are inserted."""
    columns = [table.c[name] for name in unique]
    found: dict[tuple[Any, ...], int] = {}

    def look(keys: Iterable[tuple[Any, ...]]) -> None:
        for part in _parts(list(keys)):
            query = sa.select(table.c.id, *columns).where(sa.tuple_(*columns).in_(part))
            found.update({tuple(key): id for id, *key in connection.execute(query)})

    wanted = {tuple(row[name] for name in unique): row for row in rows}
    look(wanted)
    if missing := [row for key, row in wanted.items() if key not in found]:
        _insert(connection, table, missing)
        look(key for key in wanted if key not in found)
    return found


def _insert(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]],
            *returned: sa.Column[Any]) -> Sequence[Sequence[Any]]:
    """Insert rows, except those whose unique columns are there already; the columns of what was inserted."""
    if not rows:
        return []
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = make(table).on_conflict_do_nothing()
    if not returned:
        connection.execute(statement, rows)
        return []
    return connection.execute(statement.returning(*returned), rows).all()


def _text(value: Any) -> Any:
    """Text as PostgreSQL takes it: without NUL."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value


def _parts(items: list[T]) -> Iterator[list[T]]:
    for i in range(0, len(items), AT_ONCE):
        yield items[i:i + AT_ONCE]
