"""Where a series stands, and the distribution of what is measured next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from whet.decide.history import pool as pools
from whet.decide.history.changes import Segment, described, starts
from whet.decide.history.pool import DRIFT, STANDS, Pool, State
from whet.decide.history.predictive import Predictive
from whet.decide.history.scale import ScaleName, scaled
from whet.errors import InputError

THIN = 5  # values with less than which a history says little of its own
FARTHEST = 100_000  # measurements ahead
__all__ = ["DRIFT", "Level", "fit"]


@dataclass(frozen=True)
class Level:
    """The level that a series stands at, and what may come.

    `thin` says that the series holds less than five values, so that the width of predictions comes from other series;
    it belongs into what people read.
    """

    value: float  # in the metric's unit
    low: float  # 95 % interval of the level
    high: float
    spread: float  # of one measurement around it: relative on a log scale, else in the unit
    count: int  # values of the last segment
    segments: tuple[Segment, ...]
    log: bool
    thin: bool
    y: float  # the level on its scale
    state: State = field(repr=False)
    pool: Pool = field(repr=False)

    def predict(self, h: int = 1) -> Predictive:
        """The distribution of the value `h` measurements on: 1 to 100,000 (InputError else)."""
        return self._table("value", h)

    def reached(self, target: float, h: int) -> float:
        """P(the level comes to `target` or beyond within the next `h` measurements).

        Beyond means below it where it lies below the level that the series stands at, else above it. The level is there
        when the median of five measurements in a row is, so h is 5 at least. InputError for less, or no number.
        """
        if h < STANDS:
            raise InputError(f"a level within {h} measurements", do=f"give {STANDS} or more",
                             why=f"a level is the median of {STANDS} measurements in a row")
        if target < self.value:
            return self._table("lowest", h).cdf(target)
        return 1 - self._table("highest", h).cdf(target)

    def _table(self, which: str, h: int) -> Predictive:
        if not 1 <= h <= FARTHEST:
            raise InputError(f"a prediction {h} measurements ahead", do=f"give 1 to {FARTHEST:,}")
        return Predictive(h, self.y + np.maximum.accumulate(self.pool.quantiles(which, self.state, h)), self.log)


def fit(values: ArrayLike | Sequence[float | None], *, scale: ScaleName = "auto", pool: Pool | None = None) -> Level:
    """The level that a series stands at.

    values: [n] in any unit, oldest first; None and NaN are missing. scale: as for `segments`. pool: errors of other
    series' forecasts; None is the one that whet brings along.
    Errors: NoHistoryError where there is no value; InputError for what is no series, and for one of zeros: nothing says
    how far the next may lie from it.
    """
    pool = pools.shipped() if pool is None else pool
    series = scaled(values, scale)
    begins = starts(series.y)
    at = pools.state(series.y, begins[-1], pool.noise, series.log)
    half = NormalDist().inv_cdf(0.975) * at.error
    return Level(series.back(at.y), series.back(at.y - half), series.back(at.y + half), at.spread, at.count,
                 tuple(described(series, begins)), series.log, len(series.y) < THIN, at.y, at, pool)
