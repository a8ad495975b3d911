"""A milestone as a compound process: effective optimizations arrive, each brings a gain, and the milestone is reached
when the gains together cover what remains.

*Arrivals* are a Poisson process whose rate is not known: Gamma posterior, so that counts are negative binomial
(Gelman et al., "Bayesian Data Analysis", 3rd ed., 2.6). *Gains* are normal, or log-normal, with unknown mean and
variance: the sum of k further normal gains, after n, is

    k mean + s sqrt(k + k^2 / n) t[n - 1]              (same book, 3.2: predictive, of a sum)

so that P(k gains cover R) = T[n-1]((k mean - R) / (s sqrt(k + k^2 / n))). Sums of log-normal gains have no closed form
and are drawn, seeded. Old evidence may be discounted: the i-th step back counts 2^(-i / half_life), its likelihood
raised to that power (West and Harrison, "Bayesian Forecasting and Dynamic Models", 2nd ed., 6.3). And log-normal
gains may decline, since the easy ones are taken first: the i-th is worth i^-decline of the first (the power law of
learning curves; Wright, "Factors affecting the cost of airplanes", 1936), where the decline has a normal prior and is
learnt with the rest: a Bayesian linear regression of ln gain on ln i (Gelman et al., 14.8).

Where levels are measured, the level that the process starts from is uncertain, and wanders between steps: the least
that a random walk of standard deviation w by a time reaches until then is distributed as |N(0, w^2)| below its start
(reflection principle; Feller, "An Introduction to Probability Theory", vol. 2, 6.2).

The unit of gains and of what remains is the caller's (points, or natural logarithms of a ratio: see `scale`), and so is
that of time (days, or records).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from whet.decide.forecast.beta import student_cdf
from whet.errors import InputError

Kind = Literal["normal", "lognormal"]
DRAWS = 4000
MOST_STEPS = 1000  # that are looked ahead; a forecast that needs more is one of never
MOST_GAIN = 1e100  # beyond which squares are no numbers
JEFFREYS = 0.5  # shape of the rate's prior, exposure 0: Jeffreys's of a Poisson rate (Gelman et al., 2.8)


@dataclass(frozen=True)
class Gains:
    """Posterior of the gain of one effective optimization: normal with unknown mean and variance.

    kind:   `normal`: of the gain; `lognormal`: of its natural logarithm.
    mean, spread: location and scale (of the logarithm, if log-normal) of the next gain, the one after `seen`.
    worth: how many observed gains the mean is worth; degrees: of freedom of the spread. n and n - 1 without discount,
    decline and prior knowledge.
    decline: its posterior mean; slack: its variance and its covariance with the mean, in units of spread^2.
    """

    kind: Kind
    mean: float
    spread: float
    worth: float
    degrees: float
    decline: float = 0.0
    seen: int = 0
    slack: tuple[float, float] = (0.0, 0.0)

    @property
    def typical(self) -> float:
        """The mean gain; of log-normal ones their median, since the mean of a log-t does not exist."""
        return self.mean if self.kind == "normal" else math.exp(self.mean)

    def ages(self, steps: int) -> np.ndarray:
        """ln of how far each of the next gains is along the way, against the next: [steps], 0 first."""
        return np.log((self.seen + np.arange(1, steps + 1)) / (self.seen + 1))

    def within(self, remaining: float, steps: int) -> float:
        """P(`steps` further gains together are at least `remaining`); normal gains alone have this closed form."""
        if remaining <= 0 or steps < 1:
            return float(remaining <= 0)
        assert self.kind == "normal"
        scale = self.spread * math.sqrt(steps + steps * steps / self.worth)
        distance = steps * self.mean - remaining
        if scale == 0:
            return float(distance >= 0)
        return student_cdf(distance / scale, self.degrees)

    def sums(self, steps: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
        """Sums of the first 1..steps further gains, [draws, steps], of as many possible worlds; of one seed, the first
        of them are the same however many steps are asked for."""
        rng = np.random.default_rng(seed)
        sigma = self.spread * np.sqrt(self.degrees / rng.chisquare(self.degrees, draws))
        z = rng.standard_normal((2, draws))
        mu = self.mean + sigma * z[0] / math.sqrt(self.worth)
        x = rng.standard_normal((steps, draws))
        x *= sigma
        x += mu
        if self.kind == "lognormal":
            variance, covariance = self.slack
            rest = max(0.0, variance - covariance ** 2 * self.worth)  # of the decline, given the mean
            x -= np.outer(self.ages(steps), self.decline + sigma * (covariance * math.sqrt(self.worth) * z[0]
                                                                    + math.sqrt(rest) * z[1]))
            np.exp(np.clip(x, -700, 300, out=x), out=x)
        return np.cumsum(x, axis=0, out=x).T


@dataclass(frozen=True)
class Arrivals:
    """Posterior of the rate of effective optimizations: Gamma(shape, exposure), exposure in units of time."""

    shape: float
    exposure: float

    @property
    def rate(self) -> float:
        """The mean rate, per unit of time."""
        return self.shape / self.exposure

    def counts(self, time: float, most: int) -> np.ndarray:
        """P(k arrivals within `time`) for k = 0..most: negative binomial; what lies beyond counts as `most`."""
        if time <= 0:
            return np.concatenate([[1.0], np.zeros(most)])
        whole = math.log(self.exposure + time)
        # P(k) = P(k - 1) (shape + k - 1) / k (1 - p), from P(0) = p^shape with p = exposure / (exposure + time); in
        # logarithms, since P(0) may be tiny.
        k = np.arange(1, most + 1)
        steps = np.log((self.shape + k - 1) / k) + math.log(time) - whole
        found = np.exp(np.concatenate([[0.0], np.cumsum(steps)]) + self.shape * (math.log(self.exposure) - whole))
        found[-1] += max(0.0, 1 - found.sum())
        return found

    def draw(self, times: np.ndarray, draws: int = DRAWS, seed: int = 1) -> np.ndarray:
        """Arrivals by each of `times` (rising), [draws, times]: a rate for each world, then Poisson."""
        rng = np.random.default_rng(seed)
        rates = rng.gamma(self.shape, 1 / self.exposure, draws)
        passed = np.maximum(0.0, np.diff(times, prepend=0.0))
        return np.cumsum(rng.poisson(np.minimum(rates[:, None] * passed, 1e6)), axis=1)


@dataclass(frozen=True)
class Process:
    """Gains, and arrivals where times are known. uncertainty: the standard error of what remains, in its unit; wander:
    the standard deviation of the level's own walk after one unit of time."""

    gains: Gains
    arrivals: Arrivals | None = None
    uncertainty: float = 0.0
    wander: float = 0.0
    draws: int = DRAWS
    seed: int = 0

    def expected(self, remaining: float) -> float:
        """Effective optimizations that remain if each brings the typical gain: what remains divided by it, or where
        gains decline, the place on the line through their sums. Infinite beyond 1,000."""
        if remaining <= 0:
            return 0.0
        shrunk = np.exp(-self.gains.decline * self.gains.ages(MOST_STEPS))
        sums = np.concatenate([[0.0], np.cumsum(self.gains.typical * shrunk)])
        return float(np.interp(remaining, sums, np.arange(len(sums)))) if remaining <= sums[-1] else math.inf

    def within(self, remaining: float, steps: int) -> float:
        """P(at most `steps` further effective optimizations suffice). InputError for a negative number."""
        if steps < 0:
            raise InputError(f"{steps} further optimizations", do="give a number from zero on")
        return float(self.reached(remaining, min(steps, MOST_STEPS))[-1])

    def by(self, remaining: float, time: float) -> float:
        """P(what remains is covered within `time`). InputError if no times are known.

        Sum over k of P(k arrivals) P(k gains cover it): the two are independent in this model.
        """
        if self.arrivals is None:
            raise InputError("when a milestone is reached cannot be said", why="the gains have no dates",
                             do="give a history with dates, or ask by number of optimizations")
        most = self._most(max(0.0, time))
        return float(self.arrivals.counts(time, most) @ self.reached(remaining, most, max(0.0, time)))

    def reached(self, remaining: float, most: int, time: float | None = None) -> np.ndarray:
        """P(covered within k further optimizations) for k = 0..most, never falling with k; within `time` at the same
        time, in which the level wanders."""
        walk = self.wander * math.sqrt(time or 0.0)
        if self.gains.kind == "normal" and walk == self.uncertainty == 0:
            found = np.array([self.gains.within(remaining, k) for k in range(most + 1)])
        else:
            sums = self._sums(most)
            wanted = remaining - self.uncertainty * self._errors[0] - walk * np.abs(self._errors[1])
            # Of draws that all agree, one more might not: half a draw is added on either side (Jeffreys).
            covers = ((sums >= wanted[:, None]).sum(axis=0) + 0.5) / (self.draws + 1)
            found = np.concatenate([[float((wanted <= 0).mean())], covers])
        return np.maximum.accumulate(found)

    def steps_quantile(self, remaining: float, level: float) -> int | None:
        """The least number of further optimizations that suffice with probability `level`; None beyond 1,000."""
        most = 16
        while True:
            found = self.reached(remaining, most)
            if found[-1] >= level:
                return int(np.argmax(found >= level))
            if most == MOST_STEPS:
                return None
            most = min(4 * most, MOST_STEPS)

    def covered(self, times: ArrayLike, levels: Sequence[float]) -> np.ndarray:
        """Quantiles of what will have been covered by each of `times` (rising), [levels, times]."""
        assert self.arrivals is not None
        at = np.asarray(times, dtype=float)
        counts = self.arrivals.draw(at, self.draws, self.seed + 1)
        most = max(1, int(min(counts.max(), MOST_STEPS)))
        sums = np.concatenate([np.zeros((self.draws, 1)), self._sums(most)], axis=1)
        errors = np.hypot(self.uncertainty, self.wander * np.sqrt(at))
        values = np.take_along_axis(sums, np.minimum(counts, most), axis=1) + errors * self._errors[0][:, None]
        return np.quantile(values, levels, axis=0)

    def _most(self, time: float) -> int:
        """Arrivals that are all but certain not to be exceeded."""
        assert self.arrivals is not None
        mean = self.arrivals.rate * time
        deviation = math.sqrt(mean + (time / self.arrivals.exposure) ** 2 * self.arrivals.shape)
        return int(min(MOST_STEPS, math.ceil(mean + 8 * deviation + 10)))

    def _sums(self, steps: int) -> np.ndarray:
        """Sums of gains, drawn once for as many steps as were ever asked for."""
        held: list[np.ndarray] = self._held
        if steps == 0:
            return np.empty((self.draws, 0))
        if not held or held[0].shape[1] < steps:
            size = min(MOST_STEPS, max(16, 1 << (steps - 1).bit_length()))
            held[:] = [self.gains.sums(size, self.draws, self.seed)]
        return held[0][:, :steps]

    @cached_property
    def _held(self) -> list[np.ndarray]:
        return []

    @cached_property
    def _errors(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed + 2)
        return rng.standard_normal((2, self.draws))


