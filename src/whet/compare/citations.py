"""Figures that somebody else states: each with its source, date and link, or it is not taken."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from whet.compare.result import Citation
from whet.errors import InputError

STALE_DAYS = 365
MOST_BYTES = 4 << 20
MOST_ROWS = 2000
LONGEST = {"option": 200, "column": 60, "value": 300, "source": 300, "date": 10, "link": 2000}
EXAMPLE = '[{"option": "L4 cloud instance", "column": "price", "value": "0.71 USD/h", "source": "...", ' \
          '"date": "2026-01-31", "link": "https://..."}]'


def read(path: Path, today: date | None = None) -> tuple[Citation, ...]:
    """The citations of a JSON file: an array of objects with `option`, `column`, `value`, `source`, `date` (ISO 8601,
    not after today) and `link` (http or https). An option that is a cell's key or kind stands in its row, any other has
    a row of its own. Those older than a year are marked stale. InputError for whatever else is in the file."""
    now = today or date.today()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError("the citations are too large", where=str(path), why=f"at most {MOST_BYTES >> 20} MiB")
        rows: Any = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as e:
        raise InputError("the citations cannot be read", where=str(path), why=e.strerror or str(e),
                         do="check the path") from e
    except (ValueError, RecursionError) as e:
        raise InputError("the citations are no JSON", where=str(path), why=str(e)[:200], do=EXAMPLE) from e
    if not isinstance(rows, list) or len(rows) > MOST_ROWS:
        raise InputError(f"the citations are an array of at most {MOST_ROWS} objects", where=str(path), do=EXAMPLE)
    return tuple(_citation(row, f"{path}, number {i + 1}", now) for i, row in enumerate(rows))


def _citation(row: Any, where: str, today: date) -> Citation:
    if not isinstance(row, dict) or set(row) != set(LONGEST):
        raise InputError("a citation has option, column, value, source, date and link", where=where, do=EXAMPLE)
    for name, most in LONGEST.items():
        text = row[name]
        if not isinstance(text, str) or not text.strip() or len(text) > most or not text.isprintable():
            raise InputError(f"a citation's {name} is text of 1 to {most} characters in one line", where=where,
                             why=f"it is {str(text)[:60]!r}", do=EXAMPLE)
    try:
        day = date.fromisoformat(row["date"])
    except ValueError as e:
        raise InputError("a citation's date is as 2026-01-31", where=where, why=str(e), do=EXAMPLE) from e
    if day > today:
        raise InputError("a citation of the future", where=where, why=f"{day} is after {today}", do="correct its date")
    try:
        link = urlsplit(row["link"])
        good = link.scheme in ("http", "https") and bool(link.hostname)
    except ValueError:
        good = False
    if not good:
        raise InputError("a citation's link is an http or https address", where=where,
                         why=f"it is {row['link'][:80]!r}", do=EXAMPLE)
    return Citation(**{n: row[n].strip() for n in LONGEST}, stale=(today - day).days > STALE_DAYS)
