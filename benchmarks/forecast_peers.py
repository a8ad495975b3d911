"""What whet's forecast is held against: the three-iteration slope, the random walk, the local level model.

Each gives, for every place of a series at once, normal distributions on the logarithmic scale: what it says at place t
is made of y[0..t] alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RATIOS = np.concatenate([[0.0], np.geomspace(1e-4, 30.0, 24)])  # variances of the level's step in that of the noise
LEAST = 1e-4  # a standard deviation at least, relative: where a series has not varied yet
PATHS = 200


@dataclass(frozen=True)
class Peer:
    """center, slope, noise, walk: [n] each; the value h on is normal around center + slope h with variance
    error + noise + h walk. error is the level's variance."""

    center: np.ndarray
    slope: np.ndarray
    error: np.ndarray
    noise: np.ndarray
    walk: np.ndarray

    def at(self, t: np.ndarray, h: int) -> tuple[np.ndarray, np.ndarray]:
        """(mean, standard deviation) of the value h on, at places t."""
        variance = self.error[t] + self.noise[t] + h * self.walk[t]
        return self.center[t] + h * self.slope[t], np.maximum(np.sqrt(variance), LEAST)

    def lowest(self, t: int, within: Sequence[int], stands: int, rng: np.random.Generator) -> dict[int, np.ndarray]:
        """Of simulated paths from place t: the least median of `stands` values in a row, within so many values each."""
        shape = (PATHS, max(within))
        steps = rng.standard_normal(shape) * np.sqrt(self.walk[t]) + self.slope[t]
        start = self.center[t] + rng.standard_normal((PATHS, 1)) * np.sqrt(self.error[t])
        values = start + np.cumsum(steps, axis=1) + rng.standard_normal(shape) * np.sqrt(self.noise[t])
        medians = np.median(np.lib.stride_tricks.sliding_window_view(values, stands, axis=1), axis=2)
        least = np.minimum.accumulate(medians, axis=1)
        return {h: least[:, h - stands] for h in within}


def slope3(y: np.ndarray) -> Peer:
    """The line through the last three values, by least squares, goes on (its end is their mean plus its slope). Errors
    are those that it made one step ahead so far, their variance growing with h."""
    n = len(y)
    center, slope = y.copy(), np.zeros(n)
    slope[1] = y[1] - y[0]
    slope[2:] = (y[2:] - y[:-2]) / 2
    center[2:] = (y[2:] + y[1:-1] + y[:-2]) / 3 + slope[2:]
    misses = np.concatenate([[0.0], y[1:] - (center + slope)[:-1]])
    zero = np.zeros(n)
    return Peer(center, slope, zero, zero, _mean_so_far(misses**2))


def random_walk(y: np.ndarray) -> Peer:
    """The last value, with the mean square of differences so far for each step (maximum likelihood)."""
    zero = np.zeros(len(y))
    return Peer(y, zero, zero, zero, _mean_so_far(np.concatenate([[0.0], np.diff(y)]) ** 2))


def local_level(y: np.ndarray) -> Peer:
    """The local level model, its variances by maximum likelihood of what was seen so far, at every place.

    Kalman's filter for each of RATIOS; the noise's variance is concentrated out (Durbin and Koopman, "Time Series
    Analysis by State Space Methods", 2nd ed., 2.10). `statsmodels.tsa.UnobservedComponents(y, "llevel")` is the same.
    """
    n, k = len(y), len(RATIOS)
    level, variance = np.full(k, y[0]), np.ones(k)
    squares, logs = np.zeros(k), np.zeros(k)
    out = np.zeros((4, n))
    out[0, 0] = y[0]
    for t in range(1, n):
        ahead = variance + RATIOS
        total = ahead + 1
        surprise = y[t] - level
        squares += surprise * surprise / total
        logs += np.log(total)
        level = level + ahead / total * surprise
        variance = ahead / total
        sigma2 = np.maximum(squares / t, LEAST**2)
        best = int((-0.5 * (t * np.log(sigma2) + logs)).argmax())
        out[:, t] = level[best], sigma2[best] * variance[best], sigma2[best], sigma2[best] * RATIOS[best]
    center, error, noise, walk = out
    return Peer(center, np.zeros(n), error, noise, walk)


PEERS = {"slope of three": slope3, "random walk": random_walk, "local level": local_level}


def _mean_so_far(x: np.ndarray) -> np.ndarray:
    """Means of x[1..t]; x[0] is no difference."""
    return np.cumsum(x) / np.maximum(1, np.arange(len(x)))
