"""Looking more than once: boundaries that keep the error rate of a trial which is looked at while it runs.

The statistic of look k is about normal, and between looks it moves as Brownian motion in the information fraction t
(the share of the planned samples that are there): Jennison and Turnbull, "Group Sequential Methods", 2000, chapter 3.
Probabilities of crossing a boundary are integrated look by look (Armitage, McPherson and Rowe, Journal of the Royal
Statistical Society A 132, 1969).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

import numpy as np

from whet.errors import InputError

Spending = Literal["obrien-fleming", "pocock"]
_NORMAL = NormalDist()
_FAR = 8.5  # standard deviations beyond which nothing is left
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)  # of each panel of an integral
_MOST = 200  # panels


def spent(t: float, alpha: float, spending: Spending) -> float:
    """How much of the one-sided error rate `alpha` may have been used at the fraction t of the information.

    Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70, 1983: 2 - 2 Phi(z / sqrt(t))
    with z the 1 - alpha/2 quantile (`obrien-fleming`: next to nothing early), and alpha ln(1 + (e - 1) t) (`pocock`:
    about evenly).
    """
    if t <= 0:
        return 0.0
    if spending == "pocock":
        return alpha * math.log1p((math.e - 1) * min(t, 1.0))
    return 2 * _upper(_NORMAL.inv_cdf(1 - alpha / 2) / math.sqrt(min(t, 1.0)))


def boundaries(fractions: Sequence[float], alpha: float, spending: Spending, *, two_sided: bool = False) -> list[float]:
    """The normal quantiles that the statistic must exceed at each look.

    fractions: of the planned information, increasing, the last at most 1. alpha: one-sided; `two_sided` boundaries are
    symmetric and spend `alpha` on each side. InputError for fractions that do not increase.
    """
    path = _Path(_checked(fractions), two_sided)
    used = 0.0
    for t in fractions:
        target = spent(t, alpha, spending)
        path.look(max(target - used, 0.0) * (2 if two_sided else 1))
        used = max(target, used)
    return path.bounds


def classical(looks: int, alpha: float, kind: Spending, *, two_sided: bool = True) -> list[float]:
    """The boundaries of Pocock (Biometrika 64, 1977: the same at each look) and of O'Brien and Fleming (Biometrics 35,
    1979: C sqrt(K / k)) for `looks` looks at equal distances. alpha: one-sided."""
    fractions = [(k + 1) / looks for k in range(looks)]
    shape = [1.0 if kind == "pocock" else math.sqrt(1 / t) for t in fractions]
    wanted = alpha * (2 if two_sided else 1)

    def kept(c: float) -> bool:
        return sum(crossing([c * s for s in shape], fractions, two_sided=two_sided)) < wanted

    c = _bisect(kept, 0.5, 6.0)
    return [c * s for s in shape]


def crossing(bounds: Sequence[float], fractions: Sequence[float], drift: float = 0.0, *,
             two_sided: bool = False) -> list[float]:
    """The probability of crossing first at each look (either side, if `two_sided`).

    drift: the statistic's mean at the full information; at the fraction t it is drift sqrt(t).
    """
    path = _Path(_checked(fractions), two_sided, drift)
    for c in bounds:
        path.pass_(c)
    return path.crossed


def inflation(bounds: Sequence[float], fractions: Sequence[float], alpha: float, power: float, *,
              two_sided: bool = False) -> float:
    """By how much the planned samples exceed those of a single look of the same error rate and power.

    (drift / (z_alpha + z_power))^2, with the drift at which the boundaries are crossed with probability `power`
    (Jennison and Turnbull, 2.3).
    """
    fixed = _NORMAL.inv_cdf(1 - alpha) + _NORMAL.inv_cdf(power)
    drift = _bisect(lambda d: sum(crossing(bounds, fractions, d, two_sided=two_sided)) > power, 0.5 * fixed, 3 * fixed)
    return (drift / fixed) ** 2 * fractions[-1]


def boundary(looks: Sequence[float], now: float, planned: float, alpha: float, spending: Spending) -> float:
    """The one-sided boundary of this look.

    looks: samples at earlier looks; now: samples now; planned: at the end. A look at the planned number or beyond it
    spends what is left.
    """
    if not planned > 0 or not math.isfinite(planned):
        raise InputError("the planned number of samples is positive", why=f"{planned:g} was given")
    every = [*looks, now]
    if any(b <= a for a, b in pairwise(every)) or every[0] <= 0:
        raise InputError("looks at a trial come with more samples each time",
                         why=f"they were {', '.join(f'{x:,.0f}' for x in every)}",
                         do="give the sizes of the earlier looks, in order, with --looks")
    if len(every) > 1 and every[-2] >= planned:
        raise InputError("the trial was over: its error rate was spent at the planned number of samples",
                         why=f"{planned:,.0f} were planned, and it was looked at with {every[-2]:,.0f}",
                         do="plan a new trial with new samples")
    return boundaries([min(x / planned, 1.0) for x in every], alpha, spending)[-1]


class _Path:
    """The density of the statistic that has not crossed yet, at points of its continuation region."""

    def __init__(self, fractions: Sequence[float], two_sided: bool, drift: float = 0.0) -> None:
        self.fractions, self.two_sided, self.drift = fractions, two_sided, drift
        self.bounds: list[float] = []
        self.crossed: list[float] = []
        self._x = np.zeros(1)  # points on the scale of Brownian motion, and the mass at each
        self._mass = np.ones(1)

    def look(self, probability: float) -> None:
        """The next look, with the boundary that is first crossed there with this probability."""
        if probability <= 1e-300:
            self.pass_(math.inf)
            return
        self.pass_(_bisect(lambda c: self._exit(c) < probability, 0.0, 40.0))

    def pass_(self, c: float) -> None:
        """The next look, with the boundary c."""
        self.crossed.append(self._exit(c))
        t, step, moved = self._next()
        self.bounds.append(c)
        root = math.sqrt(t)
        centre, reach = self.drift * t, _FAR * root
        high = min(c * root, centre + reach)
        low = max(-c * root, centre - reach) if self.two_sided else centre - reach
        following = [b - a for a, b in pairwise(self.fractions)]
        finest = math.sqrt(min([step, *following]))  # kernels this narrow are integrated over these points
        panels = int(min(_MOST, max(8, (high - low) / (1.5 * finest))))
        width = (high - low) / panels
        x = (low + width * (np.arange(panels)[:, None] + (_NODES + 1) / 2)).ravel()
        kernel = np.exp(-(x[:, None] - moved[None, :]) ** 2 / (2 * step)) / math.sqrt(2 * math.pi * step)
        self._mass = kernel @ self._mass * np.tile(_WEIGHTS * width / 2, panels)
        self._x = x

    def _exit(self, c: float) -> float:
        t, step, moved = self._next()
        end, sd = c * math.sqrt(t), math.sqrt(step)
        out = float(self._mass @ _tails((end - moved) / sd))
        return out + float(self._mass @ _tails((end + moved) / sd)) if self.two_sided else out

    def _next(self) -> tuple[float, float, np.ndarray]:
        """The next look's fraction, its distance, and where the points have drifted by then."""
        k = len(self.bounds)
        t = self.fractions[k]
        step = t - (self.fractions[k - 1] if k else 0.0)
        return t, step, self._x + self.drift * step


def _tails(z: np.ndarray) -> np.ndarray:
    return 0.5 * np.fromiter((math.erfc(v) for v in (z / math.sqrt(2)).tolist()), float, len(z))


def _upper(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


def _bisect(below: Callable[[float], bool], low: float, high: float) -> float:
    """Where `below` changes from False to True, between low and high."""
    for _ in range(50):
        middle = (low + high) / 2
        if below(middle):
            high = middle
        else:
            low = middle
    return (low + high) / 2


def _checked(fractions: Sequence[float]) -> Sequence[float]:
    if not fractions or any(b <= a for a, b in zip([0.0, *fractions], fractions)) or fractions[-1] > 1 + 1e-12:
        raise InputError("looks come at increasing fractions of the planned samples, the last at most 1",
                         why=f"they are {', '.join(f'{t:g}' for t in fractions) or 'none'}")
    return fractions
