"""A distribution of a future value, as quantiles on the series' scale."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from whet.decide.history.scale import unscale
from whet.errors import InputError

# Probabilities at which a distribution is kept: dense in the tails, where objectives lie.
_TAIL = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.025]
P = np.sort(np.concatenate([_TAIL, np.arange(1, 100) / 100, 1 - np.array(_TAIL)]))
Z = np.array([NormalDist().inv_cdf(float(p)) for p in P])


@dataclass(frozen=True)
class Predictive:
    """The distribution of the value `h` measurements on.

    Its quantiles at the probabilities `P` are straight lines between; beyond the first and last they go on as a normal
    tail does that has the outermost two.
    """

    h: int
    y: np.ndarray  # [len(P)] quantiles on the scale, in order
    log: bool

    def quantile(self, p: float) -> float:
        """The p-quantile, in the unit of the values; 0 < p < 1 (InputError else)."""
        if not 0 < p < 1:
            raise InputError(f"a quantile of {p:g}", do="give a probability between 0 and 1")
        return unscale(float(self._at(np.array([p]))[0]), self.log)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The central interval that holds the value with probability `level`."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    @property
    def median(self) -> float:
        """The 0.5 quantile."""
        return self.quantile(0.5)

    def cdf(self, x: float) -> float:
        """P(value <= x), x in the unit of the values."""
        if np.isnan(x):
            raise InputError("a probability at NaN")
        if self.log and x <= 0:
            return 0.0
        place = np.log(x) if self.log else x
        if self.y[-1] == self.y[0]:
            return float(place >= self.y[0])
        z = self._tail(place)
        if z is not None:
            return NormalDist().cdf(z)
        return float(np.interp(place, self.y, P))

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """[n] draws, in the unit of the values; the same for one seed."""
        drawn = self._at(np.random.default_rng(seed).random(n))
        return np.exp(drawn) if self.log else drawn

    def _at(self, p: ArrayLike) -> np.ndarray:
        p = np.asarray(p, dtype=np.float64)
        out = np.interp(p, P, self.y)
        for outside, i, j in ((p < P[0], 0, 1), (p > P[-1], -1, -2)):
            for k in np.flatnonzero(outside):
                z = NormalDist().inv_cdf(float(np.clip(p[k], 1e-300, 1 - 1e-16)))
                out[k] = self.y[i] + (z - Z[i]) * (self.y[i] - self.y[j]) / (Z[i] - Z[j])
        return out

    def _tail(self, place: float) -> float | None:
        """The normal score of a place beyond the outermost quantiles; None between."""
        for beyond, i, j in ((place < self.y[0], 0, 1), (place > self.y[-1], -1, -2)):
            if beyond:
                width = self.y[i] - self.y[j]
                if width == 0:
                    return -np.inf if i == 0 else np.inf
                return float(Z[i] + (place - self.y[i]) / width * (Z[i] - Z[j]))
        return None
