"""Where a series stands, and the distribution of what is measured next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from whet.decide.history.changes import Segment, location, noise, segments
from whet.decide.history.predictive import Predictive, Z
from whet.decide.history.scale import Scaled, ScaleName, scaled
from whet.errors import InputError

PRIOR_SPREAD, PRIOR_WEIGHT = 0.02, 2.0  # noise of a series of which nothing is known, relative; worth so many values
DRIFT = 0.25  # what the level moves by in one step, in standard deviations of the noise


@dataclass(frozen=True)
class Level:
    """The level of a series' last segment.

    `thin` says that the series itself holds less than five values, so that the width of predictions comes from other
    series; it is in the texts that people read.
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

    def predict(self, h: int = 1) -> Predictive:
        """The distribution of the value `h` measurements on (h >= 1; InputError else)."""
        if h < 1:
            raise InputError(f"a prediction {h} steps ahead", do="give 1 or more")
        width = self.spread * math.sqrt(1 + 1 / self.count + DRIFT**2 * h)
        return Predictive(h, self.y + width * Z, self.log)


def fit(values: ArrayLike | Sequence[float | None], *, scale: ScaleName = "auto") -> Level:
    """The level that a series stands at.

    values: [n] in any unit, oldest first; None and NaN are missing. scale: as for `segments`.
    Errors: NoHistoryError where there is no value; InputError for what is no series, or for a single value that is not
    positive: nothing says how far the next may lie from it.
    """
    series = scaled(values, scale)
    found = segments(values, scale=scale)
    return _level(series, found)


def _level(series: Scaled, found: Sequence[Segment]) -> Level:
    last = found[-1]
    y, _, own = location(series.y[-last.count:])
    prior = PRIOR_SPREAD if series.log else (noise(series.y) or abs(y) * PRIOR_SPREAD)
    if prior == 0 and len(series.y) < 5:
        raise InputError("a history of too few values to say how far the next may lie from them",
                         why=f"{len(series.y)} of 0 each, on a scale without a unit", do="measure more often")
    weight = PRIOR_WEIGHT / (PRIOR_WEIGHT + last.count)
    spread = math.sqrt((1 - weight) * own**2 + weight * prior**2)
    half = 1.96 * spread / math.sqrt(last.count)
    return Level(series.back(y), series.back(y - half), series.back(y + half), spread, last.count, tuple(found),
                 series.log, len(series.y) < 5, y)
