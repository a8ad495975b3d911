"""Objectives: what they are, and whether runs of one setting keep them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from whet.decide.gate.result import Goal, Note, Objective, Verdict
from whet.decide.unpaired import Groups, lower_bound, upper_bound
from whet.errors import InputError
from whet.measure.record import Accuracy, Measurement, Quantile
from whet.measure.stats import quantile

CONFIDENCE = 0.95
_TIMES = {"": 1e-3, "ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0}  # a bare number is of milliseconds
_SIZES = {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2.0**10, "MIB": 2.0**20,
          "GIB": 2.0**30, "TIB": 2.0**40}
_RATES = {"": 1.0, "/s": 1.0, "qps": 1.0}
_PLAIN = {"": 1.0}
_AMOUNT = re.compile(r"\s*([0-9][0-9_,]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)\s*([^\s0-9]*)\s*")


@dataclass(frozen=True)
class Objectives:
    """What is asked for: seconds, samples per second, bytes, points of accuracy, bytes. None: nothing."""

    p99: float | None = None
    throughput: float | None = None
    memory: float | None = None
    max_drop: float | None = None
    plan_size: float | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) is not None for f in fields(self))


def of_texts(given: Mapping[str, Any], where: str = "", lines: Mapping[str, int] | None = None) -> Objectives:
    """Objectives as people write them: `{"p99": "50ms", "throughput": 1500, "memory": "1GiB", "max_drop": 0.5,
    "plan_size": "120MB"}`. A number without a unit is of milliseconds, samples per second, bytes, points.

    InputError, with the line where `lines` has it."""
    known = {"p99": _TIMES, "throughput": _RATES, "memory": _SIZES, "max_drop": _PLAIN, "plan_size": _SIZES}
    out: dict[str, float] = {}
    for name, value in given.items():
        line = (lines or {}).get(name)
        at = f"{where}:{line}" if where and line else where
        if name not in known:
            raise InputError(f"no objective {str(name)[:60]!r}", where=at, why=f"there are {', '.join(known)}",
                             do="choose among these")
        if value is not None:
            out[name] = _amount(name, value, known[name], at)
    return Objectives(**out)


def _amount(name: str, value: Any, units: Mapping[str, float], where: str) -> float:
    number: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) * units[""]
    elif isinstance(value, str) and (found := _AMOUNT.fullmatch(value)):
        unit = found[2] if units is not _SIZES else found[2].upper()
        unit = unit.lower() if units is _RATES else unit
        if unit in units:
            number = float(found[1].replace("_", "").replace(",", "")) * units[unit]
    if number is None or not math.isfinite(number) or number <= 0:
        shown = ", ".join(u for u in units if u) or "none"
        raise InputError(f"{name} is {str(value)[:60]!r}", where=where,
                         why=f"an objective is a positive number, with a unit or without (units: {shown})",
                         do="write it as p99 50ms, throughput 1500, memory 1GiB, max_drop 0.5, plan_size 120MB")
    return number


def judge(wanted: Objectives, runs: Sequence[Measurement], before: Measurement | None = None) -> list[Objective]:
    """Each objective against the runs of one setting, pooled; `before` is what accuracy may be compared with.

    Held where the 95 % interval of the value lies within the limit, not held where it lies beyond, else undecided.
    Of what has no interval (memory, size), the value decides.
    """
    out = []
    if wanted.p99 is not None:
        found = pooled(runs, 0.99)
        out.append(_at_most("p99", wanted.p99, "s", found, _needed(runs)))
    if wanted.throughput is not None:
        out.append(_throughput(wanted.throughput, runs))
    if wanted.memory is not None:
        peaks = [float(r.memory.peak_bytes) for r in runs if r.memory is not None]
        out.append(_exact("memory", wanted.memory, peaks, "no-memory"))
    if wanted.max_drop is not None:
        out.append(_drop(wanted.max_drop, runs[0].accuracy, before.accuracy if before else None))
    if wanted.plan_size is not None:
        out.append(_exact("plan_size", wanted.plan_size, [float(r.plan.bytes) for r in runs if r.plan is not None],
                          "no-plan"))
    return out


def pooled(runs: Sequence[Measurement], q: float) -> Quantile | None:
    """A quantile of the latencies of several runs with its 95 % interval: of all samples together where every run has
    them, else the median of the runs' quantiles within the least and greatest ends of their intervals."""
    found = [r.latency for r in runs if r.latency is not None]
    if not found or len(found) < len(runs):
        return None
    name = f"p{round(100 * q)}"
    if len(found) == 1:
        one: Quantile = getattr(found[0], name)
        return one
    if all(l.samples for l in found):
        return quantile(np.concatenate([l.samples for l in found]), q)
    ends = [getattr(l, name) for l in found]
    lows, highs = [e.low for e in ends], [e.high for e in ends]
    return Quantile(value=float(np.median([e.value for e in ends])), low=None if None in lows else min(lows),
                    high=None if None in highs else max(highs))


