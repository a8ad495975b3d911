"""A measurement, and its reruns, held against objectives and against the history of the same setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec
import numpy as np

from whet.decide.gate.objectives import Objectives, judge, pooled
from whet.decide.gate.regression import FEWEST, WINDOW, Check, Rules, check
from whet.decide.gate.result import Case, Gate, Note, Point, Step, Trend, Verdict, worst
from whet.decide.history import segments
from whet.measure.record import Measurement, now
from whet.measure.series import setting, values, when

METRICS = ("latency.p50", "latency.p99", "throughput", "memory.peak", "plan.bytes", "accuracy.*")
NOISY = 0.2  # a least detectable regression beyond which it is said that the history finds little
DROP = 1.0  # points of accuracy that are worth failing for, where no objective says so
_RISING = ("throughput", "accuracy.", "limit.fraction")  # metrics of which more is better


@dataclass(frozen=True)
class Past:
    """What a metric of one setting was: dates, values, and whether a gate had turned the run down; oldest first."""

    at: Sequence[datetime]
    values: Sequence[float]
    rejected: Sequence[bool]


def higher_is_worse(metric: str) -> bool:
    """True of times, sizes and errors."""
    return not metric.startswith(_RISING)


def metrics_of(record: Measurement, wanted: Sequence[str] = METRICS) -> dict[str, str]:
    """The metrics of a record that are followed, with their units; a name that ends in `*` stands for all that begin
    so."""
    return {v.metric: v.unit for v in values(record)
            if any(v.metric == w or (w.endswith("*") and v.metric.startswith(w[:-1])) for w in wanted)}


def case(runs: Sequence[Measurement], objectives: Objectives, past: Mapping[str, Past] | None, rules: Rules,
         before: Measurement | None = None, notes: Sequence[Note] = ()) -> Case:
    """The verdict on one setting: `runs` are a measurement and its reruns.

    past:   of each metric (`metrics_of`); None where no history was asked for.
    before: an earlier measurement that changes are stated against, where there is no history.
    """
    first = runs[0]
    judged = judge(objectives, runs, before)
    trends = [trend(metric, unit, past[metric], runs, _rules(metric, rules, objectives, len(past), first))
              for metric, unit in metrics_of(first, tuple(past)).items()] if past is not None else []
    level = {t.metric: t.level for t in trends}
    p50, p99 = pooled(runs, 0.5), pooled(runs, 0.99)
    of = setting(first)
    rates = [r.throughput for r in runs if r.throughput is not None]
    change, against = None, ""
    for name, found in (("latency.p99", p99), ("latency.p50", p50)):
        base = level.get(name) or (getattr(before.latency, name[-3:]).value if before and before.latency else None)
        if found is not None and base:
            change, against = found.value / base - 1, "history" if level.get(name) else "before"
            break
    states: list[Verdict] = [*(o.state for o in judged), *(t.verdict for t in trends)]
    for r in runs:
        if r.error is not None and r.error.limit is not None and r.error.value > r.error.limit:
            states.append("not held")
            notes = (*notes, Note(code="wrong", values={"error": r.error.value, "limit": r.error.limit,
                                                        "reference": r.error.reference}))
            break
    return Case(
        model=of.model, sha256=of.sha256, backend=of.backend, precision=of.precision, threads=of.threads,
        shapes=of.shapes, device=of.device, device_name=first.device.name, load=of.load,
        date=when(first).isoformat(), runs=len(runs), state=worst(states), p50=p50.value if p50 else None,
        p99=p99.value if p99 else None, throughput=float(np.median(rates)) if rates else None, change=change,
        against=against, objectives=tuple(judged), trends=tuple(trends),  # type: ignore[arg-type]
        notes=tuple(notes))


def gate(cases: Sequence[Case], rules: Rules, notes: Sequence[Note] = (), accepted: str = "") -> Gate:
    """The whole: as its worst part."""
    return Gate(date=now(), state=worst([c.state for c in cases]), min_effect=rules.min_effect, alpha=rules.alpha,
                reruns=rules.reruns, cases=tuple(cases), notes=tuple(notes), accepted=accepted)


def suspicious(found: Case) -> bool:
    """True where reruns may change the verdict: a suspected regression, or figures that vary and are not within their
    objective."""
    return any(t.state == "suspected" for t in found.trends) or any(
        o.state in ("not held", "undecided") and o.goal in ("p99", "throughput", "memory") for o in found.objectives)


def trend(metric: str, unit: str, past: Past, runs: Sequence[Measurement], rules: Rules) -> Trend:
    """A metric of the runs against its history. What the history holds after the runs' date is left aside, and said."""
    date = when(runs[0])
    kept = [(a, v, r) for a, v, r in zip(past.at, past.values, past.rejected) if a <= date]
    later = len(past.at) - len(kept)
    measured = [v.value for r in runs for v in values(r) if v.metric == metric]
    notes = [Note(code="clock", values={"later": later, "last": max(past.at).isoformat()})] if later else []
    rising = not higher_is_worse(metric)
    points = tuple(Point(at=a.isoformat(), value=v, rejected=r) for a, v, r in kept[-WINDOW:])
    base = Trend(metric=metric, unit=unit, higher_is_worse=not rising, state="undecided", values=tuple(measured),
                 count=len(kept), points=points, notes=tuple(notes))
    numbers, rejected = [v for _, v, _ in kept], [r for _, _, r in kept]
    if not np.isfinite([*numbers, *measured]).all() or min([*numbers, *measured]) <= 0:
        return _noted(base, "not-positive")
    found = check(numbers, measured, higher_is_worse=not rising, rules=rules, rejected=rejected)
    if found.level is None:
        return _noted(base, "few-history", count=len(kept), needed=FEWEST)
    steps = tuple(Step(start=s.start, count=s.count, level=s.level, spread=s.spread)
                  for s in segments([p.value for p in points], scale="log"))
    made = _of_check(base, found, steps, kept[found.since][0].isoformat() if found.since is not None else "")
    alone = found if len(measured) == 1 else check(numbers, measured[:1], higher_is_worse=not rising, rules=rules,
                                                   rejected=rejected)
    return _remarks(made, found, alone.state == "suspected", later)


