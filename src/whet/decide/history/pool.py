"""What other histories say of how far the future lies from a level: pooled h-step errors.

A series' own past holds too few steps to tell how likely the next one is, so the errors of forecasts are pooled over
series: each is divided by the width of its own series, and kept by *kind* (how much history there was, and how long
the level had stood) and horizon as a table of quantiles. Quantiles of errors that forecasts made of the same kind and
horizon are calibrated for what resembles the pool, whatever the errors' distribution (split conformal prediction; Vovk,
Gammerman and Shafer, "Algorithmic Learning in a Random World", 4.2).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from statistics import NormalDist

import msgspec
import numpy as np

from whet.decide.history.changes import cut, location, noise, starts
from whet.decide.history.drift import local_level
from whet.decide.history.predictive import Z
from whet.errors import InputError

EXPONENTS = (1.0, 0.75, 0.5)  # of a series' width in that of its errors
HORIZONS = (1, 2, 5, 10, 20, 50, 100)
KNOTS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5,
         0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999)
KNOTS_Z = np.array([NormalDist().inv_cdf(p) for p in KNOTS])
KINDS = ("1 value", "2 values", "3 to 5 values", "6 to 11 values", "12 to 40 values without a change",
         "changed, 3 to 5 values ago", "changed, 6 to 15 values ago", "changed, 16 to 40 values ago",
         "over 40 values at one level")
LEAST = (1, 2, 3, 6, 12, 3, 6, 16, 41)  # values at the level, of each kind
DRIFT = 0.25  # what a level is taken to move by from one value to the next, in standard deviations of the noise
STANDS = 5  # values in a row whose median is a level that is reached
RECENT = 200  # values that the noise is taken from
PRIOR_WORTH = 2.0  # values that the pool's noise counts for beside a series' own
BASE_WORTH = 3.0  # series that the base counts for beside those in the pool
PLACES = 3000  # that a pool is made of, if it is not said otherwise: of whole histories and as many cut-off ones
SHORT = (1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 30, 40)  # values of the cut-off histories that a pool is also made of


MIRROR = {"value": "value", "lowest": "highest", "highest": "lowest"}


@dataclass(frozen=True)
class State:
    """Where a series stands. y: level, on the scale; width: what its values vary by; unit: the pool's noise, on this
    series' scale; spread: standard deviation of one value around the level, with the pool's noise weighed in; error: of
    the level; kind: index of KINDS; count: values since the last change."""

    y: float
    width: float
    unit: float
    spread: float
    error: float
    kind: int
    count: int

    def errors(self, exponent: float) -> float:
        """What errors are measured in. Noise grows with the width, which is exponent 1; steps of the level do not."""
        return self.width**exponent * (self.unit or self.width) ** (1 - exponent)


class Pool(msgspec.Struct, frozen=True):
    """Tables of quantiles at KNOTS, [kind][horizon][knot], of errors in `State.errors(exponents[horizon])`.

    value: the value h on. lowest, highest: the lowest and highest median of STANDS values in a row among the next h
    (for h under STANDS: the same as at STANDS). noise: the median noise of the pool's series, relative to the level.
    series: how many they are. origin: where they come from.
    """

    noise: float
    exponents: list[float]
    value: list[list[list[float]]]
    lowest: list[list[list[float]]]
    highest: list[list[list[float]]]
    series: int
    origin: str

    def quantiles(self, which: str, state: State, h: int) -> np.ndarray:
        """The errors' quantiles at the probabilities of `predictive.P`, on the series' scale.

        Between horizons they are interpolated in log h; beyond the last they grow as a random walk's do, with sqrt h.
        """
        widths = np.array([state.errors(e) for e in self.exponents])
        table = np.asarray(getattr(self, which)[state.kind]) * widths[:, None]
        if h > HORIZONS[-1]:
            row = table[-1] * math.sqrt(h / HORIZONS[-1])
        else:
            at = np.log(HORIZONS)
            right = int(np.clip(np.searchsorted(at, math.log(h)), 1, len(at) - 1))
            share = (math.log(h) - at[right - 1]) / (at[right] - at[right - 1])
            row = (1 - share) * table[right - 1] + share * table[right]
        found = np.interp(Z, KNOTS_Z, row)
        for outside, i, j in ((KNOTS_Z[0] > Z, 0, 1), (KNOTS_Z[-1] < Z, -1, -2)):
            found[outside] = row[i] + (Z[outside] - KNOTS_Z[i]) * (row[i] - row[j]) / (KNOTS_Z[i] - KNOTS_Z[j])
        return found


def state(y: np.ndarray, begin: int, pool_noise: float, log: bool) -> State:
    """Where a series stands whose last segment begins at `begin`.

    y: [n] values on the scale. pool_noise: relative. InputError where neither the values nor their size say how far the
    next may lie: all of them are zero, on a linear scale.
    """
    recent = y[-RECENT:]
    own = noise(recent)
    segment = y[begin:]
    _, _, around = location(segment)
    count, steps = len(segment), len(recent) - 1
    prior = pool_noise * (1.0 if log else float(np.median(np.abs(y))))
    around2 = (count * around**2 + 5 * own**2) / (count + 5)
    if prior == 0 and own == 0:
        raise InputError("a history that does not say how far the next value may lie from it",
                         why=f"{len(y)} of {len(y)} values are 0, or most of them, on a scale without a unit",
                         do="measure more often, or measure something that varies")
    variance = (steps * own**2 + PRIOR_WORTH * prior**2) / (steps + PRIOR_WORTH)
    spread2 = (steps * around2 + PRIOR_WORTH * prior**2) / (steps + PRIOR_WORTH)
    level, error = local_level(cut(segment, own) if own > 0 else segment)
    return State(level, math.sqrt(variance + spread2), prior, math.sqrt(spread2), math.sqrt(spread2 * error),
                 _kind(len(y), count), count)


def _kind(n: int, count: int) -> int:
    if n < 12:
        return int(np.searchsorted([1, 2, 5], n))
    if count > 40:
        return 8
    return 4 if count == n else 5 + int(np.searchsorted([5, 15], count))


def calibrate(histories: Iterable[np.ndarray], *, log: bool = True, symmetric: bool = False, origin: str = "",
              origins: int | None = None, seed: int = 0, progress: Callable[[], None] = lambda: None) -> Pool:
    """A pool of histories, each [n] on its scale, oldest first.

    Of each, `origins` places (None: PLACES in all) are forecast from with all that came before, and as many with a
    short history, and what came is compared. A cell's quantiles are those of its errors, averaged with those of `base`
    as if these came from BASE_WORTH series, so that a cell of a few series is no more certain than they are.
    symmetric: every error counts with both signs, for metrics of which it is not known which way they err (times have
    slow outliers, rates low ones).
    InputError where not even two histories have two values.
    """
    usable = [y for y in histories if len(y) > 1]
    if len(usable) < 2:
        raise InputError(f"{len(usable)} histories of two values or more", do="give more of them")
    noises = [noise(y) / (1.0 if log else float(np.median(np.abs(y))) or 1.0) for y in usable]
    typical = float(np.median([x for x in noises if x > 0] or [0.01]))
    seen: dict[tuple[str, int, int], list[tuple[int, float, State]]] = {}
    rng = np.random.default_rng(seed)
    for number, y in enumerate(usable):
        for begin, stop in _windows(len(y), origins or max(12, PLACES // len(usable)), rng):
            known = y[begin:stop]
            try:
                at = state(known, starts(known)[-1], typical, log)
            except InputError:  # a stretch of zeros
                continue
            for which, i, error in _errors(y[stop:], at):
                seen.setdefault((which, at.kind, i), []).append((number, error, at))
                if symmetric:
                    seen.setdefault((MIRROR[which], at.kind, i), []).append((number, -error, at))
        progress()
    exponents = []
    for i in range(len(HORIZONS)):
        cells = [errors for (which, _, at_horizon), errors in seen.items() if which == "value" and at_horizon == i]
        exponents.append(min(EXPONENTS, key=functools.partial(_loss, cells)))
    start = base(typical, origin)
    tables = {which: [[_blended(seen.get((which, kind, i), ()), exponents[i], row) for i, row in enumerate(rows)]
                      for kind, rows in enumerate(getattr(start, which))] for which in MIRROR}
    return msgspec.structs.replace(start, exponents=exponents, series=len(usable), **tables)


def _loss(cells: Sequence[Sequence[tuple[int, float, State]]], exponent: float) -> float:
    """The sum of quantile scores, which CRPS is the integral of, of errors against the quantiles of their own cell."""
    total = 0.0
    for cell in cells:
        widths = np.array([at.errors(exponent) for _, _, at in cell])
        errors = np.array([error for _, error, _ in cell])
        d = errors - widths * np.quantile(errors / widths, KNOTS)[:, None]
        p = np.asarray(KNOTS)[:, None]
        weights = np.gradient(np.asarray(KNOTS))[:, None]
        total += float((weights * np.where(d >= 0, p * d, (p - 1) * d)).sum())
    return total


def base(typical: float, origin: str = "") -> Pool:
    """What a pool of nothing says: Student's t with 3 degrees of freedom, as wide as a drifting level's errors are.

    The variance of a value h on around a level of n values, in that of the noise, is 1 + 1/n + h DRIFT^2.
    """
    tables = []
    for center in (False, True):
        kinds = []
        for least in LEAST:
            kinds.append([[_t3(p) * math.sqrt((0.3 if center else 1.0) + 1 / least + h * DRIFT**2) / math.sqrt(2)
                           for p in KNOTS] for h in HORIZONS])
        tables.append(kinds)
    value, extreme = tables
    return Pool(typical, [1.0] * len(HORIZONS), value, extreme, extreme, 0, origin)


def _t3(p: float) -> float:
    """Quantile of Student's t with 3 degrees of freedom, by bisection of its closed form (Abramowitz and Stegun,
    26.7.3)."""
    low, high = -100.0, 100.0
    for _ in range(80):
        t = (low + high) / 2
        angle = math.atan2(t, math.sqrt(3))
        below = 0.5 + (angle + math.sin(angle) * math.cos(angle)) / math.pi < p
        low, high = (t, high) if below else (low, t)
    return t


def _windows(n: int, origins: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Histories [begin, stop) that leave something to forecast: whole ones, and short ones from any place."""
    whole = rng.choice(np.arange(1, n), min(origins, n - 1), replace=False)
    out = [(0, int(stop)) for stop in np.sort(whole)]
    for k in range(min(origins, 2 * n)):
        size = SHORT[k % len(SHORT)]
        if size < n:
            begin = int(rng.integers(0, n - size))
            out.append((begin, begin + size))
    return out


