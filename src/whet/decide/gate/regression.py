"""Whether a metric got worse against its own history: suspected by one run, and believed when reruns say the same.

The history is cut into segments at its change points (`decide.history`), and the level that the last of them stands at
is what a new run is held against. A first run that lies beyond the threshold is a suspicion and no more: of many runs
the worst is often bad luck. Reruns are pooled with it by their median, which one disturbed run does not move, and only
a pooled effect that exceeds the threshold *and* is far outside of what the noise of this history explains is a
regression. Without reruns a new level that several runs in a row have kept is one, since these are reruns too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Literal

import numpy as np

from whet.decide.history import segments
from whet.decide.history.changes import location
from whet.decide.student import student, student_cdf
from whet.errors import InputError

State = Literal["held", "regressed", "suspected", "undecided"]

FEWEST = 5  # values of a history that can say anything
ENOUGH = 3  # runs of a new level before it is believed
RECENT = 5  # values of a level for the worse that nobody has answered for; one that lasted longer is usual now
WINDOW = 200  # values of the history that are looked at
SUSPICION = 0.05  # how unlikely one run must be to be worth reruns
POWER = 0.95  # of the least effect that is stated as detectable
PRIOR_SPREAD, PRIOR = 0.02, 2  # relative spread of a series of which nothing is known, worth so many values
FEW = 10  # values of which a robust spread may miss what matters
DRIFT = 0.25  # what a level moves by from run to run, in standard deviations of a run


@dataclass(frozen=True)
class Rules:
    """What is asked of a regression.

    min_effect: what is worth failing for, relative (0.05: 5 %).
    alpha:      the p-value, by the model of `check`, that it must fall below.
    reruns:     how many are made of what is suspected; 0 where none can be made.
    """

    min_effect: float = 0.05
    alpha: float = 1e-3
    reruns: int = 3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min_effect) and 0 < self.min_effect < 10):
            raise InputError(f"a least effect of {self.min_effect:g}", do="give percent above 0, as 5")
        if not 0 < self.alpha < 0.5:
            raise InputError(f"a level of {self.alpha:g}", do="give one between 0 and 0.5, as 0.001")


@dataclass(frozen=True)
class _Level:
    """A level of logarithms: of `count` values, each with a standard deviation of `spread` around it, or of `own` by
    these values alone."""

    y: float
    spread: float
    count: int
    own: float = 0.0

    @property
    def degrees(self) -> int:
        return self.count - 1 + PRIOR

    def width(self, m: int) -> float:
        """The standard deviation of the median of m values around the estimated level."""
        return self.spread * math.sqrt(_variance(m) + 1 / self.count + DRIFT**2)


@dataclass(frozen=True)
class Check:
    """What was found. Effects are relative and positive where the metric went up; levels in the metric's unit.

    state:      `suspected` is a first run that reruns have yet to confirm; `undecided` is a history that is too short,
                or too noisy for what was seen.
    value:      median of the runs.
    effect, low, high: against the level before, with its 95 % interval; None where there is no level.
    spread:     of one run around the level, relative, as these values have it.
    detectable: the least relative change for the worse that this noise lets be found in one run and its reruns, with
                a probability of 95 %.
    since:      index in the history of the first value of a new level that the runs belong to; None: there is none.
    """

    state: State
    value: float
    runs: int
    count: int
    level: float | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    spread: float | None = None
    detectable: float | None = None
    since: int | None = None


def check(history: Sequence[float], measured: Sequence[float], *, higher_is_worse: bool, rules: Rules | None = None,
          rejected: Sequence[bool] = ()) -> Check:
    """Hold new runs against a history.

    history:  values, oldest first, in any unit, one of each earlier run.
    measured: the new run, then its reruns.
    rejected: of each value of the history, whether a gate found it to be a regression. A level that began so is not
              taken for the usual one, however long it lasts.

    With d the difference of the runs' median and the level (of logarithms), s the spread of one run around it and n the
    values of its segment, t = d / (s sqrt(v(m) + 1/n + DRIFT^2)) is taken for Student's with n - 1 + PRIOR degrees of
    freedom: the variance of a future value around an estimated level (Hahn and Meeker, "Statistical Intervals", 4.7),
    with v(m), the variance of the median of m, in the place of 1 (pi / 2m from three on: Kendall and Stuart, 14.12),
    and with what levels drift by in a run. Noise is often not normal: a machine may be slow one time in ten, and then
    for several runs in a row. So the p-value is never less than that of so many runs beyond the threshold (beyond half
    of what was seen, if that is more) in a Markov chain that goes there, and stays, as often as this level did.

    InputError for what is no positive number in a run, or no run.
    """
    rules = rules or Rules()
    if not len(measured):
        raise InputError("no run to check", do="measure first")
    x = np.asarray([*history, *measured], dtype=np.float64)
    if not np.isfinite(x).all() or (x <= 0).any():
        raise InputError("a value that is no positive number", why="changes are relative to a level",
                         do="leave out what could not be measured")
    left_out = max(0, len(history) - WINDOW)
    past, runs = x[left_out:len(history)], x[len(history):]
    turned_down = np.zeros(len(past), bool) if not len(rejected) else np.asarray(rejected, bool)[left_out:]
    value = float(np.median(runs))
    if len(past) < FEWEST:
        return Check("undecided", value, len(runs), len(past))
    sign, threshold = 1.0 if higher_is_worse else -1.0, _threshold(rules, higher_is_worse)
    start, stop, since = _base(past, turned_down, rules, higher_is_worse)
    level = _level(np.log(past[start:stop]))
    pooled = runs
    if not rules.reruns:  # earlier runs at a new level stand for reruns; beside reruns they are no better evidence
        whole = x[left_out:]
        newest = segments(whole, scale="log")[-1].start
        if since is None and start < newest < len(past):
            older = _level(np.log(past[start:newest]))
            if _test(np.log(whole[newest:]), older, sign)[0] > threshold:
                since, level = newest, older
        pooled = whole[since:] if since is not None else runs
    d, width, p = _test(np.log(pooled), level, sign)
    own, _, p_own = _test(np.log(runs), level, sign)
    state: State = "held"
    if own > threshold and p_own < SUSPICION:
        state = "suspected" if len(runs) == 1 else "undecided"
        far = max(threshold, d / 2)
        p = max(p, _as_before(*(sign * (np.log(of) - level.y) > far for of in (past[start:], runs))))
        beyond = int((sign * (np.log(pooled) - level.y) > threshold).sum())
        if d > threshold and p < rules.alpha and beyond >= ENOUGH:
            state = "regressed"
    reach = width * _quantile(0.975, level.degrees)
    d *= sign
    return Check(state, value, len(runs), level.count, math.exp(level.y), math.expm1(d), math.expm1(d - reach),
                 math.expm1(d + reach), p, level.own,
                 detectable(level.spread, level.count, rules, higher_is_worse=higher_is_worse),
                 since + left_out if since is not None else None)


def detectable(spread: float, count: int, rules: Rules | None = None, *, higher_is_worse: bool = True) -> float:
    """The least relative change for the worse that one run arouses suspicion of, and its reruns confirm, with a
    probability of 95 %, at a relative spread of single runs, around a level of `count` values.

    Both tests of `check` must be passed: the greater of threshold and critical value, and z(0.95) widths on top.
    """
    rules = rules or Rules()
    z, level = NormalDist().inv_cdf(POWER), _Level(0.0, spread, count)
    needed = 0.0
    for m, alpha in ((1, SUSPICION), (1 + rules.reruns, rules.alpha)):
        critical = level.width(m) * _quantile(1 - alpha, level.degrees)
        needed = max(needed, max(_threshold(rules, higher_is_worse), critical) + z * level.width(m))
    return abs(math.expm1(needed if higher_is_worse else -needed))


def _base(values: np.ndarray, rejected: np.ndarray, rules: Rules,
          higher_is_worse: bool) -> tuple[int, int, int | None]:
    """The segment to hold a run against, from and to, and where the levels after it begin, if any.

    What is usual is the last segment, unless it is a change for the worse that a gate has turned down, or one so new
    that none has answered for it.
    """
    found = segments(values, scale="log")
    sign = 1 if higher_is_worse else -1
    at = len(found) - 1
    while at > 0:
        s = found[at]
        new = at == len(found) - 1 and s.count <= RECENT
        worse = sign * math.log(s.level / found[at - 1].level) > _threshold(rules, higher_is_worse)
        if not worse or not (new or 2 * int(rejected[s.start:s.stop].sum()) > s.count):
            break
        at -= 1
    return found[at].start, found[at].stop, found[at + 1].start if at + 1 < len(found) else None


def _level(y: np.ndarray) -> _Level:
    """The robust level of a segment. Of few values the spread leans on what series usually have, and is no less than
    their plain standard deviation: two of five that lie far off are no outliers. Of n > FEW it counts for a share of
    sqrt(FEW / n)."""
    middle, _, own = location(y)
    own = max(own, float(y.std(ddof=1)) * math.sqrt(min(1.0, FEW / len(y)))) if len(y) > 1 else own
    weight = PRIOR / (PRIOR + len(y))
    return _Level(middle, math.sqrt((1 - weight) * own**2 + weight * PRIOR_SPREAD**2), len(y), own)


def _test(y: np.ndarray, level: _Level, sign: float) -> tuple[float, float, float]:
    """How much worse runs are than a level, the standard deviation of that, and its one-sided p-value."""
    d, width = sign * (float(np.median(y)) - level.y), level.width(len(y))
    return d, width, max(0.0, 1 - student_cdf(d / width, level.degrees))


def _as_before(past: np.ndarray, runs: np.ndarray) -> float:
    """The probability that so many of the runs lie beyond a threshold, if that happens as it did in the past: one after
    the other with the shares q of values beyond it and r of those that follow such a one, (m over x) q r^(x - 1).

    past, runs: truth values, in order. What lies beyond it right before the runs is evidence as they are, and not of
    what was before. q by Laplace's rule of succession, r drawn towards q by one value.
    """
    held = np.flatnonzero(~past)
    before = int(held[-1]) + 1 if len(held) else 0
    past, runs = past[:before], np.concatenate([past[before:], runs])
    q = (int(past.sum()) + 1) / (len(past) + 2)
    r = (int((past[1:] & past[:-1]).sum()) + q) / (int(past[:-1].sum()) + 1)
    m, x = len(runs), int(runs.sum())
    return min(1.0, math.comb(m, x) * q * r ** (x - 1)) if x else 1.0


@cache
def _quantile(level: float, degrees: int) -> float:
    return student(level, degrees)


def _variance(m: int) -> float:
    """Of the median of m values of variance 1."""
    return 1 / m if m < 3 else math.pi / (2 * m)


def _threshold(rules: Rules, higher_is_worse: bool) -> float:
    """The least effect as a difference of logarithms: 5 % slower is 1.05 times the time, or 0.95 times the rate."""
    return math.log1p(rules.min_effect) if higher_is_worse else -math.log1p(-min(rules.min_effect, 0.999))
