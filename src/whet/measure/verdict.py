"""Does a faster model lose no more than it may? Held, not held, or too few samples to say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from whet.errors import InputError
from whet.measure import bootstrap, paired
from whet.measure.metrics import by_name
from whet.measure.record import Accuracy, Judged
from whet.measure.scores import Metric, Outcomes, Scores, Unit
from whet.measure.stats import Interval

State = Literal["held", "not held", "undecided"]
EXIT_CODES: dict[State, int] = {"held": 0, "not held": 1, "undecided": 3}
FEWEST = 10  # samples below which a bootstrap bounds nothing
NOT_COMPARABLE = 1e300  # stands for infinity, which JSON does not have
MOST = 10 ** 9  # a sample size beyond which it is no use to name one


@dataclass(frozen=True)
class Verdict:
    """What was found. `reference` and `candidate` are the metric in its own scale with 95 % intervals; `loss`, its
    one-sided bounds `upper` and `lower` at `confidence`, and `max_drop` are in `unit`.

    `needed` is the number of samples that would decide an undecided case, if it is known; `pairs` are the four cells
    of a metric that is right or wrong by sample; `broken` counts the candidate's samples with NaN or infinity.
    """

    state: State
    metric: str
    unit: Unit
    n: int
    max_drop: float
    reference: Interval
    candidate: Interval
    loss: float
    upper: float
    lower: float
    needed: int | None = None
    pairs: paired.Pairs | None = None
    broken: int = 0
    confidence: float = paired.CONFIDENCE

    @property
    def exit_code(self) -> int:
        """0 held, 1 not held, 3 undecided."""
        return EXIT_CODES[self.state]

    def accuracy(self, reference: str) -> Accuracy:
        """The candidate's accuracy as measurement records have it; `reference` names what it was judged against."""
        def finite(x: float) -> float | None:
            return x if math.isfinite(x) else None

        judged = Judged(reference=reference, max_drop=self.max_drop, unit=self.unit, loss=finite(self.loss),
                        upper=finite(self.upper), state=self.state, needed=self.needed)
        return Accuracy(metric=self.metric, value=min(self.candidate.value, NOT_COMPARABLE), samples=self.n,
                        low=finite(self.candidate.low), high=finite(self.candidate.high), judged=judged)

    @property
    def sentence(self) -> str:
        """The verdict with its figures, for people."""
        shown = f" {self.unit}" if self.unit else ""
        against = f"the budget of {self.max_drop:g}{shown}"
        found = f"{self.metric} {self._value(self.reference)} becomes {self._value(self.candidate)}"
        sure = f"{100 * self.confidence:.3g} % confidence"
        lost = f"a loss of {self.loss:.2f}{shown}, at most {self.upper:.2f} with {sure}"
        if self.pairs is not None:
            p = self.pairs
            lost += f" ({p.discordant} answered differently: {p.lost} lost, {p.gained} gained)"
        words = {"held": f"held: at most {self.upper:.2f}{shown} are lost, within {against}",
                 "not held": f"not held: more than {self.lower:.2f}{shown} are lost, over {against}",
                 "undecided": f"undecided: {self._needs()} to say whether {against} is held"}[self.state]
        if not math.isfinite(self.loss):
            lost = "an unbounded loss"
            words = f"not held: the outputs are no numbers, over {against}" if self.state == "not held" else words
        broken = f" {self.broken:,} samples gave NaN or infinity and count as wrong." if self.broken else ""
        one = " One sample says next to nothing." if self.n == 1 else ""
        return f"{words[0].upper()}{words[1:]}. {found} on {self.n:,} samples: {lost}.{broken}{one}"

    def _needs(self) -> str:
        return f"needs about {self.needed:,} samples" if self.needed is not None else \
            "the loss is so near to the budget, or so uncertain, that no number of samples can be named"

    def _value(self, x: Interval) -> str:
        if self.unit == "points":
            return f"{100 * x.value:.2f} % ({100 * x.low:.2f} to {100 * x.high:.2f})"
        return f"{x.value:.4g} ({x.low:.4g} to {x.high:.4g})"