@dataclass(frozen=True)
class Prior:
    """What other histories say of gains and arrivals, as if so many had been seen: a normal-inverse-chi-square prior
    (Gelman et al., 3.3) and a Gamma prior. As it stands: nothing is known (the reference and Jeffreys's priors)."""

    mean: float = 0.0
    spread: float = 0.0
    worth: float = 0.0
    degrees: float = -1.0
    shape: float = JEFFREYS
    exposure: float = 0.0


NOTHING = Prior()


def fit_gains(gains: ArrayLike, kind: Kind = "normal", *, half_life: float | None = None,
              decline: tuple[float, float] | None = None, prior: Prior = NOTHING) -> Gains:
    """The posterior of gains that were seen, in order, the newest last.

    half_life: in steps; None: all count alike. decline: of log-normal gains by their number, as a prior mean and its
    precision (in units of 1 / spread^2); None: they do not. InputError for what is not finite, for gains of zero
    or less, and where there are too few to tell how much they vary (two, without a prior).
    """
    x = np.asarray(gains, dtype=float).reshape(-1)
    if not np.isfinite(x).all() or (x > MOST_GAIN).any():
        raise InputError("a gain that is not a finite number, or an absurd one", do="correct the gains")
    if (x <= 0).any():
        raise InputError(f"a gain of {x[x <= 0][0]:g}", why="an effective optimization brings something",
                         do="leave out what brought nothing or did harm")
    w = _weights(len(x), half_life)
    total = float(w.sum())
    worth, degrees = prior.worth + total, prior.degrees + total
    if degrees <= 0 or worth <= 0:
        raise InputError(f"{len(x)} effective optimization{'s' * (len(x) != 1)} so far",
                         why="from fewer than two nobody can tell how much their gains vary",
                         do="wait for the next one, or give earlier gains")
    known = max(prior.degrees, 0.0) * prior.spread ** 2
    if kind == "normal" or decline is None:
        y = x if kind == "normal" else np.log(x)
        mean = (prior.worth * prior.mean + float(w @ y)) / worth
        squares = known + float(w @ (y - mean) ** 2) + prior.worth * (prior.mean - mean) ** 2
        return Gains(kind, mean, math.sqrt(squares / degrees), worth, degrees, 0.0, len(x))
    # ln gain_i = mean - slope age_i + noise, age_i = ln(i / (n + 1)): the normal equations of both, with their priors.
    y, age = np.log(x), np.log(np.arange(1, len(x) + 1) / (len(x) + 1))
    design = np.stack([np.ones(len(x)), -age], axis=1)
    before = np.array([prior.mean, decline[0]])
    firm = np.diag([prior.worth, decline[1]])
    precision = design.T @ (design * w[:, None]) + firm
    found = np.linalg.solve(precision, design.T @ (w * y) + firm @ before)
    squares = known + float(w @ (y - design @ found) ** 2) + float((found - before) @ firm @ (found - before))
    spare = np.linalg.inv(precision)
    return Gains(kind, float(found[0]), math.sqrt(squares / degrees), 1 / float(spare[0, 0]), degrees, float(found[1]),
                 len(x), (float(spare[1, 1]), float(spare[0, 1])))


