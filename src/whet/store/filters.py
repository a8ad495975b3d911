"""Which measurements are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Filters:
    """All that is given must hold. Names may have `*` and `?`; `sha256` and `device` may be the beginning.

    shapes:   as `x:8x3x224x224`, several with commas, names in alphabetical order.
    source:   the other tool and what it measured, by any part of it.
    since, until: dates of the records, the first included, the second not.
    """

    model: str = ""
    sha256: str = ""
    backend: str = ""
    precision: str = ""
    threads: int | None = None
    shapes: str = ""
    batch: int | None = None
    device: str = ""
    load: str = ""
    source: str = ""
    metric: str = ""
    since: datetime | None = None
    until: datetime | None = None
