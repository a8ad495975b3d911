"""The measurement store: records of every measurement, and what was decided from them, in a SQLite file or a PostgreSQL
database.

It needs SQLAlchemy and Alembic (`pip install 'whet[store]'`), and for PostgreSQL psycopg (`whet[postgres]`).
"""

from whet.store.filters import Filters
from whet.store.places import default_path
from whet.store.results import Kept
from whet.store.store import Added, Point, Series, Store

__all__ = ["Added", "Filters", "Kept", "Point", "Series", "Store", "default_path"]
