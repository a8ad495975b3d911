"""What the store did not take, kept in a file until it does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from whet.errors import StoreError
from whet.measure.record import Measurement, encode
from whet.store import results
from whet.store.places import default_path
from whet.store.store import Store


def folders() -> list[Path]:
    """Where a file of records is tried to be put: beside the user's store, then where temporary files lie."""
    return [default_path().parent, Path(tempfile.gettempdir())]


def keep(records: Sequence[Measurement], error: StoreError) -> StoreError:
    """Write the records into a new JSON file; the same error, which says where they are now and how they get in."""
    return _written(encode(list(records)), f"its {len(records)} measurements are", "measurements", error)


def keep_result(place: str | os.PathLike[str] | None, kind: str, body: Mapping[str, Any], *, model: str,
                at: datetime, timeout: float | None = None) -> int:
    """Open a store and keep a result in it, as `Store.keep`.

    What the store does not take is written into a file, and the StoreError says where and how it gets in.
    """
    results.row(kind, body, model, at)  # what no store would take is told as such
    try:
        with (Store(place) if timeout is None else Store(place, timeout=timeout)) as store:
            return store.keep(kind, body, model=model, at=at)
    except StoreError as e:
        data = results.encode([results.Kept(kind, model, at, dict(body))])
        raise _written(data, f"the {kind} is", "results", e) from e


def _written(data: bytes, what: str, name: str, error: StoreError) -> StoreError:
    why = ""
    for folder in folders():
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{os.getpid()}"
        path = folder / f"unrecorded-{name}-{stamp}.json"
        temporary = path.with_suffix(".part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(data)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as e:
            why = f"{folder}: {e.strerror or e}"
            continue
        return type(error)(f"{error.what}; {what} in {path}", where=error.where, why=error.why,
                           do=f"{error.do}; then: whet record {path}")
    return type(error)(f"{error.what}, and {what} nowhere else: no file could be written", where=error.where,
                       why=f"{error.why}; {why}", do=error.do)
