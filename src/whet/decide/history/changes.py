"""Where the level of a series changed: segments by penalized least squares of what is left when outliers are cut.

The search is PELT (Killick, Fearnhead and Eckley, "Optimal detection of changepoints with a linear computational cost",
Journal of the American Statistical Association 107, 2012), which finds the segments of the least total cost. Outliers
are cut before, at three standard deviations from a running median (Hampel's filter; Pearson, "Outliers in process
modeling and identification", IEEE Transactions on Control Systems Technology 10, 2002), else each would be a segment of
its own. Then every change is tested by itself, and the least certain are dropped until all that is left is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from whet.decide.history.scale import Scaled, ScaleName, scaled
from whet.decide.student import student, student_cdf
from whet.errors import InputError

CONFIDENCE = 0.99  # that a change must have
PENALTY = 3.0  # of a segment, in variances times log n: more than 2 (Yao 1988), and every change is tested after
SHORTEST = 3  # points of a segment: with less, a new level and a pair of outliers look alike
MOST_DEGREES = 200  # of freedom: beyond, Student's t is the normal distribution to three digits
PRUNED = 8  # steps of the search after which candidates are dropped
CUT = 3.0  # standard deviations at which outliers are cut
MAD = 1.0 / NormalDist().inv_cdf(0.75)  # makes the median absolute deviation a standard deviation of normal values


_student = functools.cache(student)


@dataclass(frozen=True)
class Change:
    """A change of the level. On a log scale `effect` is relative (0.1: 10 % up), else it is in the metric's unit."""

    at: int  # index in the series of the first value on the new level
    effect: float
    low: float  # 95 % interval of the effect
    high: float
    confidence: float  # 1 - p of there being a change, corrected for having searched for its place


@dataclass(frozen=True)
class Segment:
    """A stretch of a series at one level: `values[start:stop]`."""

    start: int
    stop: int
    count: int  # values in it that are not missing
    level: float  # robust mean, in the metric's unit
    low: float  # 95 % interval of the level; equal to it where a segment has one value
    high: float
    spread: float  # robust standard deviation of one value: relative (0.02: 2 %) on a log scale, else in the unit
    change: Change | None  # that began it; None for the first


def segments(values: ArrayLike | Sequence[float | None], *, scale: ScaleName = "auto",
             confidence: float = CONFIDENCE) -> list[Segment]:
    """The segments of a series, oldest first; deterministic, and linear in time for most series.

    values: [n] in any unit, in order of time; None and NaN are missing. scale: `auto` takes logarithms where all
    values are positive. confidence: a change must have at least this.
    Errors: NoHistoryError where there is no value, InputError for what is no series or no such confidence.
    """
    if not 0 < confidence < 1:
        raise InputError(f"a confidence of {confidence:g}", do="give one between 0 and 1, as 0.99")
    series = scaled(values, scale)
    return described(series, starts(series.y, confidence))


def noise(y: np.ndarray) -> float:
    """The standard deviation of one value around its level, from differences of neighbours, which steps and drift leave
    alone: median |d| / (0.6745 sqrt 2) (von Neumann 1941 with a median instead of a mean). Where more than half of the
    differences are 0 (a coarse clock), their mean: sqrt(pi) / 2 mean |d|. 0 for less than two values, or equal ones."""
    if len(y) < 2:
        return 0.0
    d = np.abs(np.diff(y))
    found = float(np.median(d)) * MAD / math.sqrt(2)
    return found if found > 0 else float(d.mean()) * math.sqrt(math.pi) / 2


def cut(y: np.ndarray, sigma: float) -> np.ndarray:
    """y with what lies further than CUT sigma from the median of its neighbours (five values) drawn to there."""
    if len(y) < SHORTEST:
        return y
    # At the ends the median is of fewer: infinities on both sides leave it to the rest.
    ends = np.array([-np.inf, np.inf])
    windows = (np.lib.stride_tricks.sliding_window_view(np.concatenate([side, y, side]), 5)
               for side in (ends, ends[::-1]))
    middle = sum(np.median(w, axis=1) for w in windows) / 2
    return np.clip(y, middle - CUT * sigma, middle + CUT * sigma)


def starts(y: np.ndarray, confidence: float = CONFIDENCE) -> list[int]:
    """Indices at which segments begin, 0 first."""
    sigma = noise(y)
    if len(y) < 2 * SHORTEST or sigma == 0:
        return [0]
    clean = cut(y, sigma)
    bounds = [*_pelt(clean, PENALTY * sigma**2 * math.log(len(y))), len(y)]
    p = [_p(clean, *bounds[i - 1:i + 2]) for i in range(1, len(bounds) - 1)]
    while p and max(p) > 1 - confidence:
        worst = int(np.argmax(p))
        del bounds[worst + 1], p[worst]
        for i in (worst, worst + 1):  # the neighbours of what is gone
            if 1 <= i < len(bounds) - 1:
                p[i - 1] = _p(clean, *bounds[i - 1:i + 2])
    return bounds[:-1]


