"""The store as the rest of whet sees it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from whet.errors import MissingExtraError
from whet.measure.record import Measurement
from whet.measure.series import Setting
from whet.store.filters import Filters
from whet.store.places import is_url, named
from whet.store.results import Kept

if TYPE_CHECKING:
    from whet.store.database import Database
    from whet.store.views import Known, Latest, Marks

CHUNK = 2_000  # records in one transaction where there are more
TIMEOUT = 30.0  # seconds to wait for others who write


@dataclass(frozen=True)
class Added:
    """How many records were new, and how many were there already."""

    new: int = 0
    known: int = 0

    def __add__(self, other: Added) -> Added:
        return Added(self.new + other.new, self.known + other.known)


@dataclass(frozen=True)
class Series:
    """One metric of one setting: how many points it has, the dates of the first and last, and the last value."""

    id: int
    setting: Setting
    device_name: str
    metric: str
    unit: str
    count: int
    first: datetime
    last: datetime
    value: float


@dataclass(frozen=True)
class Point:
    """A value at a date, with its interval where the record has one; the plan's hash and the backend's version."""

    at: datetime
    value: float
    low: float | None
    high: float | None
    record: int
    plan: str
    version: str


class Store:
    """Measurement records, kept.

    place:   a file, or a URL (`postgresql://user@host/database`). None: `$WHET_STORE`, else the user's own file.
    create:  make a store where there is none; False is for reading: a file that is not there is an error, and one that
             may not be written is opened all the same.
    timeout: seconds to wait for others who write.

    Safe for several threads and processes at once. Raises StoreError and its kinds, InputError for a URL that is none,
    MissingExtraError without SQLAlchemy, Alembic or, for PostgreSQL, psycopg.
    """

    def __init__(self, place: str | os.PathLike[str] | None = None, *, create: bool = True,
                 timeout: float = TIMEOUT) -> None:
        try:
            import alembic  # noqa: F401
            import sqlalchemy  # noqa: F401
        except ImportError as e:
            raise MissingExtraError.for_package("SQLAlchemy with Alembic", "store", "the measurement store") from e
        from whet.store import postgres, sqlite

        text = named(place)
        self._database: Database = (postgres.open_url(text, timeout) if is_url(text) and not text.startswith("sqlite:")
                                    else sqlite.open_file(text, create, timeout))
        self._database.migrate()

    @property
    def place(self) -> str:
        """The file or URL, without a password."""
        return self._database.place

    def add(self, records: Iterable[Measurement], *, progress: Callable[[int], None] = lambda done: None) -> Added:
        """Keep records; one that is there already is left as it is. `progress` is told how many are done.

        Up to 2,000 records are there together or not at all. InputError if a record breaks the schema, and nothing is
        added then of those 2,000; StoreBusyError, StoreWriteError if the store does not take them.
        """
        from whet.store import writing

        found, chunk, done = Added(), [], 0
        for record in records:
            chunk.append(record)
            if len(chunk) == CHUNK:
                found, done, chunk = found + writing.add(self._database, chunk), done + len(chunk), []
                progress(done)
        return found + writing.add(self._database, chunk) if chunk else found

    def series(self, filters: Filters | None = None) -> list[Series]:
        """The series that are asked for, by model, backend, precision, shapes, metric."""
        from whet.store import queries

        return queries.series(self._database, filters or Filters())

    def history(self, series: int | Sequence[int], filters: Filters | None = None, *,
                last: int | None = None) -> list[Point]:
        """The points of a series (or of several, together) from the oldest to the newest; the `last` ones.

        Of the filters, the dates count.
        """
        from whet.store import queries

        return queries.history(self._database, [series] if isinstance(series, int) else list(series),
                               filters or Filters(), last)

    def records(self, filters: Filters | None = None, *, series: Sequence[int] = ()) -> Iterator[Measurement]:
        """Whole records, from the oldest to the newest: those that the filters let through, or those of series."""
        from whet.store import queries

        return queries.records(self._database, filters or Filters(), list(series))

    def keep(self, kind: str, body: Mapping[str, Any], *, model: str, at: datetime) -> int:
        """Keep a result that is no measurement, and give its number; one that is there already is not kept twice.

        kind:  `gate`, `failure`, `forecast`, `comparison` or `roi`.
        body:  the JSON that the command writes, 8 MiB at most.
        model: the model's name; empty where it is of none or of several.

        InputError for what cannot be kept; StoreBusyError, StoreWriteError if the store does not take it
        (`whet.store.spool.keep_result` puts it into a file then).
        """
        from whet.store import results, writing

        return writing.keep(self._database, results.row(kind, body, model, at))

    def kept(self, kind: str | None = None, model: str | None = None, last: int | None = None, *,
             since: datetime | None = None, until: datetime | None = None) -> list[Kept]:
        """Results from the oldest to the newest, the `last` ones: of a kind, of a model (names may have `*`, `?`)."""
        from whet.store import queries

        return queries.kept(self._database, kind or "", model or "", last, Filters(since=since, until=until))

    def models(self, part: str = "", *, offset: int = 0, limit: int = 50) -> tuple[list[Known], int]:
        """Models whose names hold `part`, those measured last first: one page of them, and how many there are."""
        from whet.store import views

        return views.models(self._database, part, offset, limit)

    def latest(self, models: Sequence[str]) -> list[Latest]:
        """All series of models of these names, each with its newest point; none is counted."""
        from whet.store import views

        return views.latest(self._database, models)

    def marks(self, series: Sequence[int], filters: Filters | None = None, *, last: int = 100_000) -> Marks:
        """As `history`, the newest `last` points, in columns and without plan and version: quicker by far."""
        from whet.store import views

        return views.marks(self._database, series, filters or Filters(), last)

    def results(self, kind: str = "", model: str = "", *, offset: int = 0, limit: int = 50) -> tuple[list[Kept], int]:
        """One page of what `keep` kept, of a kind and a model, the newest first, and how many there are."""
        from whet.store import views

        return views.results(self._database, kind, model, offset, limit)

    def result(self, number: int) -> Kept | None:
        """The result of that number, None where there is none."""
        from whet.store import views

        return views.result(self._database, number)

    def size(self) -> tuple[int, int]:
        """How many settings and records there are."""
        from whet.store import views

        return views.size(self._database)

    def close(self) -> None:
        """Let go of connections."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def digest(body: bytes) -> str:
    """What tells one record from another: SHA-256 of it as JSON in the schema's own order."""
    return hashlib.sha256(body).hexdigest()
