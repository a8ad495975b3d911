"""When requests come: at random, in bursts, or as they came before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np

from whet.errors import InputError

MOST_TRACE_BYTES = 1 << 27
_LONGEST_LINE = 4096


@dataclass(frozen=True)
class Arrivals:
    """`rate` requests per second on average.

    pattern: `poisson`; `bursty`: independent gaps with a Gamma distribution whose coefficient of variation is `cv`
             (1 is Poisson; 2 to 4 are the bursts of many web services); `trace`: `times`, seconds from any origin,
             not falling.
    """

    rate: float
    pattern: Literal["poisson", "bursty", "trace"] = "poisson"
    cv: float = 1.0
    times: tuple[float, ...] = field(default=(), repr=False)
    origin: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise InputError("the rate of arrivals must be a positive number", why=f"{self.rate} per second")
        if self.pattern == "bursty" and not (math.isfinite(self.cv) and 0 < self.cv <= 20):
            raise InputError("the variation of gaps must lie between 0 and 20", why=f"cv {self.cv}",
                             do="1 is Poisson; bursts of web traffic have 2 to 4")

    @classmethod
    def poisson(cls, rate: float) -> Arrivals:
        """Requests of many independent users."""
        return cls(rate)

    @classmethod
    def bursty(cls, rate: float, cv: float) -> Arrivals:
        """Gaps of a Gamma distribution: mean 1/rate, standard deviation cv/rate."""
        return cls(rate, "bursty", cv)

    @classmethod
    def trace(cls, times: np.ndarray, origin: str = "a trace") -> Arrivals:
        """Requests at the times of a trace, in seconds."""
        x = np.asarray(times, dtype=np.float64).reshape(-1)
        if len(x) < 2 or not np.isfinite(x).all() or (np.diff(x) < 0).any() or x[-1] <= x[0]:
            raise InputError("a trace needs two times or more, finite, not falling, not all the same", where=origin)
        gaps = np.diff(x)
        return cls((len(x) - 1) / float(x[-1] - x[0]), "trace", float(gaps.std() / gaps.mean()),
                   tuple((x - x[0]).tolist()), origin)

    def scaled(self, factor: float) -> Arrivals:
        """The same pattern, `factor` times as fast."""
        if not (math.isfinite(factor) and factor > 0):
            raise InputError("the growth of the load must leave a positive load", why=f"factor {factor}")
        return Arrivals(self.rate * factor, self.pattern, self.cv, tuple(t / factor for t in self.times), self.origin)

    def drawn(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """The times of `count` requests (of a trace: of all of it), seconds, rising from 0 on."""
        if self.pattern == "trace":
            return np.array(self.times)
        if self.pattern == "poisson":
            gaps = rng.standard_exponential(count)
        else:  # shape k has the coefficient of variation 1 / sqrt(k)
            shape = 1 / self.cv ** 2
            gaps = rng.standard_gamma(shape, count) / shape
        return np.cumsum(gaps) / self.rate


def read_trace(path: Path) -> Arrivals:
    """Arrivals from a file: a time on each line, or CSV whose first column is the time, or has the name `time`,
    `timestamp` or `arrival` in a header. Times are seconds from any origin, or ISO 8601; they must not fall.

    InputError, with the line, for anything else.
    """
    try:
        if path.stat().st_size > MOST_TRACE_BYTES:
            raise InputError("the trace is too large", where=str(path),
                             why=f"over {MOST_TRACE_BYTES >> 20} MiB", do="cut out a stretch with the busiest hours")
        with path.open("rb") as file:
            times = np.fromiter(_times(file, str(path)), np.float64)
    except OSError as e:
        raise InputError("the trace cannot be read", where=str(path), why=e.strerror or str(e),
                         do="check the path") from e
    return Arrivals.trace(times, str(path))


def _times(lines: Iterable[bytes], where: str) -> Iterator[float]:
    """The times of a trace's lines; ISO 8601 as seconds since 1970."""
    column, before, kind = 0, -math.inf, ""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if len(line) > _LONGEST_LINE:
                raise ValueError("the line is too long for a time")
            fields = [f.strip().strip('"') for f in line.decode("utf-8-sig").replace(";", ",").split(",")]
            if number == 1:
                names = [f.lower() for f in fields]
                column = next((names.index(n) for n in ("time", "timestamp", "arrival") if n in names), -1)
                if column >= 0:
                    continue
                column = 0
            if column >= len(fields):
                raise ValueError(f"there is no column {column + 1}")
            value, now = _time(fields[column])
        except (ValueError, OverflowError) as e:
            raise InputError("a line of the trace is no time", where=f"{where}, line {number}", why=str(e),
                             do="one time on each line, in seconds or ISO 8601; a header may name a column `time`"
                             ) from e
        if kind not in ("", now):
            raise InputError("the trace mixes kinds of times", where=f"{where}, line {number}",
                             why=f"{kind}, then {now}")
        if value < before:
            raise InputError("the times of the trace fall", where=f"{where}, line {number}",
                             why=f"{value!r} comes after {before!r}", do="sort the lines by time")
        kind, before = now, value
        yield value


def _time(text: str) -> tuple[float, str]:
    """A time in seconds, and what kind of time it is."""
    try:
        value, kind = float(text), "seconds"
    except ValueError:
        moment = datetime.fromisoformat(text)
        value, kind = moment.timestamp(), "local dates" if moment.tzinfo is None else "dates with a zone"
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not finite")
    return value, kind