def _pelt(y: np.ndarray, penalty: float) -> list[int]:
    """The starts of the segments, each of SHORTEST values at least, with the least sum of squares around their means
    and `penalty` for each (Killick et al. 2012, section 3: candidates that can no longer win are dropped)."""
    n = len(y)
    y = y - np.median(y)
    s1, s2 = np.concatenate([[0.0], np.cumsum(y)]).tolist(), np.concatenate([[0.0], np.cumsum(y * y)]).tolist()
    least, before = [math.inf] * (n + 1), [0] * (n + 1)
    least[0] = -penalty
    worse = np.empty(0, dtype=np.intp)
    # Of each candidate: its place, the sum of values before it, and its least cost less the squares before it.
    at, sums, base = np.zeros(n), np.zeros(n), np.zeros(n)
    base[0], count = -penalty, 1
    for stop in range(SHORTEST, n + 1):
        new = stop - SHORTEST
        if new >= SHORTEST:
            at[count], sums[count], base[count] = new, s1[new], least[new] - s2[new]
            count += 1
        total = s1[stop] - sums[:count]
        total *= total
        total /= stop - at[:count]
        cost = base[:count] - total
        best = int(cost.argmin())
        least[stop], before[stop] = cost[best] + s2[stop] + penalty, int(at[best])
        if stop % PRUNED == 0:
            worse = np.flatnonzero(cost + s2[stop] > least[stop])
        elif stop % PRUNED == SHORTEST and len(worse):  # from here on `stop - SHORTEST` is a better candidate
            kept = np.ones(count, dtype=bool)
            kept[worse] = False
            kept = np.flatnonzero(kept)
            count = len(kept)
            at[:count], sums[:count], base[:count] = at[kept], sums[kept], base[kept]
            worse = worse[:0]
    found = [int(before[n])]
    while found[-1]:
        found.append(int(before[found[-1]]))
    return found[::-1]


def _difference(y: np.ndarray, start: int, at: int, stop: int) -> tuple[float, float, int]:
    """Of two neighbouring segments: the difference of means, its standard error, degrees of freedom. Variances are
    pooled; neighbours that resemble each other count for less (n (1 - r) / (1 + r); Bayley and Hammersley 1946)."""
    left, right = y[start:at], y[at:stop]
    residuals = np.concatenate([left - left.mean(), right - right.mean()])
    degrees = len(residuals) - 2
    variance = float(residuals @ residuals) / max(1, degrees)
    r = float(residuals[1:] @ residuals[:-1]) / float(residuals @ residuals) if variance > 0 else 0.0
    inflation = (1 + min(max(r, 0.0), 0.9)) / (1 - min(max(r, 0.0), 0.9))
    error = math.sqrt(variance * inflation * (1 / len(left) + 1 / len(right)))
    return float(right.mean() - left.mean()), error, max(1, min(degrees, MOST_DEGREES))


def _p(y: np.ndarray, start: int, at: int, stop: int) -> float:
    """The probability of such a difference, at the best of all places (Bonferroni), where there is no change."""
    difference, error, degrees = _difference(y, start, at, stop)
    if error == 0:
        return 0.0 if difference else 1.0
    return min(1.0, 2 * (1 - student_cdf(abs(difference) / error, degrees)) * (stop - start))


def described(series: Scaled, begins: Sequence[int]) -> list[Segment]:
    """The segments that begin at indices of `series.y`."""
    y, log = series.y, series.log
    clean = cut(y, noise(y))
    out = []
    bounds = [*begins, len(y)]
    for i, (start, stop) in enumerate(pairwise(bounds)):
        level, error, spread = location(y[start:stop])
        half = error * _student(0.975, min(stop - start - 1, MOST_DEGREES)) if stop - start > 1 else 0.0
        change = None
        if i:
            difference, wrong, degrees = _difference(clean, bounds[i - 1], start, stop)
            reach = wrong * _student(0.975, degrees)
            change = Change(int(series.at[start]), _effect(difference, log), _effect(difference - reach, log),
                            _effect(difference + reach, log), 1 - _p(clean, bounds[i - 1], start, stop))
        out.append(Segment(int(series.at[start]) if i else 0,
                           int(series.at[stop]) if stop < len(y) else series.length, stop - start,
                           series.back(level), series.back(level - half), series.back(level + half), spread, change))
    return out


def location(y: np.ndarray) -> tuple[float, float, float]:
    """(level, its standard error, spread of one value): Huber's location with k = 1.5 from the median, in units of the
    median absolute deviation (Huber 1964; Maronna et al., "Robust Statistics", 2.8), five steps."""
    middle = float(np.median(y))
    spread = float(np.median(np.abs(y - middle))) * MAD
    if len(y) < 2:
        return middle, 0.0, 0.0
    if spread == 0:
        spread = float(np.abs(y - middle).mean()) * math.sqrt(math.pi / 2)
    if spread == 0:
        return middle, 0.0, 0.0
    for _ in range(5):
        middle = float(np.clip(y, middle - 1.5 * spread, middle + 1.5 * spread).mean())
    return middle, spread / math.sqrt(len(y)), spread


def _effect(difference: float, log: bool) -> float:
    return math.expm1(min(difference, 700.0)) if log else difference
