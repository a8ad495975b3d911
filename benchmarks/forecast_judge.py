"""Levels and milestones of benchmark series: forecast from past places, and judged by what came."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from forecast_data import History, split
from forecast_peers import PEERS, Peer

from whet.decide.forecast import backtest, milestones
from whet.decide.history import Level, fit
from whet.decide.history import pool as pools
from whet.decide.history.changes import noise
from whet.decide.history.pool import Pool
from whet.decide.history.predictive import P
from whet.decide.history.scores import brier, crps_normal, crps_quantiles
from whet.errors import InputError
from whet.measure.bootstrap import weights

HORIZONS = (1, 5, 20)
OURS, SHIPPED, POOLED_LEVEL = "segments + pooled errors", "the same, errors as shipped", "local level + pooled errors"
BASE = "local level"
DROPS, WITHIN = (0.02, 0.05, 0.1), (5, 20, 50)
KNOWN = (1, 2, 5, 10, 20)  # values of cut-off histories
FIRST = 20  # values before the first origin; of short series half of them
STANDS = pools.STANDS
INNER = (float(np.interp(0.025, P, P)), 0.975)
Tick = Callable[[str], None]


@dataclass(frozen=True)
class Scored:
    """Of one series and origin: a method's score at a horizon; `inside` its 95 % interval or not."""

    series: int
    known: int
    method: str
    h: int
    crps: float
    inside: bool


@dataclass(frozen=True)
class Asked:
    """Of one series and origin: whether a level so far below was reached within h, and what methods gave for it."""

    series: int
    drop: float
    h: int
    reached: bool
    given: dict[str, float]


