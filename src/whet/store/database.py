"""What both engines share: transactions that wait and try again, and the migration of the tables."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Literal, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from whet.errors import StoreBusyError, StoreError, StoreFormatError, StoreVersionError, StoreWriteError
from whet.store.tables import VERSIONS

T = TypeVar("T")
Kind = Literal["busy", "write", "format", "other"]
PAUSE = 0.02  # seconds before the second try, doubled at each further one
KINDS: dict[Kind, tuple[type[StoreError], str, str]] = {
    "busy": (StoreBusyError, "the store is busy", "try again, when others have done writing"),
    "write": (StoreWriteError, "the store cannot be written", "make room, or name another store"),
    "format": (StoreFormatError, "not a measurement store, or a damaged one", "name another store"),
    "other": (StoreError, "the store cannot be used", "check that it is there, and that you may use it"),
}


def _nothing(of: object) -> None:
    """What an engine has no need of."""


class Database:
    """An engine, where it lies, and how its driver's errors are told apart."""

    def __init__(self, engine: sa.Engine, place: str, timeout: float, kind: Callable[[DBAPIError], Kind],
                 lock: Callable[[sa.Connection], None] = _nothing, claim: Callable[[sa.Connection], None] = _nothing,
                 settle: Callable[[sa.Engine], None] = _nothing, writable: bool = True) -> None:
        """`lock` keeps others from changing the tables, `claim` marks an empty database as a store or refuses one of
        another program, `settle` makes it ready for several writers once it has tables."""
        self.engine, self.place, self.timeout, self.writable = engine, place, timeout, writable
        self._kind, self._lock, self._claim, self._settle = kind, lock, claim, settle

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection within a transaction of its own; the database's errors become StoreErrors."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except DBAPIError as e:
            raise self.error(e) from e
        except SQLAlchemyError as e:  # a pool without a free connection, a value that the driver cannot take
            raise StoreError("the store cannot be used", where=self.place, why=_first_line(e)) from e

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Do `work` in one transaction that holds the right to write; tried again while others are in the way.

        StoreBusyError when that lasts longer than the timeout; nothing of the work is there then.
        """
        deadline, pause = time.monotonic() + self.timeout, PAUSE
        while True:
            try:
                with self.engine.connect().execution_options(whet_write=True) as connection, connection.begin():
                    return work(connection)
            except DBAPIError as e:
                if self._kind(e) != "busy" or time.monotonic() + pause > deadline:
                    raise self.error(e) from e
            except SQLAlchemyError as e:
                raise StoreError("the store cannot be used", where=self.place, why=_first_line(e)) from e
            time.sleep(pause * random.uniform(0.5, 1.0))  # others who wait must not all come back at once
            pause = min(2 * pause, 1.0)

    def error(self, e: DBAPIError) -> StoreError:
        """The driver's error, typed."""
        kind, what, do = KINDS[self._kind(e)]
        return kind(what, where=self.place, why=_first_line(e.orig or e), do=do)

    def migrate(self) -> None:
        """Bring the tables up to date. StoreVersionError if they are of a newer whet."""
        newest = _scripts().get_current_head()
        with self.reading() as connection:
            found = self._version(connection)
        if found == newest:
            if self.writable:
                self._settle(self.engine)
            return
        if not self.writable:
            raise StoreVersionError("the store's tables are of an older whet" if found else "the store has no tables",
                                    where=self.place, why="it may not be written, so they stay as they are",
                                    do="open it once where it may be written")
        self.write(self._upgrade)
        self._settle(self.engine)

    def close(self) -> None:
        """Let go of connections."""
        self.engine.dispose()

    def _version(self, connection: sa.Connection) -> str | None:
        if not sa.inspect(connection).has_table(VERSIONS):
            return None
        versions = connection.execute(sa.text(f"SELECT version_num FROM {VERSIONS}")).scalars().all()
        return versions[0] if versions else None

    def _upgrade(self, connection: sa.Connection) -> None:
        self._lock(connection)  # of several processes that find no tables, one makes them
        found = self._version(connection)
        if found is None:
            self._claim(connection)
        elif not _known(found):
            raise StoreVersionError("the store is of a newer whet", where=self.place,
                                    why=f"its tables have version {found}, this whet knows up to "
                                        f"{_scripts().get_current_head()}", do="update whet, or name another store")
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("whet.store") / "migrations").replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _known(version: str) -> bool:
    try:
        return _scripts().get_revision(version) is not None
    except CommandError:
        return False


def _first_line(e: BaseException) -> str:
    return (str(e).strip() or type(e).__name__).splitlines()[0]
