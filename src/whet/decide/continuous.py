"""Values instead of right and wrong: the loss in a mean or a quantile from one version to another, and its bounds.

A loss is absolute (the values' own unit) or relative (percent of the reference's), and positive where b is worse.
Relative losses are bounded on the scale of logarithms, which needs positive values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from whet.decide.student import student
from whet.errors import InputError
from whet.measure import bootstrap
from whet.measure.stats import quantile

TINY = 1e-100  # below which a value counts as no positive one: squares underflow
BATCHES = 24  # that a series is cut into, to see how much neighbours resemble each other
_MANY = 200  # degrees of freedom above which Student's t is a series about the normal quantile
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A loss in "percent" or in the values' own unit (""), with what its bounds are made of.

    On the scale of the loss (of its logarithm, if relative) `centre` is the estimate; `error` its standard error, with
    `degrees` of freedom, or None where bounds come from order statistics.
    """

    a: float
    b: float
    relative: bool
    higher_better: bool
    centre: float
    error: float | None = None
    degrees: int = 1

    @property
    def loss(self) -> float:
        return self.on_scale(self.centre)

    def on_scale(self, x: float) -> float:
        """From the scale of `centre` to that of losses."""
        if not self.relative:
            return x
        if math.isinf(x):
            return x if not self.higher_better or x < 0 else 100.0
        ratio = math.exp(max(-700.0, min(x, 700.0)))
        return 100 * (1 - 1 / ratio) if self.higher_better else 100 * (ratio - 1)

    def to_scale(self, loss: float) -> float:
        """From a loss to the scale of `centre`."""
        if not self.relative:
            return loss
        if self.higher_better:
            return -math.log1p(-loss / 100) if loss < 100 else math.inf
        return math.log1p(loss / 100) if loss > -100 else -math.inf

    def bounds(self, alpha: float) -> tuple[float, float]:
        """One-sided bounds, each wrong with probability `alpha`, by Student's t. Infinite where nothing varied: that
        says nothing of how much it may vary."""
        assert self.error is not None
        if self.error == 0:
            return self.on_scale(-math.inf), self.on_scale(math.inf)
        reach = _t(1 - alpha, self.degrees) * self.error
        return self.on_scale(self.centre - reach), self.on_scale(self.centre + reach)


def mean(a: np.ndarray, b: np.ndarray, *, relative: bool, higher_better: bool) -> Estimate:
    """The loss in the mean of independent groups.

    Welch, "The generalization of Student's problem", Biometrika 34, 1947, with Satterthwaite's degrees of freedom
    (rounded down); relative losses by the delta method, var(log mean) = var / (n mean^2). Each group counts for as many
    samples as it is worth (`worth`).
    """
    _enough(a, b)
    sign = -1.0 if higher_better else 1.0
    m_a, m_b = float(a.mean()), float(b.mean())
    n_a, n_b = worth(a), worth(b)
    v_a, v_b = float(a.var(ddof=1)) / n_a, float(b.var(ddof=1)) / n_b
    if relative:
        _positive(m_a, m_b)
        centre, v_a, v_b = math.log(m_b / m_a), v_a / m_a ** 2, v_b / m_b ** 2
    else:
        centre = m_b - m_a
    total = v_a + v_b
    degrees = total ** 2 / (v_a ** 2 / (n_a - 1) + v_b ** 2 / (n_b - 1)) if total > 0 else n_a + n_b - 2
    return Estimate(m_a, m_b, relative, higher_better, sign * centre, math.sqrt(total), max(1, int(degrees)))


def paired_mean(a: np.ndarray, b: np.ndarray, *, relative: bool, higher_better: bool) -> Estimate:
    """The loss in the mean of the same samples by both: Student's t of the differences (of b / mean b - a / mean a for
    relative losses, the delta method)."""
    _enough(a, b)
    sign = -1.0 if higher_better else 1.0
    m_a, m_b = float(a.mean()), float(b.mean())
    if relative:
        _positive(m_a, m_b)
        centre, d = math.log(m_b / m_a), b / m_b - a / m_a
    else:
        centre, d = m_b - m_a, b - a
    return Estimate(m_a, m_b, relative, higher_better, sign * centre, float(d.std(ddof=1)) / math.sqrt(len(d)),
                    len(d) - 1)