def _of_check(base: Trend, c: Check, steps: tuple[Step, ...], since: str) -> Trend:
    return Trend(metric=base.metric, unit=base.unit, higher_is_worse=base.higher_is_worse, state=c.state,
                 values=base.values, count=c.count, level=c.level, effect=c.effect, low=c.low, high=c.high, p=c.p,
                 spread=c.spread, detectable=c.detectable, since=since, points=base.points, steps=steps,
                 notes=base.notes)


def _remarks(t: Trend, c: Check, stood_out: bool, later: int) -> Trend:
    """What is to be known of a check; `stood_out`: its first run did, alone."""
    if c.state == "suspected":
        t = _noted(t, "unconfirmed")
    elif c.state == "undecided":
        t = _noted(t, "noise")
    elif c.state == "held" and c.runs > 1 and stood_out:
        t = _noted(t, "not-confirmed", reruns=c.runs - 1)
    if c.detectable is not None and c.detectable > NOISY:
        t = _noted(t, "noisy", detectable=c.detectable)
    if c.since is not None and c.state == "regressed":
        t = _noted(t, "since", date=t.since)
    if later and t.state == "held":  # what came after the runs may say otherwise
        t = msgspec.structs.replace(t, state="undecided")
    return t


def _noted(t: Trend, code: str, **figures: str | int | float) -> Trend:
    return msgspec.structs.replace(t, notes=(*t.notes, Note(code=code, values=figures)))


def _rules(metric: str, rules: Rules, objectives: Objectives, metrics: int, record: Measurement) -> Rules:
    """The rules for one of several metrics: the level is divided among them (Bonferroni), and of accuracy points
    count."""
    shared = replace(rules, alpha=rules.alpha / max(1, metrics))
    if metric.startswith("accuracy.") and record.accuracy is not None and record.accuracy.value > 0:
        points = objectives.max_drop if objectives.max_drop is not None else DROP
        return replace(shared, min_effect=min(0.9, points / 100 / record.accuracy.value))
    return shared
