"""A store in a SQLite file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from whet.errors import InputError, StoreError, StoreFormatError, StoreWriteError
from whet.store.database import Database, Kind

APPLICATION = 0x77686574  # "whet", in the file's header: what tells a store from another program's database
HEADER = b"SQLite format 3\0"
MINIMUM = (3, 35)  # RETURNING
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_WRITE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM}
_FORMAT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def open_file(name: str, create: bool, timeout: float) -> Database:
    """The store in a file (a path, or `sqlite:///path`). See `whet.store.Store`."""
    path = _path(name)
    if sqlite3.sqlite_version_info < MINIMUM:
        raise StoreError("this Python's SQLite is too old for the store", why=f"it is {sqlite3.sqlite_version}",
                         do="use a Python with SQLite 3.35 or newer, or a PostgreSQL store")
    exists = path.exists()
    if not exists and not create:
        raise StoreError("there is no measurement store yet", where=str(path),
                         do="put measurements into it: whet bench model.onnx --json out.json && whet record out.json")
    if path.is_dir():
        raise StoreFormatError("this is a folder, not a measurement store", where=str(path), do="name a file")
    if not exists:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StoreWriteError("the store cannot be made", where=str(path), why=e.strerror or str(e),
                                  do="name a file in a folder that can be written to (--store, or $WHET_STORE)") from e
    writable = not exists or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    if not writable and create:
        raise StoreWriteError("the store cannot be written", where=str(path), why="the file or its folder is read-only",
                              do="name another store (--store, or $WHET_STORE)")
    # A reader of a log's file makes files beside it; where it cannot, and no log is there, the file itself is all.
    mode = "rwc" if writable else "ro" if Path(f"{path}-wal").exists() else "ro&immutable=1"
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.QueuePool, creator=lambda: sqlite3.connect(
        uri, uri=True, timeout=timeout, check_same_thread=False, isolation_level=None))
    sa.event.listen(engine, "connect", _prepare(timeout))
    sa.event.listen(engine, "begin", _begin)
    return Database(engine, str(path), timeout, _kind, claim=_claim(str(path)), settle=_log_ahead, writable=writable)


def _path(name: str) -> Path:
    if not name.startswith("sqlite:"):
        return Path(name).expanduser()
    try:
        database = sa.make_url(name).database
    except (sa.exc.ArgumentError, ValueError) as e:
        raise InputError("not a URL of a store", where=name, why=str(e), do="sqlite:///path, or the path alone") from e
    if not database:
        raise InputError("a URL of SQLite without a file", where=name, do="sqlite:///path, or the path alone")
    return Path(database)


def _prepare(timeout: float) -> Any:
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA busy_timeout = {int(1000 * timeout)}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # what was recorded survives a power cut
        connection.execute("PRAGMA cache_size = -65536")  # 64 MiB
    return prepare


def _begin(connection: sa.Connection) -> None:
    # A transaction that reads first and then writes could find that others wrote between: take the right at once.
    writes = connection.get_execution_options().get("whet_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _claim(place: str) -> Any:
    def claim(connection: sa.Connection) -> None:
        """Mark an empty file as a store; refuse another program's database."""
        mark = connection.exec_driver_sql("PRAGMA application_id").scalar()
        tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
        if tables and mark != APPLICATION:
            raise StoreFormatError("this is another program's database", where=place,
                                   why="it has tables, and none of them is whet's", do="name another file")
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION}")
    return claim


def _log_ahead(engine: sa.Engine) -> None:
    """Turn on the write-ahead log, so that readers and the writer do not wait for each other: the file remembers it.

    It takes the file for itself for a moment. While others are at work that is refused, and whoever opens the store
    next does it; till then readers wait for writers.
    """
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            with contextlib.suppress(sqlite3.OperationalError):
                cursor.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _kind(e: DBAPIError) -> Kind:
    code = getattr(e.orig, "sqlite_errorcode", None)
    code = code & 0xFF if code is not None else None  # the rest tells variants of one error
    if code in _BUSY:
        return "busy"
    if code in _WRITE:
        return "write"
    return "format" if code in _FORMAT else "other"
