"""The tables, as the newest migration leaves them.

setting   what must be equal for records to be comparable: model, backend, precision, shapes, threads, machine, load
record    one measurement, whole, as JSON; a digest keeps it from being there twice
series    one metric of one setting
point     the value of a series at a date, and the record that it is from
result    what was decided, and builds that failed: the JSON of a command, by kind, model and date
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

VERSIONS = "whet_version"  # Alembic's table
metadata = sa.MetaData()
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up integers of that name alone


class Utc(TypeDecorator[datetime]):
    """A date with its zone, UTC, also where the database knows no zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


setting = sa.Table(
    "whet_setting", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(64), nullable=False, unique=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("precision", sa.Text, nullable=False),
    sa.Column("threads", sa.Integer),
    sa.Column("shapes", sa.Text, nullable=False),
    sa.Column("batch", sa.Integer),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("device_name", sa.Text, nullable=False),
    sa.Column("load", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Index("whet_setting_model", "model", "backend", "precision"),
)

record = sa.Table(
    "whet_record", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("setting_id", sa.Integer, sa.ForeignKey("whet_setting.id"), nullable=False),
    sa.Column("at", Utc, nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Index("whet_record_setting", "setting_id", "at"),
)

series = sa.Table(
    "whet_series", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("setting_id", sa.Integer, sa.ForeignKey("whet_setting.id"), nullable=False),
    sa.Column("metric", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.UniqueConstraint("setting_id", "metric", "unit", name="whet_series_metric"),
)

point = sa.Table(
    "whet_point", metadata,
    sa.Column("series_id", sa.Integer, sa.ForeignKey("whet_series.id"), primary_key=True),
    sa.Column("at", Utc, primary_key=True),
    sa.Column("record_id", BigId, sa.ForeignKey("whet_record.id"), primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("low", sa.Double),
    sa.Column("high", sa.Double),
    sqlite_with_rowid=False,  # the rows lie in the order of the key: one series is read in one go
)

result = sa.Table(
    "whet_result", metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("at", Utc, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Index("whet_result_kind", "kind", "at"),
    sa.Index("whet_result_model", "model", "kind", "at"),
)
