"""Tables for spreadsheets: CSV in which no cell is a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

# What spreadsheets take for the beginning of a formula, or skip before one:
# https://owasp.org/www-community/attacks/CSV_Injection
DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def safe(cell: object) -> object:
    """Text that could be run as a formula, with an apostrophe before it; nothing for None; all else as it is."""
    if cell is None:
        return ""
    return "'" + cell if isinstance(cell, str) and cell.startswith(DANGEROUS) else cell


def lines(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[bytes]:
    """The table's lines, in UTF-8, one after the other: as many as there are."""
    for row in chain([head], rows):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([safe(cell) for cell in row])
        yield text.getvalue().encode()
