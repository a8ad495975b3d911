"""Milestones of a race of records: the compound process, held against what followed.

The origins of each track are halved: the first half fits the process' settings and gives the base rates, the second
judges. Every new best is an effective optimization; a milestone is a level so many percent below the best of then,
reached within so many days, or so many records.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from forecast_data import Track

from whet.decide.forecast import milestones
from whet.decide.forecast.scale import Scale
from whet.decide.forecast.steps import Steps, find
from whet.decide.history.scores import crps_normal, crps_sample
from whet.errors import InputError

DROPS, DAYS, RECORDS = (0.02, 0.05, 0.1, 0.2), (14.0, 45.0, 120.0), (1, 3, 8)
FEWEST = 3  # new bests that an origin knows
EVERY = 7.0  # days between origins
GRID = tuple(itertools.product((4.0, 8.0, None), (5.0, None), (None, milestones.DEFAULT.decline)))
# half-life, pace, decline of gains: see `Settings`
PROCESS, SHIPPED = "compound process", "the same, settings as shipped"
BINS = 5
P_FAN = np.linspace(0.01, 0.99, 99)
LOG = Scale()


@dataclass(frozen=True)
class Origin:
    """What was known, and what came: gains and days of the bests that followed, days that followed in all."""

    track: str
    kind: str  # `days` or `records`
    known: Steps
    gains: np.ndarray
    days: np.ndarray
    left: float
    share: float  # of the track's new bests that were known


@dataclass(frozen=True)
class Answer:
    """To one question at one origin, of each method: the probability of the milestone, or the CRPS of the level."""

    kind: str
    ahead: float
    drop: float | None
    truth: float
    given: dict[str, float]


def origins(track: Track) -> list[Origin]:
    """By days: every week. By records: at each new best."""
    try:
        whole = find(track.days, track.values, LOG, "each")
    except InputError:
        return []
    at, gains = np.array(whole.times), np.array(whole.gains)
    out = []

    def add(kind: str, now: float, k: int) -> None:
        known = replace(whole, times=whole.times[:k], gains=whole.gains[:k], end=now,
                        now=whole.base * math.exp(-float(gains[:k].sum())))
        out.append(Origin(track.name, kind, known, gains[k:], at[k:] - now, track.days[-1] - now, k / len(at)))

    for now in np.arange(track.days[0] + EVERY, track.days[-1], EVERY):
        k = int(np.searchsorted(at, now, side="right"))
        if k >= FEWEST:
            add("days", float(now), k)
    for k in range(FEWEST, len(at)):
        add("records", float(at[k - 1]), k)
    return out


def answers(origin: Origin, settings: milestones.Settings, peers: bool = True) -> Iterable[Answer]:
    """Of one origin. InputError (from the process) where nothing can be said passes on: the caller counts it."""
    found = milestones.of_steps(origin.known, LOG, settings)
    best, ends = origin.known.now, DAYS if origin.kind == "days" else RECORDS
    total = np.concatenate([[0.0], np.cumsum(origin.gains)])
    others = {name: make(origin) for name, make in PEERS.items()} if peers else {}
    # Sums of few log-t gains have no mean, so levels are scored by their 1 % to 99 % quantiles.
    fan = found.process.covered(list(DAYS), P_FAN.tolist()) if origin.kind == "days" else None
    sums = found.process.gains.sums(max(RECORDS), settings.draws, settings.seed) if fan is None else None
    for j, ahead in enumerate(ends):
        if ahead > (origin.left if origin.kind == "days" else len(origin.gains)):
            continue
        came = total[int((origin.days <= ahead).sum())] if origin.kind == "days" else total[int(ahead)]
        normal = {name: peer(ahead) for name, peer in others.items()}
        for drop in DROPS:
            target, wanted = best * (1 - drop), -math.log1p(-drop)
            ours = found.by(target, ahead) if origin.kind == "days" else found.within(target, int(ahead))
            yield Answer(origin.kind, ahead, drop, float(came >= wanted - 1e-12), {PROCESS: ours} | {
                name: 1 - NormalDist(mean, sd).cdf(wanted) for name, (mean, sd) in normal.items()})
        drawn = fan[:, j] if fan is not None else np.quantile(sums[:, int(ahead) - 1], P_FAN)
        yield Answer(origin.kind, ahead, None, float(came), {PROCESS: crps_sample(float(came), drawn)} | {
            name: float(crps_normal(came, mean, sd)) for name, (mean, sd) in normal.items()})


def _rates(origin: Origin, newest: int | None) -> tuple[float, float]:
    """(mean, variance) of what is gained in a day, or with a record, of all gains or the newest."""
    gains = np.array(origin.known.gains)[-newest:] if newest else np.array(origin.known.gains)
    every = np.array(origin.known.gains)
    if origin.kind == "records":
        return float(gains.mean()), float(every.var())
    times = np.concatenate([[origin.known.start], origin.known.times])
    span = max(1.0, origin.known.end - float(times[-newest - 1] if newest else times[0]))
    whole = max(1.0, origin.known.end - origin.known.start)
    return float(gains.sum()) / span, float((every**2).sum()) / whole


def _normal(origin: Origin, newest: int | None) -> Callable[[float], tuple[float, float]]:
    mean, variance = _rates(origin, newest)
    return lambda ahead: (mean * ahead, max(1e-4, math.sqrt(variance * ahead)))


# The variance of a compound Poisson sum is rate times the mean square of gains, for both.
PEERS: dict[str, Callable[[Origin], Callable[[float], tuple[float, float]]]] = {
    "slope of three": lambda origin: _normal(origin, 3), "slope of all": lambda origin: _normal(origin, None)}


def judge(tracks: Sequence[Track], tick: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Settings of the least Brier score on the first halves, judged on the second ones."""
    every = [o for track in tracks for o in origins(track)]
    first, second = [o for o in every if o.share <= 0.5], [o for o in every if o.share > 0.5]
    if not first or not second:
        return {"tracks": [_told(t) for t in tracks], "rows": [],
                "why": f"{len(first)} origins to fit on and {len(second)} to judge on: each track must have "
                       f"{2 * FEWEST} new bests or more"}
    scores = {}
    for choice in GRID:
        scores[choice] = _brier([a for o in first[::2] for a in _safely(o, _settings(choice, 500), False) if a.drop],
                                PROCESS)
        tick("fitting the race")
    half_life, pace, decline = chosen = min(scores, key=lambda k: scores[k])
    fitted = _settings(chosen, 1000)
    earlier, seen = [a for o in first for a in _safely(o, fitted)], [a for o in second for a in _safely(o, fitted)]
    shipped = replace(milestones.DEFAULT, draws=1000)
    for a, b in zip(seen, [a for o in second for a in _safely(o, shipped, False)], strict=True):
        a.given[SHIPPED] = b.given[PROCESS]
    rows = []
    for kind in ("days", "records"):
        own = [a for a in seen if a.kind == kind]
        rates = _base_rates([a for a in earlier if a.kind == kind and a.drop])
        hindsight = _base_rates([a for a in own if a.drop])
        asked = [a for a in own if a.drop and (a.ahead, a.drop) in rates]
        levels = [a for a in own if a.drop is None]
        if not asked or not levels:
            continue
        reference = _reference(asked, rates)
        afterwards = _reference(asked, hindsight)
        for method in (PROCESS, SHIPPED, *PEERS):
            score = _brier(asked, method)
            rows.append({"by": kind, "method": method, "asked": len(asked), "reached": int(sum(a.truth for a in asked)),
                         "brier": score, "base_rate_brier": reference, "skill": 1 - score / reference,
                         "skill_against_hindsight": 1 - score / afterwards if afterwards else None,
                         "crps": {f"{h:g}": float(np.mean([a.given[method] for a in levels if a.ahead == h]))
                                  for h in sorted({a.ahead for a in levels})}})
        tick("judging the race")
    return {"tracks": [_told(t) for t in tracks],
            "settings": {"half_life": half_life, "pace": pace, "decline": decline},
            "origins_fitted": len(first), "origins_judged": len(second), "rows": rows,
            "calibration": [row for m in (PROCESS, SHIPPED) for row in _calibration([a for a in seen if a.drop], m)]}


