"""Records that the store did not take, kept in a file until it does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from whet.errors import StoreError
from whet.measure.record import Measurement, encode
from whet.store.places import default_path


def folders() -> list[Path]:
    """Where a file of records is tried to be put: beside the user's store, then where temporary files lie."""
    return [default_path().parent, Path(tempfile.gettempdir())]


def keep(records: Sequence[Measurement], error: StoreError) -> StoreError:
    """Write the records into a new JSON file; the same error, which says where they are now and how they get in."""
    data, why = encode(list(records)), ""
    for folder in folders():
        path = folder / f"unrecorded-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.json"
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
        return type(error)(f"{error.what}; its {len(records)} measurements are in {path}", where=error.where,
                           why=error.why, do=f"{error.do}; then: whet record {path}")
    return type(error)(f"{error.what}, and its {len(records)} measurements could be put nowhere else",
                       where=error.where, why=f"{error.why}; {why}", do=error.do)
