"""A linter of claims: figures that cannot be, or that do not follow from each other.

Little's law (Little, "A proof for the queueing formula L = lambda W", Operations Research 9, 1961): requests in flight
= throughput * mean time in the system, whatever the distributions. Utilization = load / capacity: at 1 and over, a
queue grows without bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from whet.decide import claim_text
from whet.decide.result import Finding
from whet.decide.scenario import Labour, Option, Scenario, Source
from whet.decide.service import batch_size
from whet.decide.speed import Speed
from whet.decide.words import Figures, Say

# Codes are stable. Those in REFUSED are of figures that results are computed from: `whet roi` stops at them.
CODES = {
    "C101": "utilization at or over 1", "C102": "Little's law", "C103": "a percentage that does not follow",
    "C104": "frames per second that do not follow", "C105": "periods that do not match", "C106": "figures contradict",
    "C107": "a stated P99 that cannot be, or breaks the objective", "C108": "a product or ratio that does not follow",
    "C201": "stale price", "C202": "other hardware",
}
REFUSED = ("C102",)
LOOSE = 0.10  # how far stated figures may be from what follows, as rounding and different runs explain
CLOSE = 0.015  # and figures that are computed from the others in the same sentence


def lint(source: Source, speeds: Sequence[Speed | None] = ()) -> list[Finding]:
    """All that is wrong with the figures of a scenario, its measurements (where there is a speed) and its claims."""
    s = source.scenario
    out: list[Finding] = []
    for i, o in enumerate(s.options):
        out += _option(source, s, o, f"options[{i}]")
    for i, known in enumerate(speeds):
        out += _records(source, known, f"options[{i}].measurements") if known is not None else []
    out += _stated(source, s)
    for i, text in enumerate(s.claims):
        out += [_finding(source, code, "error", say, f"claims[{i}]") for code, say in claim_text.check(text)]
    return out


def lint_text(text: str, origin: str = "") -> list[Finding]:
    """The claims that do not follow in a text (of a report, a pull request), by line."""
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{origin}, line {number}".lstrip(", ")
        out += [Finding(code=code, severity="error", say=say, where=where) for code, say in claim_text.check(line)]
    return out


def _finding(source: Source, code: str, severity: str, say: Say, path: str) -> Finding:
    return Finding(code=code, severity=severity, say=say, where=source.where(path))  # type: ignore[arg-type]


def _option(source: Source, s: Scenario, o: Option, path: str) -> list[Finding]:
    out: list[Finding] = []

    def add(code: str, severity: str, say: Say, field: str) -> None:
        out.append(_finding(source, code, severity, say, f"{path}.{field}"))

    if o.instances is not None and o.throughput is not None:
        capacity = o.instances * o.throughput
        use = s.load.rate / capacity
        if use >= 1:
            add("C101", "warning", Say("utilization", {
                "option": o.name, "instances": o.instances, "throughput": o.throughput, "capacity": capacity,
                "rate": s.load.rate, "utilization": use,
                "stable": math.floor(s.load.rate / o.throughput) + 1}), "instances")
        if o.utilization is not None and abs(o.utilization - use) > LOOSE * use:
            add("C106", "warning", Say("utilization-other", {"option": o.name, "stated": o.utilization, "found": use}),
                "utilization")
    if o.utilization is not None and o.utilization >= 1 and not any(f.code == "C101" for f in out):
        add("C101", "warning", Say("utilization-stated", {"option": o.name, "utilization": o.utilization}),
            "utilization")
    if o.throughput is not None and o.latency_ms is not None and o.concurrency is not None:
        flight = o.throughput * o.latency_ms / 1e3
        values: Figures = {"option": o.name, "throughput": o.throughput, "latency": o.latency_ms, "flight": flight,
                  "concurrency": o.concurrency}
        if flight > o.concurrency * (1 + LOOSE):
            add("C102", "error", Say("littles-law", values), "throughput")
        elif flight < o.concurrency * (1 - LOOSE):
            add("C102", "warning", Say("littles-law-idle", values), "throughput")
    if o.p99_ms is not None:
        if o.latency_ms is not None and o.p99_ms < o.latency_ms:
            add("C107", "warning", Say("p99-below-mean", {"option": o.name, "p99": o.p99_ms, "mean": o.latency_ms}),
                "p99_ms")
        if o.p99_ms > s.objective.p99_ms:
            add("C107", "warning", Say("stated-p99-over", {"option": o.name, "p99": o.p99_ms,
                                                           "objective": s.objective.p99_ms}), "p99_ms")
    if o.monthly_cost is not None and o.instances is not None and o.price_per_hour is not None:
        follows = o.instances * o.price_per_hour * s.hours_per_month
        if abs(follows - o.monthly_cost) > CLOSE * max(follows, o.monthly_cost):
            add("C106", "warning", Say("monthly-cost", {
                "option": o.name, "stated": o.monthly_cost, "found": follows, "instances": o.instances,
                "price": o.price_per_hour, "hours": s.hours_per_month, "currency": s.currency}), "monthly_cost")
    return out


def _records(source: Source, known: Speed, path: str) -> list[Finding]:
    """Measurements that break Little's law: throughput * mean / batch is how many calls are in flight. A few slow calls
    move the mean and not the throughput that records state (of the median), so the lower of mean and median counts."""
    out = []
    for r in known.records:
        if r.latency is None or r.throughput is None or r.load.pattern != "closed-loop":
            continue
        seconds = min(r.latency.mean, r.latency.p50.value)
        flight = r.throughput * seconds / batch_size(r)
        if flight > r.load.concurrency * (1 + LOOSE):
            out.append(_finding(source, "C102", "error", Say("littles-law", {
                "option": f"{r.model.name}, {r.backend} {r.precision}", "throughput": r.throughput,
                "latency": 1e3 * seconds / batch_size(r), "flight": flight,
                "concurrency": r.load.concurrency}), path))
    return out


def _stated(source: Source, s: Scenario) -> list[Finding]:
    """Returns that somebody states, against the fleets and prices that they state."""
    out: list[Finding] = []
    given = s.stated
    labour = s.labour.total if isinstance(s.labour, Labour) else 0.0
    saving = given.saving_per_month
    if saving is None and s.after:
        costs = [o.monthly_cost if o.monthly_cost is not None else
                 o.instances * o.price_per_hour * s.hours_per_month
                 if o.instances is not None and o.price_per_hour is not None else None
                 for o in (s.option(s.before), s.option(s.after))]
        saving = costs[0] - costs[1] if costs[0] is not None and costs[1] is not None else None
    if saving is None or not labour:
        return out

    def add(code: str, say: Say, field: str) -> None:
        out.append(_finding(source, code, "error", say, f"stated.{field}"))

    if given.payback_months is not None and saving > 0 and _off(given.payback_months, labour / saving):
        add("C105", Say("payback-other", {"stated": given.payback_months, "found": labour / saving, "labour": labour,
                                          "saving": saving}), "payback_months")
    months = given.period_months or float(s.horizon_months)
    for field, stated, follows in (("ratio", given.ratio, saving * months / labour),
                                   ("roi", given.roi, (saving * months - labour) / labour)):
        if stated is None or not _off(stated, follows):
            continue
        fitting = next((m for m in (1, 3, 6, 12, 24, 36)
                        if not _off(stated, saving * m / labour - (field == "roi"))), 0)
        values: Figures = {"field": field, "stated": stated, "found": follows, "months": months, "fitting": fitting}
        add("C105", Say("period-fits" if fitting else "period-none", values), field)
    return out


def _off(stated: float, follows: float) -> bool:
    return abs(stated - follows) > CLOSE * max(abs(stated), abs(follows))
