"""What is asked of `whet forecast`, as people write it: `p99=20ms`, `loss=0.5`, `2026-12-31`, `8/10`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from whet.errors import InputError

NAMES = {"p50": "latency.p50", "p90": "latency.p90", "p99": "latency.p99", "mean": "latency.mean",
         "qps": "throughput", "memory": "memory.peak", "plan": "plan.bytes", "plan_size": "plan.bytes",
         "top1": "accuracy.top1", "top5": "accuracy.top5", "f1": "accuracy.f1", "loss": "loss", "max_drop": "loss"}
SHARES = ("accuracy.top1", "accuracy.top5", "accuracy.f1")
_TIMES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_SIZES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_SECONDS = ("latency.", "build", "cached_build", "load")
_AMOUNT = re.compile(r"([+-]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([^\s0-9]*)")


@dataclass(frozen=True)
class Target:
    """A metric, empty if it was not named, and the value to be reached, in its own unit."""

    metric: str
    value: float


def target(text: str, metric: str = "", *, plain: bool = False) -> Target:
    """`p99=20ms`, or `20ms` where `metric` says of what. plain: figures of a CSV file, whose unit is their own."""
    name, equals, amount = text.rpartition("=")
    named = NAMES.get(name.strip(), name.strip()) if equals else metric
    if not named and not plain:
        raise InputError(f"of which metric is {text!r}?", do="write --target p99=20ms")
    return Target(named, _amount(text, amount.strip(), "" if plain else named))


def _amount(text: str, amount: str, metric: str) -> float:
    found = _AMOUNT.fullmatch(amount)
    if found is None:
        raise InputError(f"not a target: {text!r}", why="a target is a number, with its unit",
                         do="write p99=20ms, throughput=1500, memory=1GiB, top1=76.5%")
    value, unit = float(found[1].replace("_", "")), found[2]
    units = _units(metric)
    key = unit if units is _TIMES else unit.lower()
    if key not in units:
        raise InputError(f"{text!r}: {f'no unit {unit!r}' if unit else 'a unit is missing'}",
                         why=f"{metric or 'it'} is told in {', '.join(u for u in units if u) or 'plain numbers'}",
                         do="write p99=20ms, throughput=1500, memory=1GiB, top1=76.5%")
    value *= units[key]
    if not math.isfinite(value):
        raise InputError(f"not a target: {text!r}", why="it is not finite")
    return value


def _units(metric: str) -> dict[str, float]:
    if metric.startswith(_SECONDS):
        return _TIMES
    if metric in ("memory.peak", "plan.bytes"):
        return _SIZES
    if metric == "throughput":
        return {"": 1.0, "/s": 1.0, "qps": 1.0}
    return {"": 1.0, "%": 0.01} if metric in SHARES else {"": 1.0, "%": 1.0} if metric == "loss" else {"": 1.0}


def direction(metric: str, better: str, base: float, value: float) -> str:
    """Which way is better: as the metric's kind has it, as --better says, else from base towards target."""
    if better not in ("", "lower", "higher"):
        raise InputError(f"--better {better}", do="give lower or higher")
    if metric in SHARES and better != "lower":
        return "share"
    if better:
        return better
    if metric.startswith((*_SECONDS, "memory.", "plan.", "error")):
        return "lower"
    return "higher" if metric == "throughput" or value > base else "lower"


def day(text: str, option: str) -> date:
    """A date; InputError for what is none."""
    try:
        return date.fromisoformat(text)
    except ValueError as e:
        raise InputError(f"{option} {text}", why=str(e), do="dates are ISO 8601, as 2026-12-31") from e


def evening(text: str) -> datetime | None:
    """The end of a day, as the forecast's own date; None for none given."""
    return datetime.combine(day(text, "--today"), time(23, 59, 59), UTC) if text else None


def percent(value: float) -> float:
    """80 or 0.8 -> 0.8: shares are told either way."""
    share = value / 100 if value > 1 else value
    if not 0 < share < 1:
        raise InputError(f"--share {value:g}", do="give a share between 0 and 100 percent, as 80")
    return share


def count(text: str) -> tuple[int, int]:
    """`8/10` -> (8, 10)."""
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
    if found is None:
        raise InputError(f"--ready-count {text}", do="give a count and a total, as 8/10")
    return int(found[1]), int(found[2])
