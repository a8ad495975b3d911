"""Holding forecasts of milestones to account: what was forecast at past dates, and what came of it.

Origins roll through a history. At each, the process is fitted to what was known then and asked for targets so many
percent below the level of then; whether they were reached is read from what followed. Brier's score (Monthly Weather
Review 78, 1950) judges the probabilities, against climatology: the share of such events on the half that parameters
were fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from whet.decide.forecast.milestones import DEFAULT, Milestones, Settings, of_steps
from whet.decide.forecast.process import NOTHING, Prior
from whet.decide.forecast.scale import Scale
from whet.decide.forecast.steps import How, find
from whet.errors import InputError

DROPS = (0.02, 0.05, 0.1, 0.2)  # targets, below the level at the origin
LOG = Scale()
TAKEN = DEFAULT.decline or (0.0, 0.0)
WINDOW = 5  # values of whose median a level is judged


@dataclass(frozen=True)
class Event:
    """A target that was asked for: by `kind` (`time`, or `steps` for a number of records) within `horizon`, the
    probability that was given, and whether it was reached."""

    kind: str
    drop: float
    horizon: float
    probability: float
    reached: bool

    @property
    def cell(self) -> tuple[str, float, float]:
        return self.kind, self.drop, self.horizon


def race(times: Sequence[float], values: Sequence[float], settings: Settings = DEFAULT, *,
         horizons: Sequence[float] = (14.0, 45.0, 120.0), steps: Sequence[int] = (1, 3, 8), every: float = 7.0,
         fewest: int = 3, part: tuple[float, float] = (0.0, 1.0)) -> list[Event]:
    """Events of a list of records, of which each new best is an effective optimization.

    times (days, rising) and values [n], lower is better. By time: an origin every `every` days, horizons in days. By
    number: an origin at each record, `steps` records on. fewest: steps that an origin must know. part: of the origins,
    by their share of all records (the first half is 0 to 0.5).
    """
    events: list[Event] = []
    whole = find(times, values, LOG, "each")
    at, best = np.array(whole.times), np.exp(np.log(whole.base) - np.cumsum(whole.gains))
    low, high = (fraction * len(at) for fraction in part)

    def known(k: int, now: float) -> Milestones:
        """What was known when k steps had come."""
        return of_steps(replace(whole, times=whole.times[:k], gains=whole.gains[:k], end=now, now=float(best[k - 1])),
                        LOG, settings)

    for now in np.arange(times[0] + every, times[-1], every):
        k = int(np.searchsorted(at, now, side="right"))
        if k >= fewest and low <= k < high:
            found = known(k, float(now))
            for drop in DROPS:
                target = found.steps.now * (1 - drop)
                events += [Event("time", drop, h, found.by(target, h), bool((best[at <= now + h] <= target).any()))
                           for h in horizons if now + h <= times[-1]]
    for k in range(max(fewest, int(np.ceil(low))), min(len(at), int(np.ceil(high)))):
        found = known(k, float(at[k - 1]))
        for drop in DROPS:
            target = found.steps.now * (1 - drop)
            events += [Event("steps", drop, n, found.within(target, n), bool(best[k + n - 1] <= target))
                       for n in steps if k + n <= len(at)]
    return events


def series(values: Sequence[float], settings: Settings, *, horizons: Sequence[int] = (5, 20, 50), first: int = 60,
           every: int = 40) -> list[Event]:
    """Events of a series of measurements, lower is better, one unit of time for each.

    values: [n]. An origin every `every` values from `first` on; a target is reached where the median of five values in
    a row is there. `settings` must hold a prior (`prior_of`), since many origins know no step.
    """
    x = np.asarray(values, dtype=float)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(x, WINDOW), axis=1) if len(x) >= WINDOW else x[:0]
    events = []
    for origin in range(first, len(x) - WINDOW + 1, every):
        found = of_steps(find(range(origin), x[:origin].tolist(), LOG), LOG, settings)
        for h in (h for h in horizons if h >= WINDOW and origin + h <= len(x)):
            least = medians[origin:origin + h - WINDOW + 1].min()
            for drop in DROPS[:3]:
                target = found.steps.now * (1 - drop)
                events.append(Event("time", drop, h, found.by(target, h), bool(least <= target)))
    return events


def prior_of(histories: Sequence[Sequence[float]], how: How = "changes", decline: float = TAKEN[0]) -> Prior:
    """What the steps of some histories (those of the fitted half) say of one that nothing is known of: moments of their
    rates and of their gains within and between them (empirical Bayes; Gelman et al., 5.1). InputError for fewer than
    two with steps.
    """
    found = [find(range(len(h)), list(h), LOG, how) for h in histories if len(h) > 1]
    logs = [np.log(s.gains) + decline * np.log(np.arange(1, len(s.gains) + 1) / (len(s.gains) + 1))
            for s in found if s.gains]
    within = sum(len(g) - 1 for g in logs)
    if len(logs) < 2 or within < 2:
        raise InputError(f"{len(logs)} histories with effective optimizations", why="a prior takes several",
                         do="give more")
    spread = np.sqrt(sum(float(((g - g.mean()) ** 2).sum()) for g in logs) / within)
    every = np.concatenate(logs)
    between = max(float(every.var()) - spread ** 2, 0.01 * spread ** 2)
    counts, lengths = np.array([len(s.times) for s in found]), np.array([s.end - s.start for s in found])
    rate = counts.sum() / lengths.sum()
    # Variance of counts beyond Poisson's: that of rates.
    excess = float((((counts - rate * lengths) ** 2) - rate * lengths).sum() / (lengths ** 2).sum())
    exposure = float(rate / max(excess, 1e-3 * rate ** 2))
    return replace(NOTHING, mean=float(every.mean()), spread=float(spread), worth=float(spread ** 2 / between),
                   degrees=5.0, shape=float(rate * exposure), exposure=exposure)


def climatology(events: Sequence[Event]) -> dict[tuple[str, float, float], float]:
    """The share of events that happened, for each kind, drop and horizon."""
    cells: dict[tuple[str, float, float], list[bool]] = {}
    for e in events:
        cells.setdefault(e.cell, []).append(e.reached)
    return {cell: float(np.mean(seen)) for cell, seen in cells.items()}


def brier(events: Sequence[Event]) -> float:
    """Mean squared distance of probabilities from what came."""
    return float(np.mean([(e.probability - e.reached) ** 2 for e in events]))


def skill(events: Sequence[Event], reference: Mapping[tuple[str, float, float], float]) -> float:
    """1 - Brier / Brier of the reference: 0 is no better than it, 1 is certain and right. A cell that the reference
    lacks is left out."""
    kept = [e for e in events if e.cell in reference]
    return 1 - brier(kept) / brier([replace(e, probability=reference[e.cell]) for e in kept])


def reliability(events: Sequence[Event], bins: int = 5) -> list[tuple[float, float, int]]:
    """Of each bin of probabilities: their mean, the share that happened, and how many there are."""
    p, y = np.array([e.probability for e in events]), np.array([e.reached for e in events])
    place = np.minimum((p * bins).astype(int), bins - 1)
    return [(float(p[place == b].mean()), float(y[place == b].mean()), int((place == b).sum())) for b in range(bins)
            if (place == b).any()]
