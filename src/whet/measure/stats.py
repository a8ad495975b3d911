"""Percentiles, ratios and means, each with what it is uncertain by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from whet.errors import InputError
from whet.measure.record import Latency, Quantile

KEPT_SAMPLES = 4096


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float


def quantile(samples: ArrayLike, q: float, confidence: float = 0.95, *, effective: int | None = None) -> Quantile:
    """The q-quantile (linear between order statistics) and its distribution-free confidence interval.

    The interval's ends are order statistics: the number of samples below the true quantile is binomial
    (n, q), see David and Nagaraja, "Order Statistics", 7.1. An end that no sample bounds is None.

    effective: how many independent samples these are worth, where neighbours resemble each other; the ranks are those
    of so many samples, spread over all.
    """
    x = np.sort(_checked(samples))
    n = len(x)
    worth = n if effective is None else max(1, min(n, effective))
    low, high = _binomial_ranks(worth, q, (1 - confidence) / 2)
    if worth < n:
        low, high = low * n // worth, n + 1 if high > worth else -(-high * n // worth)
    value = float(np.quantile(x, q))  # of few samples, interpolation may leave the interval: widen it then
    return Quantile(value=value, low=min(value, float(x[low - 1])) if low >= 1 else None,
                    high=max(value, float(x[high - 1])) if high <= n else None)


def _binomial_ranks(n: int, q: float, tail: float) -> tuple[int, int]:
    """Ranks r < s (from 1) so that P(X[r] > quantile) and P(X[s] < quantile) are each at most `tail`.

    X[r] > quantile when fewer than r samples lie below it; 0 or n + 1 where no rank will do.
    """
    k = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_p = (log_factorial[n] - log_factorial[k] - log_factorial[n - k]
             + k * math.log(q) + (n - k) * math.log1p(-q))
    cdf = np.cumsum(np.exp(log_p))
    low = int(np.searchsorted(cdf, tail, side="right"))  # the largest r with P(fewer than r below) <= tail
    high = int(np.searchsorted(cdf, 1 - tail, side="left")) + 1  # the smallest s with P(at least s below) <= tail
    return low, high


def latency(samples: ArrayLike) -> Latency:
    """The record of one backend's calls, in seconds. Of more than 4096 samples, evenly spaced ones are kept."""
    x = _checked(samples)
    kept = x if len(x) <= KEPT_SAMPLES else x[np.linspace(0, len(x) - 1, KEPT_SAMPLES).astype(int)]
    return Latency(count=len(x), mean=float(x.mean()), minimum=float(x.min()), p50=quantile(x, 0.5),
                   p90=quantile(x, 0.9), p99=quantile(x, 0.99), samples=tuple(float(f"{s:.4g}") for s in kept))


def ratio_of_medians(theirs: Sequence[ArrayLike], ours: Sequence[ArrayLike], *, confidence: float = 0.95,
                     resamples: int = 2000, seed: int = 0) -> Interval:
    """median(theirs) / median(ours) from alternating rounds, with a bootstrap interval.

    `theirs[i]` and `ours[i]` are the samples of round i. Whole rounds are drawn again, both backends
    together, so that what disturbed a round disturbs both sides (Efron and Tibshirani, "An Introduction
    to the Bootstrap", 8.6: blocks of dependent data).
    """
    if len(theirs) != len(ours):
        raise InputError(f"{len(theirs)} rounds against {len(ours)}", why="rounds are compared in pairs")
    a, b = [_checked(r) for r in theirs], [_checked(r) for r in ours]
    value = float(np.median(np.concatenate(a)) / np.median(np.concatenate(b)))
    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for i in range(resamples):
        pick = rng.integers(0, len(a), len(a))
        drawn[i] = np.median(np.concatenate([a[j] for j in pick])) / np.median(np.concatenate([b[j] for j in pick]))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def geometric_mean(values: ArrayLike) -> float:
    """exp(mean(log)); all values positive."""
    x = _checked(values)
    if (x <= 0).any():
        raise InputError("a geometric mean of values that are not all positive")
    return float(np.exp(np.log(x).mean()))


def wilson(successes: int, trials: int, z: float = 1.96) -> Interval:
    """A share and its score interval (Wilson 1927), right also near 0 and 1; 95 % by default."""
    if not 0 <= successes <= trials or trials == 0:
        raise InputError(f"{successes} of {trials} is no share")
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def _checked(samples: ArrayLike) -> np.ndarray:
    x = np.asarray(samples, dtype=np.float64).reshape(-1)
    if x.size == 0 or not np.isfinite(x).all():
        raise InputError("statistics of nothing, or of values that are not finite numbers")
    return x
