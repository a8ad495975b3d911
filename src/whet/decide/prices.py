"""What machines cost by the hour: a dated table of list prices, and a user's own in its place.

`prices.json` beside this file is the table that comes with whet. Every row has region, currency, the day its price is
of, and what it was read from; a price that was read nowhere does not belong there.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from whet import data_file
from whet.errors import InputError

STALE_DAYS = 90


class Price(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A price per hour as of a date, with what it was read from (`url`), and what the machine has (memory in GiB).

    `official`: the provider's own page, where that is not what was read.
    """

    provider: str
    region: str
    instance: str
    price_per_hour: Annotated[float, Meta(ge=0)]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")]
    as_of: datetime.date
    url: Annotated[str, Meta(min_length=1)]
    official: str = ""
    cpus: int = 0
    memory_gib: float = 0.0
    gpu: str = ""
    gpus: int = 0
    gpu_memory_gib: float = 0.0

    @property
    def key(self) -> str:
        """`aws/us-east-1/g4dn.xlarge`."""
        return f"{self.provider}/{self.region}/{self.instance}"

    def days(self, today: datetime.date) -> int:
        """How old the price is."""
        return (today - self.as_of).days

    def stale(self, today: datetime.date, most: int = STALE_DAYS) -> bool:
        """Whether it is older than `most` days."""
        return self.days(today) > most


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: Annotated[int, Meta(ge=1, le=1)]
    prices: tuple[Price, ...]
    about: str = ""


class Prices:
    """A table of prices; later rows of the same key take the place of earlier ones."""

    def __init__(self, rows: Iterable[Price]) -> None:
        self.rows = {row.key: row for row in rows}

    def find(self, key: str, where: str = "") -> Price:
        """The price of `provider/region/instance`, or of an instance that only one row names. InputError if none."""
        if key in self.rows:
            return self.rows[key]
        named = [row for row in self.rows.values() if row.instance == key]
        if len(named) == 1:
            return named[0]
        near = sorted(k for k in self.rows if key.rpartition("/")[2] and key.rpartition("/")[2] in k) or \
            sorted(self.rows)
        raise InputError(f"no price of {key!r} is known" if not named else f"{key!r} has prices in several regions",
                         where=where, why=f"the table has {', '.join(near[:8])}{', ...' if len(near) > 8 else ''}",
                         do="give price_per_hour, or a file of prices with this row (--prices)")


@cache
def shipped() -> tuple[Price, ...]:
    """The table that comes with whet."""
    data = resources.files("whet.decide").joinpath("prices.json").read_bytes()
    return msgspec.json.decode(data, type=_File).prices


def read(path: Path) -> tuple[Price, ...]:
    """Prices of a user's file (YAML, JSON, TOML) of the shipped one's form. InputError names field and line."""
    document = data_file.load(path)
    try:
        found = msgspec.convert(document.data, _File).prices
    except (msgspec.ValidationError, RecursionError) as e:
        what, _, at = str(e).partition(" - at `$")
        field = at.rstrip("`").lstrip(".")
        line = data_file.line_of(document.lines, field)
        raise InputError("the file of prices does not fit", where=", ".join(
            p for p in (str(path), f"line {line}" if line else "", field) if p), why=what,
            do="give schema: 1 and prices: rows of provider, region, instance, price_per_hour, currency, as_of, "
               "url") from e
    for i, row in enumerate(found):
        if row.key in {other.key for other in found[:i]}:
            raise InputError(f"{row.key} has two prices", where=f"{path}, prices[{i}]", do="keep one")
        if not math.isfinite(row.price_per_hour):
            raise InputError("a price is not a finite number", where=f"{path}, prices[{i}]")
        if row.as_of > datetime.date.today() + datetime.timedelta(days=1):
            raise InputError("a price is of the future", where=f"{path}, prices[{i}]", why=row.as_of.isoformat(),
                             do="correct as_of")
    return found


def table(own: Path | None = None) -> Prices:
    """The shipped table, with a user's rows before it."""
    return Prices((*shipped(), *(read(own) if own is not None else ())))
