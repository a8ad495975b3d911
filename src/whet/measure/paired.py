"""Two models on the same samples: right or wrong by each, and what that says of the difference between them.

Samples fall into four cells. Only two tell the models apart: those that the reference alone gets right (`lost`) and
those that the candidate alone does (`gained`). The loss is (lost - gained) / n. Because both answer the same questions,
its uncertainty comes from these discordant pairs alone, which are far fewer than the errors of either model: an
interval for the difference of two independent shares would be many times too wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from whet.errors import InputError
from whet.measure.stats import Interval

CONFIDENCE = 0.95  # of one-sided bounds
POWER = 0.9  # with which a sample of the required size decides


@dataclass(frozen=True)
class Pairs:
    """Counts of the four cells: right by both, by the reference alone, by the candidate alone, by neither."""

    both: int
    lost: int
    gained: int
    neither: int

    def __post_init__(self) -> None:
        if min(self.both, self.lost, self.gained, self.neither) < 0 or self.n == 0:
            raise InputError("pairs are counts of samples, one at least",
                             why=f"{self.both}, {self.lost}, {self.gained} and {self.neither} were given")

    @classmethod
    def of(cls, reference: ArrayLike, candidate: ArrayLike) -> Pairs:
        """From two vectors of truth values, one per sample, in the same order."""
        r, c = np.asarray(reference), np.asarray(candidate)
        if r.ndim != 1 or r.shape != c.shape or len(r) == 0:
            raise InputError("outcomes are two vectors of one length, with one sample at least",
                             why=f"their shapes are {r.shape} and {c.shape}", do="run both models on the same samples")
        r, c = r.astype(bool), c.astype(bool)
        return cls(both=int((r & c).sum()), lost=int((r & ~c).sum()), gained=int((~r & c).sum()),
                   neither=int((~r & ~c).sum()))

    @property
    def n(self) -> int:
        return self.both + self.lost + self.gained + self.neither

    @property
    def discordant(self) -> int:
        """Samples that the two models do not answer alike."""
        return self.lost + self.gained

    @property
    def loss(self) -> float:
        """Share of right answers that the candidate loses; negative where it gains."""
        return (self.lost - self.gained) / self.n


@dataclass(frozen=True)
class McNemar:
    """McNemar's tests of "both models are right equally often", two-sided p-values, and the statistics."""

    exact: float
    mid_p: float
    chi_square: float
    p: float
    corrected_chi_square: float
    corrected_p: float


