"""What of a measurement record is followed over time: under which heading, and which figures.

A *setting* is everything that must be equal for two records to be comparable: model, backend, precision, shapes,
threads, machine, load. A *series* is one metric of one setting, over dates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cached_property

from whet.errors import InputError
from whet.measure.record import Load, Measurement, Quantile, Source

MOST = 2**31 - 1  # of threads and of a dimension: what databases hold in an integer
LONGEST = {"model": 300, "backend": 100, "precision": 100, "metric": 300, "unit": 50}  # characters: what an index holds


@dataclass(frozen=True)
class Setting:
    """What a record was measured with. Empty strings, and None, are what is not known; shapes as `x:8x3x224x224`."""

    model: str
    sha256: str
    backend: str
    precision: str
    threads: int | None
    shapes: str
    batch: int | None
    device: str  # the fingerprint
    load: str
    source: str  # the other tool, what it measured, and with which parameters

    @cached_property
    def key(self) -> str:
        """The same for equal settings, and for no others."""
        return hashlib.sha256(json.dumps([getattr(self, f.name) for f in fields(self)]).encode()).hexdigest()


@dataclass(frozen=True)
class Value:
    """One metric of one record; the interval where the record has one."""

    metric: str
    unit: str
    value: float
    low: float | None = None
    high: float | None = None


def setting(record: Measurement) -> Setting:
    """The setting of a record. InputError for numbers that no machine has."""
    shapes = {name: record.shapes[name] for name in sorted(record.shapes)}
    first = next(iter(record.shapes.values()), ())
    for number in (record.threads or 0, *(d for shape in shapes.values() for d in shape)):
        if not -1 <= number <= MOST:
            raise InputError(f"a measurement with {number} threads or elements", where=record.model.name,
                             why=f"at most {MOST} are stored", do="correct the record")
    for name in ("backend", "precision"):
        _short(name, getattr(record, name), record)
    _short("model", record.model.name, record)
    return Setting(
        model=record.model.name, sha256=record.model.sha256, backend=record.backend, precision=record.precision,
        threads=record.threads, shapes=",".join(f"{n}:{'x'.join(map(str, s))}" for n, s in shapes.items()),
        batch=first[0] if first else None, device=record.device.fingerprint, load=_load(record.load),
        source=_source(record.source))


def values(record: Measurement) -> Iterator[Value]:
    """The metrics of a record: its own fields under fixed names, then the figures of another tool under theirs.

    `latency.p50`, `.p90`, `.p99`, `.mean` (s), `throughput` (1/s), `memory.peak` (bytes), `accuracy.<metric>`, `error`,
    `limit.fraction`, `build`, `cached_build`, `load` (s), `plan.bytes`. A figure of a name that is taken is left out.
    """
    seen = set()
    for found in (*_own(record), *(Value(name, f.unit, f.value, f.low, f.high) for name, f in record.figures.items())):
        if found.metric not in seen:
            _short("metric", found.metric, record)
            _short("unit", found.unit, record)
            seen.add(found.metric)
            yield found


def when(record: Measurement) -> datetime:
    """The date of a record, in UTC; one without a zone is taken for UTC, as the schema has it. InputError for none."""
    try:
        found = datetime.fromisoformat(record.date)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as e:
        raise InputError(f"a measurement without a date: {record.date[:40]!r}", where=record.model.name, why=str(e),
                         do="dates are ISO 8601, as 2026-01-31T12:00:00+00:00") from e


def _short(what: str, text: str, record: Measurement) -> None:
    if len(text) > LONGEST[what]:
        raise InputError(f"a {what} of {len(text)} characters: {text[:40]}...", where=record.model.name[:80],
                         why=f"names are of {LONGEST[what]} at most", do="shorten it")


def _own(record: Measurement) -> Iterator[Value]:
    latency, accuracy = record.latency, record.accuracy
    if latency is not None:
        for name in ("p50", "p90", "p99"):
            quantile: Quantile = getattr(latency, name)
            yield Value(f"latency.{name}", "s", quantile.value, quantile.low, quantile.high)
        yield Value("latency.mean", "s", latency.mean)
    if accuracy is not None:
        yield Value(f"accuracy.{accuracy.metric}", "", accuracy.value, accuracy.low, accuracy.high)
    singles: tuple[tuple[str, str, float | None], ...] = (
        ("throughput", "1/s", record.throughput),
        ("memory.peak", "bytes", record.memory.peak_bytes if record.memory else None),
        ("error", "", record.error.value if record.error else None),
        ("limit.fraction", "", record.limit.fraction if record.limit else None),
        ("build", "s", record.build_seconds), ("cached_build", "s", record.cached_build_seconds),
        ("load", "s", record.load_seconds), ("plan.bytes", "bytes", record.plan.bytes if record.plan else None))
    for metric, unit, number in singles:
        if number is not None:
            yield Value(metric, unit, float(number))


def _load(load: Load) -> str:
    """`closed-loop 1`, `open-loop 1 at 30/s`, `unknown`."""
    if load.pattern == "unknown":
        return load.pattern
    return f"{load.pattern} {load.concurrency}" + (f" at {load.rate:g}/s" if load.rate is not None else "")


def _source(source: Source | None) -> str:
    """`asv bench.time_x (env=py3.11, n=3)`: what tells one thing that a tool measures from another."""
    if source is None:
        return ""
    given = ", ".join(f"{k}={v}" for k, v in sorted(source.parameters.items()))
    return " ".join(part for part in (source.tool, source.benchmark, f"({given})" if given else "") if part)
