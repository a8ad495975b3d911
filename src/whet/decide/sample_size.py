"""How many samples decide a trial: sizes, the power of a size, and the least margin that a size can show.

Everywhere `margin` is the loss that must be shown not to be reached, `loss` the one that is expected (0: none), both
positive where the candidate is worse; tests are one-sided at `confidence`, and `power` is the probability to show it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from whet.decide.unpaired import restricted
from whet.errors import InputError
from whet.measure.paired import CONFIDENCE, POWER, samples_without_discordance

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Plan:
    """The standard deviations of one sample's loss if the margin is true (`null`) and if `loss` is (`other`), so that
    n samples give an error of deviation / sqrt(n); and the fewest that will do whatever the spread.

    extra:  samples that are added for Student's t.
    unseen: z^2, where n samples without any loss still leave a margin of z^2 / (n + z^2).
    """

    null: float
    other: float
    fewest: int = 2
    extra: float = 0.0
    unseen: float = 0.0

    def samples(self, margin: float, loss: float = 0.0, confidence: float = CONFIDENCE, power: float = POWER) -> int:
        """((z_confidence null + z_power other) / (margin - loss))^2, and `fewest` at least."""
        check(margin, loss, confidence, power)
        # z to three digits, as `measure.paired.required_samples` and the papers that state such sizes have it.
        reach = round(_NORMAL.inv_cdf(confidence), 3) * self.null + round(_NORMAL.inv_cdf(power), 3) * self.other
        return max(self.fewest, math.ceil(round((reach / (margin - loss)) ** 2 + self.extra, 6)))

    def power(self, n: float, margin: float, loss: float = 0.0, confidence: float = CONFIDENCE) -> float:
        """The probability that n samples show it."""
        check(margin, loss, confidence, 0.5)
        if n < self.fewest or n <= self.extra:
            return 0.0
        n -= self.extra
        if self.other == 0:
            return 1.0
        return _NORMAL.cdf((math.sqrt(n) * (margin - loss) - _NORMAL.inv_cdf(confidence) * self.null) / self.other)

    def margin(self, n: float, loss: float = 0.0, confidence: float = CONFIDENCE, power: float = POWER) -> float:
        """The least margin that n samples show with that power."""
        reach = _NORMAL.inv_cdf(confidence) * self.null + _NORMAL.inv_cdf(power) * self.other
        return max(loss + reach / math.sqrt(max(n - self.extra, 1e-9)), self.unseen / (n + self.unseen))


def pairs(discordance: float, loss: float, margin: float, confidence: float = CONFIDENCE) -> Plan:
    """Pairs that are right or wrong: the variance of a sample's loss is p_d - loss^2, of which `discordance` is p_d.

    n = (z + z)^2 (p_d - loss^2) / (margin - loss)^2, as `measure.paired.required_samples`: 6,854 for 0.02, 0 and 0.005;
    and as many as bound the loss where no pair differs.
    """
    _discordance(discordance, loss)
    deviation = math.sqrt(discordance - loss * loss)
    z = _NORMAL.inv_cdf(confidence)
    return Plan(deviation, deviation, samples_without_discordance(margin, confidence), unseen=z * z)


def groups(share: float, margin: float, loss: float = 0.0, ratio: float = 1.0) -> Plan:
    """Independent groups, n samples of a and `ratio` n of b, of which a gets `share` right.

    Farrington and Manning (1990), equation 4 with the restricted likeliest shares as null variance (their method 3).
    """
    _ratio(ratio)
    if not (0 < share < 1 and 0 <= share - loss <= 1):
        raise InputError("shares lie between 0 and 1", why=f"{share:g} and {share - loss:g} were given",
                         do="give the reference's share of right answers, 0.76 say")
    p_a, p_b = restricted(share, share - loss, ratio, margin)
    other = share - loss

    def deviation(a: float, b: float) -> float:
        return math.sqrt(a * (1 - a) + b * (1 - b) / ratio)

    return Plan(deviation(p_a, p_b), deviation(share, other))


def means(deviation: float, ratio: float = 1.0, *, paired: bool = False, confidence: float = CONFIDENCE) -> Plan:
    """Means of values with this standard deviation (of the differences, if paired).

    (z + z)^2 sigma^2 (1 + 1 / ratio) / margin^2, plus z^2 / 4 (z^2 / 2 if paired) for Student's t: Guenther, "Sample
    size formulas for normal theory t tests", The American Statistician 35, 1981.
    """
    _ratio(ratio)
    if not (deviation > 0 and math.isfinite(deviation)):
        raise InputError("a standard deviation is positive", why=f"{deviation:g} was given")
    z = _NORMAL.inv_cdf(confidence)
    d = deviation if paired else deviation * math.sqrt(1 + 1 / ratio)
    return Plan(d, d, 2, z * z / (2 if paired else 4))


def quantiles(pilot: np.ndarray, q: float, confidence: float = CONFIDENCE, *, relative: bool = True) -> Plan:
    """A quantile of groups that spread as `pilot` does (its values, or their logarithms for relative margins).

    The standard deviation of a sample quantile is sqrt(q (1 - q)) / (density sqrt(n)); the density is taken from the
    pilot's order statistics at n q +- 2 sqrt(n q (1 - q)), as its intervals are. Whatever the spread, both ends of the
    quantile must be bounded: log(1 - confidence) / log(max(q, 1 - q)) samples at least.
    """
    x = np.sort(np.log(pilot) if relative else pilot)
    n = len(x)
    half = 2 * math.sqrt(n * q * (1 - q))
    low, high = math.floor(n * q - half), math.ceil(n * q + half)
    if low < 0 or high > n - 1:
        raise InputError(f"the pilot of {n} samples says too little of the spread of its {100 * q:g} % quantile",
                         do=f"give {math.ceil(4 / min(q, 1 - q)) + 2} samples or more, or choose a quantile nearer to "
                            "the median")
    deviation = math.sqrt(n) * float(x[high] - x[low]) / 4
    fewest = math.ceil(math.log(1 - confidence) / math.log(max(q, 1 - q)))
    return Plan(deviation * math.sqrt(2), deviation * math.sqrt(2), fewest)


def least(enough: Callable[[float], bool], start: float, most: float = 1e9) -> int | None:
    """The least size of which `enough` holds, within a thousandth; None beyond `most`."""
    high = start
    while not enough(high):
        high *= 2
        if high > most:
            return None
    low = start if high == start else high / 2
    while high - low > max(1.0, high / 1000):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return math.ceil(high)


def check(margin: float, loss: float, confidence: float, power: float) -> None:
    """InputError for what no trial can be planned with."""
    if not (math.isfinite(margin) and margin > 0):
        raise InputError("the margin is a positive number", why=f"{margin:g} was given: that nothing at all is "
                         "lost, no number of samples shows", do="give --margin 0.5, or less with many samples")
    if not loss < margin:
        raise InputError("the expected loss reaches the margin", why=f"{loss:g} is not below {margin:g}: no number of "
                         "samples shows what is not so", do="allow more, or improve the candidate")
    if not 0.5 < confidence < 1 or not 0 < power < 1:
        raise InputError("confidence lies between 0.5 and 1, power between 0 and 1",
                         why=f"{confidence:g} and {power:g} were given", do="give 0.95 and 0.9")


def _ratio(ratio: float) -> None:
    if not (ratio > 0 and math.isfinite(ratio)):
        raise InputError("the ratio of the groups is a positive number", why=f"{ratio:g} was given")


def _discordance(discordance: float, loss: float) -> None:
    if not abs(loss) <= discordance <= 1:
        raise InputError("the share of pairs that differ lies between the loss and 1",
                         why=f"{discordance:g} was given, with a loss of {loss:g}",
                         do="take it from an earlier trial, or 0.02 for a careful quantization")
