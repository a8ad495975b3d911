"""Bootstrap intervals for what is no plain share: seeded, over whole samples."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000
_CHUNK = 1 << 20  # weights that are held at once


def weights(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of n samples is drawn in each resample, [rows, n], some rows at a time; the same for one seed, so
    that two models which are asked with it are drawn together."""
    rng = np.random.default_rng(seed)
    rows = max(1, min(resamples, _CHUNK // n))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def bca(value: float, drawn: np.ndarray, left_out: np.ndarray, level: float) -> float:
    """The `level` end of the bias-corrected and accelerated interval of an estimate.

    value:    of the whole sample; drawn: of the resamples; left_out: with each sample left out in turn (jackknife).
    Efron, "Better bootstrap confidence intervals", Journal of the American Statistical Association 82, 1987. Infinite
    where a resample is not finite; `value` where nothing varies.
    """
    if not (np.isfinite(drawn).all() and np.isfinite(left_out).all() and np.isfinite(value)):
        return float("inf") if level > 0.5 else float("-inf")
    if np.ptp(drawn) == 0:
        return value
    normal = NormalDist()
    # Half of the ties count as below: of estimates with few values, many resamples give the value itself.
    below = ((drawn < value).sum() + 0.5 * (drawn == value).sum()) / len(drawn)
    z0 = normal.inv_cdf(float(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn))))
    deviation = left_out.mean() - left_out
    squares = (deviation ** 2).sum()
    acceleration = float((deviation ** 3).sum() / (6 * squares ** 1.5)) if squares > 0 else 0.0
    z = z0 + normal.inv_cdf(level)
    at = normal.cdf(z0 + z / max(1e-9, 1 - acceleration * z))
    return float(np.quantile(drawn, at))