def judge(reference: Scores | ArrayLike, candidate: Scores | ArrayLike, max_drop: float,
          metric: Metric | str = "top1", looks: int = 1) -> Verdict:
    """Whether the candidate loses at most `max_drop` (in the metric's unit: 0.5 is half a point of top-1).

    reference, candidate: scores of both models on the same samples in the same order (`Metric.evaluate`), or vectors of
    truth values of `metric`, one a sample.
    looks: how many candidates were judged on these samples before one was taken; the bounds are widened by it
    (Bonferroni), since the best of many is often the luckiest.

    Held: the one-sided upper 95 % bound of the loss lies below the budget, which a candidate whose true loss is the
    budget or more reaches by luck at most once in twenty times. Not held: the lower bound lies above. Else undecided,
    with the number of samples that would decide it at the discordance and the loss that were seen. Bounds are Tango's
    score bounds for metrics that are right or wrong by sample, and bootstrapped (BCa, seeded) for all others.

    InputError if the samples differ in number, if there are none, or if the budget is not positive.
    """
    if not (math.isfinite(max_drop) and max_drop > 0):
        raise InputError("the budget is a positive number", why=f"{max_drop:g} was given: that nothing at all is lost, "
                         "no number of samples shows", do="give --max-drop 0.5, or less with many samples")
    ours = candidate if isinstance(candidate, Scores) else _outcomes(candidate, metric)
    theirs = reference if isinstance(reference, Scores) else _outcomes(reference, metric)
    if ours.n != theirs.n:
        raise InputError(f"{theirs.n} samples of the reference and {ours.n} of the candidate",
                         do="run both on the same samples")
    if looks < 1:
        raise InputError("candidates are counted from one", why=f"looks={looks} was given")
    confidence = 1 - (1 - paired.CONFIDENCE) / looks
    if ours.outcomes is not None and theirs.outcomes is not None:
        return _judge_pairs(theirs, ours, max_drop, confidence)
    return _judge_aggregate(theirs, ours, max_drop, confidence)


def _outcomes(values: ArrayLike, metric: Metric | str) -> Scores:
    right = np.asarray(values)
    if right.ndim != 1 or len(right) == 0 or right.dtype.kind not in "biu" or not np.isin(right, (0, 1)).all():
        raise InputError("outcomes are truth values, one a sample, one at least",
                         why=f"these are {right.dtype} of shape {right.shape}",
                         do="give scores, or whether each is right")
    found = by_name(metric) if isinstance(metric, str) else metric
    if not isinstance(found, Outcomes):
        raise InputError(f"{found.name} is not right or wrong by sample", do="give its scores")
    return found.scored(right.astype(bool), 0)


def _judge_pairs(reference: Scores, candidate: Scores, max_drop: float, confidence: float) -> Verdict:
    assert reference.outcomes is not None
    assert candidate.outcomes is not None
    pairs = paired.Pairs.of(reference.outcomes, candidate.outcomes)
    upper, lower = (100 * end(pairs, confidence) for end in (paired.upper_bound, paired.lower_bound))
    state = _state(lower, upper, max_drop)
    needed = needed_samples(pairs, max_drop / 100, confidence) if state == "undecided" else None
    return Verdict(state, candidate.metric.name, candidate.metric.unit, pairs.n, max_drop, reference.interval(),
                   candidate.interval(), 100 * pairs.loss, upper, lower, needed, pairs, candidate.broken, confidence)


def needed_samples(pairs: paired.Pairs, margin: float, confidence: float = paired.CONFIDENCE) -> int | None:
    """Samples that decide whether the loss is below `margin` (a share), if the pairs go on to differ as they do here.

    (z_0.95 + z_0.9)^2 (p_d - loss^2) / (margin - loss)^2, with a loss below zero taken for zero (which gives the
    formula of `required_samples`), and never fewer than a sample without any discordant pair needs. None beyond a
    thousand million.
    """
    loss = max(0.0, pairs.loss)
    fewest = paired.samples_without_discordance(margin, confidence)
    gap = abs(margin - loss)
    variance = pairs.discordant / pairs.n - loss * loss
    if gap * gap * MOST < variance or gap == 0:
        return None
    found = paired.required_samples(variance, gap, confidence=confidence)
    return max(found, fewest, pairs.n + 1)


def _judge_aggregate(reference: Scores, candidate: Scores, max_drop: float, confidence: float) -> Verdict:
    metric, n = candidate.metric, candidate.n
    before, after = reference.resampled(), candidate.resampled()
    theirs, ours = reference.interval(before), candidate.interval(after)
    loss = float(metric.loss(theirs.value, ours.value))
    if not math.isfinite(loss):
        lower = upper = math.inf
        return Verdict("not held", metric.name, metric.unit, n, max_drop, theirs, ours, math.inf, upper, lower,
                       None, None, candidate.broken, confidence)
    lower, upper, needed = -math.inf, math.inf, FEWEST
    if n >= FEWEST:
        drawn = metric.loss(before, after)
        left = metric.loss(reference.metric.left_out(reference.parts), metric.left_out(candidate.parts))
        upper = bootstrap.bca(loss, drawn, left, confidence)
        lower = bootstrap.bca(loss, drawn, left, 1 - confidence)
        upper = max(upper, metric.least_upper(reference.parts, candidate.parts, confidence))
        gap = max_drop - max(0.0, loss)
        z = sum(NormalDist().inv_cdf(p) for p in (confidence, paired.POWER))
        size = (z * float(drawn.std()) / gap) ** 2 * n if gap else math.inf
        needed = math.ceil(max(size, n + 1)) if size < MOST else 0
    state = _state(lower, upper, max_drop)
    return Verdict(state, metric.name, metric.unit, n, max_drop, theirs, ours, loss, upper, lower,
                   (needed or None) if state == "undecided" else None, None, candidate.broken, confidence)


def _state(lower: float, upper: float, max_drop: float) -> State:
    return "held" if upper < max_drop else "not held" if lower > max_drop else "undecided"
