"""Results that are not measurements: gates, failures, forecasts, comparisons, returns."""

import sqlalchemy as sa
from alembic import op

from whet.store.tables import BigId, Utc

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """One table, found by kind and by model."""
    op.create_table(
        "whet_result",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("at", Utc, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("whet_result_kind", "whet_result", ["kind", "at"])
    op.create_index("whet_result_model", "whet_result", ["model", "kind", "at"])
