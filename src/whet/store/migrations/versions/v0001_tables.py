"""The first tables."""

import sqlalchemy as sa
from alembic import op

from whet.store.tables import BigId, Utc

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Settings, records, series, points."""
    op.create_table(
        "whet_setting",
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
    )
    op.create_index("whet_setting_model", "whet_setting", ["model", "backend", "precision"])
    op.create_table(
        "whet_record",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("setting_id", sa.Integer, sa.ForeignKey("whet_setting.id"), nullable=False),
        sa.Column("at", Utc, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("whet_record_setting", "whet_record", ["setting_id", "at"])
    op.create_table(
        "whet_series",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("setting_id", sa.Integer, sa.ForeignKey("whet_setting.id"), nullable=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.UniqueConstraint("setting_id", "metric", "unit", name="whet_series_metric"),
    )
    op.create_table(
        "whet_point",
        sa.Column("series_id", sa.Integer, sa.ForeignKey("whet_series.id"), primary_key=True),
        sa.Column("at", Utc, primary_key=True),
        sa.Column("record_id", BigId, sa.ForeignKey("whet_record.id"), primary_key=True),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("low", sa.Double),
        sa.Column("high", sa.Double),
        sqlite_with_rowid=False,
    )
