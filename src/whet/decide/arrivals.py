"""When requests come: at random, in bursts, or as they came before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from whet.errors import InputError

MOST_TRACE_BYTES = 1 << 30


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
    times: tuple[float, ...] = ()
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