def bootstrapped(a: np.ndarray, b: np.ndarray, alpha: float, *, relative: bool, higher_better: bool, paired: bool,
                 resamples: int = bootstrap.RESAMPLES) -> tuple[float, float]:
    """One-sided bounds of the loss in the mean by the BCa bootstrap (`measure.bootstrap`), for skewed values; pairs are
    drawn together, groups apart."""
    _enough(a, b)
    e = (paired_mean if paired else mean)(a, b, relative=relative, higher_better=higher_better)
    sign = -1.0 if higher_better else 1.0

    def loss(m_a: np.ndarray, m_b: np.ndarray) -> np.ndarray:
        return sign * (np.log(m_b / m_a) if relative else m_b - m_a)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        drawn = loss(_drawn(a, resamples, 0), _drawn(b, resamples, 0 if paired else 1))
        left_a, left_b = ((x.sum() - x) / (len(x) - 1) for x in (a, b))
        whole_a, whole_b = np.array(e.a), np.array(e.b)
        left = loss(left_a, left_b) if paired else np.concatenate([loss(left_a, whole_b), loss(whole_a, left_b)])
    low, high = (bootstrap.bca(e.centre, drawn, left, level) for level in (alpha, 1 - alpha))
    return e.on_scale(low), e.on_scale(high)


def _drawn(x: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    return np.concatenate([w @ x / len(x) for w in bootstrap.weights(len(x), resamples, seed)])


def at_quantile(a: np.ndarray, b: np.ndarray, q: float, alpha: float, *, relative: bool,
                higher_better: bool) -> tuple[Estimate, float, float]:
    """The loss in the q-quantile of independent groups, and its one-sided bounds; infinite where too few samples bound
    a quantile (one-sided at 95 %, P99 needs 299).

    Each group's quantile is bounded by order statistics (`measure.stats.quantile`), and the bounds of the difference
    are recovered from these: Zou and Donner, "Construction of confidence limits about effect measures: a general
    approach", Statistics in Medicine 27, 2008 (MOVER). Neighbours in a series may resemble each other: `worth`.
    """
    sign = -1.0 if higher_better else 1.0
    found = []
    for x in (a, b):
        value = float(np.quantile(x, q))
        k = quantile(x, q, 1 - 2 * alpha, effective=worth((x > value).astype(float)) if len(x) > 1 else 1)
        found.append((k.value, -math.inf if k.low is None else k.low, math.inf if k.high is None else k.high))
    if relative:
        _positive(found[0][0], found[1][0])
        (v_a, l_a, u_a), (v_b, l_b, u_b) = (tuple(_log(x) for x in three) for three in found)
    else:
        (v_a, l_a, u_a), (v_b, l_b, u_b) = found
    up, down = math.hypot(u_b - v_b, v_a - l_a), math.hypot(v_b - l_b, u_a - v_a)
    if higher_better:
        up, down = down, up
    e = Estimate(found[0][0], found[1][0], relative, higher_better, sign * (v_b - v_a))
    return e, e.on_scale(e.centre - down), e.on_scale(e.centre + up)


def runs(a: Sequence[float], b: Sequence[float], *, relative: bool, higher_better: bool) -> Estimate:
    """The loss in a figure that each of several runs (builds, machines started anew) gives once: Welch's t of the
    runs' figures, of their logarithms for relative losses. It holds what differs from run to run."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    if relative:
        _positive(float(x.min()), float(y.min()))
        e = mean(np.log(x), np.log(y), relative=False, higher_better=higher_better)
        return Estimate(math.exp(e.a), math.exp(e.b), True, higher_better, e.centre, e.error, e.degrees)
    return mean(x, y, relative=False, higher_better=higher_better)


def worth(x: np.ndarray) -> int:
    """How many independent samples a series is worth: n over the factor by which the variance of its mean exceeds that
    of independent values, as the means of batches show it (Conway, Management Science 10, 1963; Schmeiser, Operations
    Research 30, 1982, on the number of batches). Below four samples a batch it cannot be seen, and is n.
    """
    n = len(x)
    size = n // BATCHES
    variance = float(x.var(ddof=1)) if n > 1 else 0.0
    if size < 4 or variance == 0:
        return n
    means = x[:size * BATCHES].reshape(BATCHES, size).mean(axis=1)
    factor = size * float(means.var(ddof=1)) / variance
    return max(2, int(n / max(1.0, factor)))


@cache
def _t(level: float, degrees: int) -> float:
    """The `level` quantile of Student's t; of many degrees by Abramowitz and Stegun, 26.7.5 (to 1e-6)."""
    if degrees <= _MANY:
        return student(level, degrees)
    z = _NORMAL.inv_cdf(level)
    return z + (z ** 3 + z) / (4 * degrees) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * degrees ** 2)


def _enough(a: np.ndarray, b: np.ndarray) -> None:
    if len(a) < 2 or len(b) < 2:
        raise InputError("the spread of one sample is not known", why=f"there are {len(a)} and {len(b)} samples",
                         do="give two at least in each group; some hundreds can decide something")


def _positive(a: float, b: float) -> None:
    if min(a, b) < TINY:
        raise InputError("a relative loss of values that are not positive", why=f"they are {a:g} and {b:g}",
                         do="give the margin in the values' own unit, without %")


def _log(x: float) -> float:
    return -math.inf if x <= 0 else math.log(x) if math.isfinite(x) else x