def _errors(after: np.ndarray, at: State) -> Iterable[tuple[str, int, float]]:
    """(table, index of the horizon, error on the scale) of what came."""
    medians = (np.median(np.lib.stride_tricks.sliding_window_view(after[:HORIZONS[-1]], STANDS), axis=1)
               if len(after) >= STANDS else after[:0])
    for i, h in enumerate(HORIZONS):
        if len(after) < h:
            return
        yield "value", i, after[h - 1] - at.y
        if len(after) >= STANDS:
            reach = medians[:max(h, STANDS) - STANDS + 1]
            yield "lowest", i, reach.min() - at.y
            yield "highest", i, reach.max() - at.y


def _blended(seen: Sequence[tuple[int, float, State]], exponent: float, start: Sequence[float]) -> list[float]:
    """Quantiles of errors (series, error, state), averaged with a start's."""
    if not seen:
        return list(start)
    worth = len({number for number, _, _ in seen})
    own = np.quantile([error / at.errors(exponent) for _, error, at in seen], KNOTS)
    mixed = (worth * own + BASE_WORTH * np.asarray(start)) / (worth + BASE_WORTH)
    return [float(f"{v:.4g}") for v in mixed]


@functools.cache
def shipped() -> Pool:
    """The pool that whet brings along (docs/back-tests.md says of what)."""
    data = resources.files("whet.decide.history").joinpath("pool.json").read_bytes()
    return msgspec.json.decode(data, type=Pool)


__all__ = ["DRIFT", "HORIZONS", "KINDS", "STANDS", "Pool", "State", "base", "calibrate", "shipped", "state"]
