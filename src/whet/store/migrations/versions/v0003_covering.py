"""The points of a series are read from an index alone on PostgreSQL: the table has them in the order in which records
came, each on a page of its own. SQLite keeps them in the order of their key."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """The points' key carries their values."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE whet_point DROP CONSTRAINT whet_point_pkey, ADD CONSTRAINT whet_point_pkey "
                   "PRIMARY KEY (series_id, at, record_id) INCLUDE (value, low, high)")
