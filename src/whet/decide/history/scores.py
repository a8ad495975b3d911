"""Proper scores of forecasts: what a forecaster cannot improve by saying other than what he believes.

Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation", Journal of the American Statistical
Association 102, 2007.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from whet.errors import InputError

_erf = np.vectorize(math.erf, otypes=[np.float64])


def crps_normal(x: ArrayLike, mean: ArrayLike, deviation: ArrayLike) -> np.ndarray:
    """Continuous ranked probability score of normal forecasts, in the unit of x; broadcasts (the paper, section 4.2).

    deviation: positive. The distance |x - mean| is its limit at 0.
    """
    x, mean, deviation = (np.asarray(v, dtype=np.float64) for v in (x, mean, deviation))
    z = (x - mean) / deviation
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return deviation * (z * _erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def crps_sample(x: float, sample: ArrayLike) -> float:
    """CRPS of a forecast by draws: E|X - x| - E|X - X'| / 2 (equation 21), with all pairs, in O(n log n)."""
    drawn = np.sort(np.asarray(sample, dtype=np.float64).reshape(-1))
    n = len(drawn)
    if not n:
        raise InputError("a score of no draws")
    pairs = float((2 * np.arange(1, n + 1) - n - 1) @ drawn) / (n * n)
    return float(np.abs(drawn - x).mean()) - pairs


def crps_quantiles(x: ArrayLike, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """CRPS of forecasts by quantiles: 2 times the integral over p of the quantile score (equation 40 and below).

    x: [...]; p: [k] rising probabilities; q: [..., k] their quantiles, straight between and flat beyond. Trapezoids
    between the probabilities; with `predictive.P` within 0.1 % of the closed form for a normal distribution.
    """
    d = np.asarray(x, dtype=np.float64)[..., None] - q
    loss = np.where(d >= 0, p * d, (p - 1) * d)
    weights = np.concatenate([[p[0] + p[1]], p[2:] - p[:-2], [2 - p[-1] - p[-2]]])
    return (loss * weights).sum(axis=-1)


def brier(probability: ArrayLike, happened: ArrayLike) -> float:
    """Mean squared distance of probabilities from what came, 0 or 1 (Brier, Monthly Weather Review 78, 1950)."""
    return float(((np.asarray(probability, dtype=np.float64) - np.asarray(happened, dtype=np.float64)) ** 2).mean())


def coverage(x: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """The share of values within their intervals."""
    x = np.asarray(x)
    return float(((x >= np.asarray(low)) & (x <= np.asarray(high))).mean())
