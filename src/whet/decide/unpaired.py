"""Shares of two independent groups: the loss from one to the other, its score interval, and tests of a margin.

Group a is the reference, b the candidate; the loss is p_a - p_b, positive where b is worse, as in `measure.paired`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from whet.errors import InputError
from whet.measure.paired import loss_where
from whet.measure.stats import Interval, wilson


@dataclass(frozen=True)
class Groups:
    """Right answers and samples of both groups."""

    right_a: int
    n_a: int
    right_b: int
    n_b: int

    def __post_init__(self) -> None:
        if not (0 <= self.right_a <= self.n_a and 0 <= self.right_b <= self.n_b and self.n_a and self.n_b):
            raise InputError("groups are counts of right answers among samples, one at least in each",
                             why=f"{self.right_a} of {self.n_a} and {self.right_b} of {self.n_b} were given")

    @property
    def share_a(self) -> float:
        return self.right_a / self.n_a

    @property
    def share_b(self) -> float:
        return self.right_b / self.n_b

    @property
    def loss(self) -> float:
        """p_a - p_b."""
        return self.share_a - self.share_b


def restricted(share_a: float, share_b: float, ratio: float, loss: float) -> tuple[float, float]:
    """The likeliest (p_a, p_b) among those with p_a - p_b = `loss`; `ratio` is n_b / n_a.

    The root in closed form of the cubic of Farrington and Manning, "Test statistics and sample size formulae for
    comparative binomial trials...", Statistics in Medicine 9, 1447-1454, 1990, appendix I (the same as Miettinen and
    Nurminen's, 1985).
    """
    a = 1 + ratio
    b = -(1 + ratio + share_a + ratio * share_b + loss * (ratio + 2))
    c = loss * loss + loss * (2 * share_a + ratio + 1) + share_a + ratio * share_b
    d = -share_a * loss * (1 + loss)
    v = b ** 3 / (27 * a ** 3) - b * c / (6 * a * a) + d / (2 * a)
    u = math.copysign(math.sqrt(max(0.0, b * b / (9 * a * a) - c / (3 * a))), v)
    w = (math.pi + math.acos(max(-1.0, min(1.0, v / u ** 3 if u else 0.0)))) / 3
    p = 2 * u * math.cos(w) - b / (3 * a)
    p = max(0.0, loss, min(1.0, 1 + loss, p))
    return p, max(0.0, min(1.0, p - loss))


def score(groups: Groups, loss: float, *, inflate: bool = True) -> float:
    """The score statistic of a true loss, about standard normal if it is that.

    (observed - loss) / sqrt(variance of the restricted estimate), Miettinen and Nurminen, "Comparative analysis of two
    rates", Statistics in Medicine 4, 213-226, 1985, equation 8, whose variance has the factor N / (N - 1); without
    `inflate` it is Farrington and Manning's (1990, equation 2).
    """
    p_a, p_b = restricted(groups.share_a, groups.share_b, groups.n_b / groups.n_a, loss)
    variance = p_a * (1 - p_a) / groups.n_a + p_b * (1 - p_b) / groups.n_b
    total = groups.n_a + groups.n_b
    if inflate:
        variance *= total / (total - 1)
    difference = groups.loss - loss
    if variance <= 0:
        return 0.0 if abs(difference) < 1e-12 else math.copysign(math.inf, difference)
    return difference / math.sqrt(variance)


def miettinen_nurminen(groups: Groups, confidence: float = 0.95) -> Interval:
    """The loss and its two-sided score interval (Miettinen and Nurminen 1985)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return Interval(groups.loss, _end(groups, z), _end(groups, -z))


def upper_bound(groups: Groups, confidence: float) -> float:
    """The one-sided upper bound of the loss: where the score statistic falls to minus the normal quantile."""
    return _end(groups, -NormalDist().inv_cdf(confidence))


def lower_bound(groups: Groups, confidence: float) -> float:
    """The one-sided lower bound of the loss."""
    return _end(groups, NormalDist().inv_cdf(confidence))


def _end(groups: Groups, z: float) -> float:
    return loss_where(lambda loss: score(groups, loss), z)


def farrington_manning(groups: Groups, margin: float) -> tuple[float, float]:
    """Statistic and one-sided p-value of "b loses `margin` or more"; small p-values speak for less."""
    z = score(groups, margin, inflate=False)
    return z, NormalDist().cdf(z)


def newcombe(groups: Groups, confidence: float = 0.95) -> Interval:
    """The loss and its interval from both groups' Wilson intervals: Newcombe, "Interval estimation for the difference
    between independent proportions", Statistics in Medicine 17, 873-890, 1998, method 10."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    a, b = wilson(groups.right_a, groups.n_a, z), wilson(groups.right_b, groups.n_b, z)
    return Interval(groups.loss, groups.loss - math.hypot(a.value - a.low, b.high - b.value),
                    groups.loss + math.hypot(a.high - a.value, b.value - b.low))


def sample_ratio(n_a: int, n_b: int, expected: float = 1.0) -> float:
    """The p-value of "a and b were filled as 1 : `expected`" (Pearson's chi-square, one degree of freedom).

    Below 0.001 the assignment itself is broken, and no result of the trial can be trusted: Fabijan et al., "Diagnosing
    sample ratio mismatch in online controlled experiments", KDD 2019.
    """
    if not (expected > 0 and math.isfinite(expected)):
        raise InputError("the expected ratio of the groups is a positive number", why=f"{expected:g} was given")
    total = n_a + n_b
    mean_a = total / (1 + expected)
    chi = (n_a - mean_a) ** 2 / mean_a + (n_b - (total - mean_a)) ** 2 / (total - mean_a)
    return math.erfc(math.sqrt(chi / 2))