def mcnemar(pairs: Pairs) -> McNemar:
    """McNemar, "Note on the sampling error of the difference between correlated proportions", 1947.

    `exact` is the binomial test of `lost` among the discordant pairs; `mid_p` counts half of the observed point's
    probability (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013, recommend it);
    `chi_square` is (lost - gained)^2 / (lost + gained) with one degree of freedom, and `corrected` has Edwards's
    correction for continuity, (|lost - gained| - 1)^2 / (lost + gained). Without discordant pairs all p-values are 1.
    """
    b, c, m = pairs.lost, pairs.gained, pairs.discordant
    if m == 0:
        return McNemar(1.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    k = min(b, c)
    log_p = _log_binomial(m, 0.5)
    tail = math.fsum(np.exp(log_p[:k + 1]))
    chi = (b - c) ** 2 / m
    corrected = max(abs(b - c) - 1, 0) ** 2 / m
    return McNemar(exact=min(1.0, 2 * tail), mid_p=min(1.0, 2 * tail - math.exp(log_p[k])), chi_square=chi,
                   p=math.erfc(math.sqrt(chi / 2)), corrected_chi_square=corrected,
                   corrected_p=math.erfc(math.sqrt(corrected / 2)))


def tango(pairs: Pairs, confidence: float = 0.95) -> Interval:
    """The loss and its two-sided score interval, as shares.

    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
    Statistics in Medicine 17, 891-908, 1998: the ends are where the score statistic of a difference equals the normal
    quantile. It keeps its error rate where accuracies are near 1 and pairs seldom differ, which the usual (Wald)
    interval does not: that has width zero when no pair differs.
    """
    z = _z((1 + confidence) / 2)
    return Interval(pairs.loss, _score_end(pairs, z), _score_end(pairs, -z))


def upper_bound(pairs: Pairs, confidence: float = CONFIDENCE) -> float:
    """The one-sided upper bound of the loss, a share: larger losses would give so few lost samples, or fewer, with a
    probability of at most 1 - confidence. Without discordant pairs it is z^2 / (n + z^2): 0.60 points of 450 samples.
    """
    return _score_end(pairs, -_z(confidence))


def lower_bound(pairs: Pairs, confidence: float = CONFIDENCE) -> float:
    """The one-sided lower bound of the loss, a share."""
    return _score_end(pairs, _z(confidence))


def _score_end(pairs: Pairs, z: float) -> float:
    """The loss at which Tango's statistic equals z."""
    return loss_where(lambda loss: score(pairs, loss), z)


def loss_where(statistic: Callable[[float], float], z: float) -> float:
    """The loss, a share of [-1, 1], where a statistic that falls with it equals z: by bisection."""
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if statistic(middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def score(pairs: Pairs, loss: float) -> float:
    """Tango's statistic of a true loss: about standard normal if it is that.

    The nuisance parameter, the probability of `gained`, is the larger root of its restricted likelihood equation.
    """
    n, b, c = pairs.n, pairs.lost, pairs.gained
    linear = -b - c + (2 * n - b + c) * loss
    constant = -c * loss * (1 - loss)
    q = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    difference = b - c - n * loss
    variance = n * (2 * q + loss * (1 - loss))
    if variance <= 0:
        return 0.0 if difference == 0 else math.copysign(math.inf, difference)
    return difference / math.sqrt(variance)


def required_samples(discordance: float, margin: float, *, confidence: float = CONFIDENCE, power: float = POWER) -> int:
    """Samples with which a candidate that loses nothing is shown to lose less than `margin`.

    n = (z_confidence + z_power)^2 * discordance / margin^2, with the share of discordant pairs and the margin both as
    shares: 6,854 for 0.02 and 0.005. InputError if the margin is not positive.
    """
    if not margin > 0 or not 0 <= discordance <= 1:
        raise InputError("the margin is a positive share and the discordance lies from 0 to 1",
                         why=f"{margin} and {discordance} were given")
    # z to three digits, as the tables and the papers that state such sizes have it.
    factor = (round(_z(confidence), 3) + round(_z(power), 3)) ** 2
    return math.ceil(round(factor * discordance / margin ** 2, 6))


def samples_without_discordance(margin: float, confidence: float = CONFIDENCE) -> int:
    """Samples that bound the loss below `margin` (a share) if no pair differs: z^2 (1 - margin) / margin."""
    z2 = _z(confidence) ** 2
    return math.ceil(z2 * (1 - margin) / margin) if margin > 0 else 0


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """A share and its exact interval (Clopper and Pearson 1934): never covers less than it says."""
    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"{successes} of {trials} is no share")
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _binomial_end(successes - 1, trials, 1 - tail)
    high = 1.0 if successes == trials else _binomial_end(successes, trials, tail)
    return Interval(successes / trials, low, high)


def _binomial_end(k: int, n: int, level: float) -> float:
    """The p for which P(X <= k) = level, X binomial (n, p)."""
    low, high = 0.0, 1.0
    for _ in range(50):
        p = (low + high) / 2
        if np.exp(_log_binomial(n, p)[:k + 1]).sum() > level:
            low = p
        else:
            high = p
    return (low + high) / 2


def _log_binomial(n: int, p: float) -> np.ndarray:
    """Logarithms of the binomial probabilities of 0..n, 0 < p < 1."""
    k = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    return log_factorial[n] - log_factorial[k] - log_factorial[n - k] + k * math.log(p) + (n - k) * math.log1p(-p)


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)