def _needed(runs: Sequence[Measurement]) -> tuple[Note, ...]:
    """How many calls bound a P99 above: the greatest of n lies beyond it with probability 1 - 0.99^n (David and
    Nagaraja, "Order Statistics", 7.1)."""
    least = math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(0.99))
    count = sum(r.latency.count for r in runs if r.latency is not None)
    return (Note(code="few-calls", values={"count": count, "needed": least}),) if count < least else ()


def _at_most(goal: Goal, limit: float, unit: str, found: Quantile | None, few: tuple[Note, ...]) -> Objective:
    if found is None:
        return Objective(goal=goal, limit=limit, unit=unit, state="not measured", notes=(Note(code="no-latency"),))
    state: Verdict = "undecided"
    if found.high is not None and found.high <= limit:
        state = "held"
    elif found.low is not None and found.low > limit:
        state = "not held"
    return Objective(goal=goal, limit=limit, unit=unit, state=state, value=found.value, low=found.low, high=found.high,
                     judged="interval", notes=few if state == "undecided" else ())


def _throughput(limit: float, runs: Sequence[Measurement]) -> Objective:
    """Throughput is as uncertain as the median latency that it is the inverse of, per cent for per cent."""
    rates = [r.throughput for r in runs if r.throughput is not None]
    if not rates:
        return Objective(goal="throughput", limit=limit, unit="1/s", state="not measured",
                         notes=(Note(code="no-throughput"),))
    value, half = float(np.median(rates)), pooled(runs, 0.5)
    low = value * half.value / half.high if half and half.high else None
    high = value * half.value / half.low if half and half.low else None
    if low is None or high is None:
        return Objective(goal="throughput", limit=limit, unit="1/s", state="held" if value >= limit else "not held",
                         value=value, low=low, high=high, judged="value", notes=(Note(code="no-interval"),))
    state: Verdict = "held" if low >= limit else "not held" if high < limit else "undecided"
    return Objective(goal="throughput", limit=limit, unit="1/s", state=state, value=value, low=low, high=high,
                     judged="interval")


def _exact(goal: Goal, limit: float, values: Sequence[float], missing: str) -> Objective:
    if not values:
        return Objective(goal=goal, limit=limit, unit="bytes", state="not measured", notes=(Note(code=missing),))
    value = max(values)
    return Objective(goal=goal, limit=limit, unit="bytes", state="held" if value <= limit else "not held", value=value,
                     judged="value")


def _drop(limit: float, found: Accuracy | None, before: Accuracy | None) -> Objective:
    """The loss of accuracy: as it was judged on the same samples; else, of shares, as of two independent groups."""
    unit = found.judged.unit if found is not None and found.judged is not None else "points"
    if found is None:
        return Objective(goal="max_drop", limit=limit, unit=unit, state="not measured",
                         notes=(Note(code="no-accuracy"),))
    if found.judged is not None:
        j = found.judged
        state: Verdict = "undecided"
        if j.upper is not None and j.upper < limit:
            state = "held"
        elif j.state == "not held" and j.max_drop >= limit:
            state = "not held"
        notes: tuple[Note, ...] = (Note(code="judged", values={"reference": j.reference, "samples": found.samples}),)
        if state == "undecided" and j.needed is not None and j.max_drop == limit:
            notes += (Note(code="samples-needed", values={"needed": j.needed}),)
        return Objective(goal="max_drop", limit=limit, unit=unit, state=state, value=j.loss, high=j.upper,
                         judged="interval", notes=notes)
    if before is None or before.metric != found.metric:
        return Objective(goal="max_drop", limit=limit, unit=unit, state="not measured",
                         notes=(Note(code="no-reference", values={"metric": found.metric}),))
    if not (0 <= found.value <= 1 and 0 <= before.value <= 1 and found.metric.startswith("top")):
        return Objective(goal="max_drop", limit=limit, unit=unit, state="not measured",
                         notes=(Note(code="no-share", values={"metric": found.metric}),))
    groups = Groups(round(before.value * before.samples), before.samples, round(found.value * found.samples),
                    found.samples)
    low, high = 100 * lower_bound(groups, CONFIDENCE), 100 * upper_bound(groups, CONFIDENCE)
    state = "held" if high < limit else "not held" if low > limit else "undecided"
    return Objective(goal="max_drop", limit=limit, unit=unit, state=state, value=100 * groups.loss, low=low, high=high,
                     judged="interval", notes=(Note(code="unpaired", values={"samples": found.samples}),))
