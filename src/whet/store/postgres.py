"""A store in a PostgreSQL database."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from whet.errors import InputError, MissingExtraError
from whet.store.database import Database, Kind

SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
LOCK = 0x77686574  # "whet": the advisory lock of whoever makes or changes the tables
# https://www.postgresql.org/docs/current/errcodes-appendix.html: serialization, deadlock, lock not available, too
# many connections, starting up or shutting down
_BUSY = {"40001", "40P01", "55P03", "53300", "57P03", "57P01"}
_WRITE = {"53100", "25006", "42501"}  # disk full, read-only transaction, insufficient privilege


def open_url(url: str, timeout: float) -> Database:
    """The store at `postgresql://user:password@host:port/database`. See `whet.store.Store`."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as e:
        raise InputError("not a URL of a store", why="it cannot be read", do="postgresql://user@host/database") from e
    if parsed.drivername not in SCHEMES:
        raise InputError(f"no store by {parsed.drivername.partition('+')[0]}",
                         where=parsed.render_as_string(hide_password=True),
                         why="stores are SQLite files and PostgreSQL databases",
                         do="name a file, or postgresql://user@host/database")
    try:
        import psycopg  # noqa: F401
    except ImportError as e:
        raise MissingExtraError.for_package("psycopg", "postgres", "a store in PostgreSQL") from e
    connect = {"connect_timeout": max(2, min(10, int(timeout))), "application_name": "whet"}
    given = {k: v for k, v in connect.items() if k not in parsed.query}
    engine = sa.create_engine(parsed.set(drivername="postgresql+psycopg"), connect_args=given, pool_pre_ping=True)
    place = parsed.render_as_string(hide_password=True)

    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("whet_write"):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(1000 * timeout)}")

    sa.event.listen(engine, "begin", begin)
    return Database(engine, place, timeout, _kind, lock=_lock)


def _lock(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")


def _kind(e: DBAPIError) -> Kind:
    state = getattr(e.orig, "sqlstate", None)
    if state in _BUSY:
        return "busy"
    return "write" if state in _WRITE else "other"