def fit_arrivals(times: ArrayLike, start: float, end: float, *, half_life: float | None = None,
                 prior: Prior = NOTHING) -> Arrivals:
    """The posterior of the rate of arrivals at `times` (rising), watched from `start` to `end`.

    InputError if they are not in order, lie outside, or if nothing was watched.
    """
    at = np.asarray(times, dtype=float).reshape(-1)
    if not (np.isfinite(at).all() and math.isfinite(start) and math.isfinite(end)):
        raise InputError("a time that is not a finite number", do="correct the dates")
    if (np.diff(at) < 0).any() or (len(at) and (at[0] < start or at[-1] > end)):
        raise InputError("times that go back", do="put the history in order")
    waits = np.diff(at, prepend=start)
    w = _weights(len(at), half_life)
    exposure = prior.exposure + float(w @ waits) + end - (float(at[-1]) if len(at) else start)
    if exposure <= 0:
        raise InputError("a history that takes no time", why="all of its dates are equal",
                         do="give the dates, or ask by number of optimizations")
    return Arrivals(prior.shape + float(w.sum()), exposure)


def _weights(n: int, half_life: float | None) -> np.ndarray:
    if half_life is None:
        return np.ones(n)
    if not half_life > 0:
        raise InputError(f"a half-life of {half_life:g} steps", do="give a positive number")
    return 0.5 ** (np.arange(n - 1, -1, -1) / half_life)