def _settings(choice: tuple[Any, ...], draws: int) -> milestones.Settings:
    half_life, pace, decline = choice
    return milestones.Settings(half_life=half_life, pace=pace, decline=decline, draws=draws)


def _told(track: Track) -> dict[str, Any]:
    best = np.minimum.accumulate(track.values)
    return {"track": track.name, "rows": len(track.values), "new_bests": int((np.diff(best) < 0).sum()),
            "days": track.days[-1], "first": track.values[0], "best": float(best[-1])}


def _safely(origin: Origin, settings: milestones.Settings, peers: bool = True) -> list[Answer]:
    try:
        return list(answers(origin, settings, peers))
    except InputError:  # too little is known at this origin: no forecast is made
        return []


def _brier(asked: Sequence[Answer], method: str) -> float:
    return float(np.mean([(a.given[method] - a.truth) ** 2 for a in asked])) if asked else math.inf


def _calibration(asked: Sequence[Answer], method: str) -> list[dict[str, Any]]:
    """What came true of what was given, by bins of the probability."""
    given = np.array([a.given[method] for a in asked])
    truth, place = np.array([a.truth for a in asked]), np.minimum((given * BINS).astype(int), BINS - 1)
    return [{"method": method, "given": float(given[place == b].mean()), "came": float(truth[place == b].mean()),
             "asked": int((place == b).sum())} for b in range(BINS) if (place == b).any()]


def _base_rates(asked: Sequence[Answer]) -> dict[tuple[float, float], float]:
    seen: dict[tuple[float, float], list[float]] = {}
    for a in asked:
        if a.drop:
            seen.setdefault((a.ahead, a.drop), []).append(a.truth)
    return {cell: float(np.mean(v)) for cell, v in seen.items()}


def _reference(asked: Sequence[Answer], rates: dict[tuple[float, float], float]) -> float:
    return float(np.mean([(rates[a.ahead, a.drop or 0.0] - a.truth) ** 2 for a in asked]))