def places(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Origins in a series of n values: indices of the last value that is known, at random, in order."""
    low, high = min(FIRST, n // 2) - 1, n - 2
    if high < low:
        return np.array([], dtype=int)
    return np.sort(rng.choice(np.arange(max(0, low), high + 1), min(count, high - max(0, low) + 1), replace=False))


def judge(series: Sequence[History], seed: int, *, origins: int = 20, pooled: int | None = None,
          milestones_too: bool = False, tick: Tick = lambda _: None) -> dict[str, Any]:
    """Fit on one half of the series, judge on the other. pooled: origins in all that errors are pooled from."""
    fitted, judged = split(series, seed)
    found = pools.calibrate([series[i].y for i in fitted], progress=lambda: tick("pooling errors"),
                            origins=pooled and max(8, pooled // len(fitted)))
    shipped = pools.shipped()
    errors = _peer_errors([series[i].y for i in fitted], origins)
    scored: list[Scored] = []
    asked: list[Asked] = []
    rates = _rates([series[i].y for i in fitted], found, origins, tick) if milestones_too else {}
    settings = _settings([series[i].y for i in fitted]) if milestones_too else None
    for i in judged:
        rng = np.random.default_rng((seed, i))
        y = series[i].y
        at = places(len(y), origins, rng)
        peers = {name: make(y) for name, make in PEERS.items()}
        scored += _peers(i, y, at, peers, errors)
        for k, t in enumerate(at):
            level = fit(np.exp(y[:t + 1]), pool=found)
            scored += _ours(i, y, int(t), {OURS: level, SHIPPED: replace(level, pool=shipped)})
            if settings and k % 4 == 0:
                asked += _events(i, y, int(t), level, peers, settings, rates, rng)
        tick("judging")
    out = {"seed": seed, "origins": origins, "fitted_on": [series[i].name for i in fitted],
           "judged_on": [series[i].name for i in judged], "noise": found.noise, "methods": table(scored)}
    if milestones_too:
        out |= {"milestones": milestone_table(asked), "by_known": _by_known(scored),
                "by_length": _thirds(scored, {i: len(series[i].y) for i in judged}, "values"),
                "by_noise": _thirds(scored, {i: noise(series[i].y) for i in judged}, "noise"),
                "cut_off": _cut_off(series, judged, found, seed)}
    return out


def _peer_errors(ys: Sequence[np.ndarray], origins: int) -> dict[int, np.ndarray]:
    """Quantiles, at P, of the local level's errors over its standard deviations, by horizon."""
    seen: dict[int, list[float]] = {h: [0.0] for h in HORIZONS}
    rng = np.random.default_rng(0)
    for y in ys:
        peer, at = PEERS[BASE](y), places(len(y), origins, rng)
        for h in HORIZONS:
            t = at[at + h < len(y)]
            mean, deviation = peer.at(t, h)
            seen[h] += list((y[t + h] - mean) / deviation)
    return {h: np.quantile(v, P) for h, v in seen.items()}


def _peers(i: int, y: np.ndarray, at: np.ndarray, peers: dict[str, Peer], errors: dict[int, np.ndarray]
           ) -> Iterable[Scored]:
    for h in HORIZONS:
        t = at[at + h < len(y)]
        for name, peer in peers.items():
            mean, deviation = peer.at(t, h)
            scores, inside = crps_normal(y[t + h], mean, deviation), np.abs(y[t + h] - mean) <= 1.959964 * deviation
            yield from (Scored(i, int(k) + 1, name, h, float(c), bool(b)) for k, c, b in zip(t, scores, inside))
            if name == BASE:
                q = mean[:, None] + deviation[:, None] * errors[h]
                yield from (_scored(i, int(k) + 1, POOLED_LEVEL, h, row, y[k + h]) for k, row in zip(t, q))


def _ours(i: int, y: np.ndarray, t: int, by: dict[str, Level]) -> Iterable[Scored]:
    for name, level in by.items():
        for h in HORIZONS:
            if t + h < len(y):
                yield _scored(i, t + 1, name, h, level.predict(h).y, y[t + h])


def _scored(i: int, known: int, method: str, h: int, q: np.ndarray, y: float) -> Scored:
    low, high = np.interp(INNER, P, q)
    return Scored(i, known, method, h, float(crps_quantiles(y, P, q)), bool(low <= y <= high))


def table(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """A row for each method and horizon, with 95 % bootstrap intervals over series."""
    rows = []
    for h in HORIZONS:
        base = [s for s in scored if s.h == h and s.method == BASE]
        for method in dict.fromkeys(s.method for s in scored):
            own = [s for s in scored if s.h == h and s.method == method]
            if own:
                n, theirs, ours, inside = (_sums([(s.series, v) for s, v in pairs]) for pairs in (
                    [(s, 1.0) for s in own], [(s, s.crps) for s in base], [(s, s.crps) for s in own],
                    [(s, float(s.inside)) for s in own]))
                gain, share = _interval(ours, theirs), _interval(inside, n)
                rows.append({"method": method, "h": h, "forecasts": len(own), "series": len(n),
                             "crps": float(ours.sum() / n.sum()),
                             "gain": 1 - gain[0], "gain_low": 1 - gain[2], "gain_high": 1 - gain[1],
                             "coverage": share[0], "coverage_low": share[1], "coverage_high": share[2]})
    return rows


def _sums(pairs: Sequence[tuple[int, float]]) -> np.ndarray:
    held: dict[int, float] = {}
    for i, v in pairs:
        held[i] = held.get(i, 0.0) + v
    return np.array([held[i] for i in sorted(held)])


def _interval(above: np.ndarray, below: np.ndarray) -> tuple[float, float, float]:
    """sum(above) / sum(below), with a 95 % percentile interval: series are drawn again, whole."""
    drawn = np.concatenate([(w @ above) / (w @ below) for w in weights(len(above), 1000)])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(above.sum() / below.sum()), float(low), float(high)


def _by_known(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    edges = (0, 50, 150, 400, 10**9)
    return [row | {"known": f"{low} to {high - 1}" if high < 10**9 else f"{low} and more"}
            for low, high in pairwise(edges)
            for row in _short([s for s in scored if low <= s.known < high])]


def _thirds(scored: Sequence[Scored], by: dict[int, float], name: str) -> list[dict[str, Any]]:
    edges = np.quantile(list(by.values()), [0, 1 / 3, 2 / 3, 1])
    out = []
    for k in range(3):
        part = [s for s in scored if edges[k] <= by[s.series] and (by[s.series] < edges[k + 1] or k == 2)]
        out += [row | {name: f"{edges[k]:.3g} to {edges[k + 1]:.3g}"} for row in _short(part)]
    return out


def _short(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Ours beside the local level, by horizon."""
    return [{k: r[k] for k in ("h", "forecasts", "crps", "gain", "coverage")} for r in table(scored)
            if r["method"] == OURS] if scored else []


def _cut_off(series: Sequence[History], judged: Sequence[int], pool: Pool, seed: int) -> list[dict[str, Any]]:
    """Forecasts from histories of one value and more, cut off from longer ones."""
    out = []
    for known in KNOWN:
        scored = []
        for i in judged:
            y, rng = series[i].y, np.random.default_rng((seed, i, known))
            for t in rng.integers(known - 1, len(y) - 1, 6) if len(y) > known else ():
                after = y[t + 1 - known:]
                scored += list(_ours(i, after, known - 1, {OURS: fit(np.exp(after[:known]), pool=pool)}))
        for h in HORIZONS:
            own = [s for s in scored if s.h == h]
            if own:
                out.append({"known": known, "h": h, "forecasts": len(own),
                            "crps": float(np.mean([s.crps for s in own])),
                            "coverage": float(np.mean([s.inside for s in own]))})
    return out


def _reached(y: np.ndarray, t: int, target: float, h: int) -> bool:
    medians = np.median(np.lib.stride_tricks.sliding_window_view(y[t + 1:t + 1 + h], STANDS), axis=1)
    return bool(medians.min() <= target)


def _targets(y: np.ndarray, t: int, level: float) -> Iterable[tuple[float, int, float]]:
    for drop in DROPS:
        for h in WITHIN:
            if t + h < len(y):
                yield drop, h, level + float(np.log1p(-drop))


def _rates(ys: Sequence[np.ndarray], pool: Pool, origins: int, tick: Tick) -> dict[tuple[float, int], float]:
    """Climatology: the share of milestones that were reached, of each drop and horizon, on the fitted half."""
    seen: dict[tuple[float, int], list[bool]] = {}
    rng = np.random.default_rng(1)
    for y in ys:
        for t in places(len(y), origins, rng)[::4]:
            for drop, h, target in _targets(y, int(t), fit(np.exp(y[:t + 1]), pool=pool).y):
                seen.setdefault((drop, h), []).append(_reached(y, int(t), target, h))
        tick("counting milestones")
    return {cell: float(np.mean(v)) for cell, v in seen.items()}


def _settings(ys: Sequence[np.ndarray]) -> milestones.Settings | None:
    try:
        return milestones.Settings(prior=backtest.prior_of([np.exp(y) for y in ys]), draws=1000)
    except InputError:  # no half of the series has steps
        return None


def _events(i: int, y: np.ndarray, t: int, level: Level, peers: dict[str, Peer], settings: milestones.Settings,
            rates: dict[tuple[float, int], float], rng: np.random.Generator) -> Iterable[Asked]:
    process = milestones.fit(range(t + 1), np.exp(y[:t + 1]).tolist(), settings=settings)
    lowest = {name: peer.lowest(t, WITHIN, STANDS, rng) for name, peer in peers.items()}
    for drop, h, target in _targets(y, t, level.y):
        if (drop, h) in rates:
            given = {"base rate": rates[drop, h], OURS: level.reached(float(np.exp(target)), h),
                     "compound process": process.by(float(np.exp(target)), h)}
            given |= {name: float((least[h] <= target).mean()) for name, least in lowest.items()}
            yield Asked(i, drop, h, _reached(y, t, target, h), given)


def milestone_table(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Brier's score of each method, and its skill against the base rate, of all milestones and by horizon and drop."""
    rows = []
    cells: list[tuple[str, Callable[[Asked], bool]]] = [("all", lambda a: True)]
    cells += [(f"within {h}", lambda a, h=h: a.h == h) for h in WITHIN]
    cells += [(f"{d:.0%} lower", lambda a, d=d: a.drop == d) for d in DROPS]
    for name, holds in cells:
        part = [a for a in asked if holds(a)]
        if not part or not any(a.reached for a in part):
            continue
        rated = _sums([(a.series, (a.given["base rate"] - a.reached) ** 2) for a in part])
        for method in part[0].given:
            own = _sums([(a.series, (a.given[method] - a.reached) ** 2) for a in part])
            found, low, high = _interval(own, rated)
            rows.append({"events": name, "asked": len(part), "reached": sum(a.reached for a in part), "method": method,
                         "brier": brier([a.given[method] for a in part], [a.reached for a in part]),
                         "skill": 1 - found, "skill_low": 1 - high, "skill_high": 1 - low})
    return rows
