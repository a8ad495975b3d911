"""What the importers share: bounds, numbers that may be anything, and the record made of what is known."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from whet.errors import InputError
from whet.measure.device import this_device
from whet.measure.record import Device, Figure, Gpu, Latency, Load, Measurement, Model, Source
from whet.measure.stats import latency
from whet.store.results import Kept

MOST_BYTES = 256 << 20  # of a file
MOST_RECORDS = 100_000  # of a file
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Given:
    """What the person says of the measurements, where the tool does not: it comes before what the tool says.

    date: ISO 8601. here: they were taken on this machine.
    """

    model: str = ""
    sha256: str = ""
    backend: str = ""
    precision: str = ""
    threads: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    date: str = ""
    here: bool = False


@dataclass(frozen=True)
class Imported:
    """The records, which tool they are from, and what was left out; whet's own results that are no measurements."""

    tool: str
    records: list[Measurement]
    notes: tuple[str, ...] = ()
    results: tuple[Kept, ...] = ()


def parse(data: bytes, where: str) -> Any:
    """JSON, also with the NaN and Infinity that some tools write. InputError if it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise InputError("not JSON", where=where, why=str(e)[:200], do="check that the file is whole") from e


def bad(what: str, where: str, why: str = "") -> InputError:
    """An error about a file's content."""
    return InputError(what, where=where, why=why, do="check the file, and the tool's version that wrote it")


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def seconds(value: Any, scale: float = 1.0) -> float | None:
    """A time in seconds, from a number of `scale` seconds; None if it is no time."""
    found = number(value)
    return found * scale if found is not None and found >= 0 else None


def times(values: Sequence[Any], where: str, scale: float = 1.0) -> list[float]:
    """Times in seconds. InputError if one is none."""
    found = [seconds(v, scale) for v in values]
    if not found or any(s is None for s in found):
        at = next((i for i, s in enumerate(found) if s is None), 0)
        raise bad(f"no time in place {at + 1} of {len(found)}", where)
    return [s for s in found if s is not None]


def text(value: Any, most: int = 300) -> str:
    """A text, shortened; empty for whatever is none."""
    return value[:most] if isinstance(value, str) else ""


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object; empty for whatever is none."""
    return value if isinstance(value, dict) else {}


def figures(named: Mapping[str, float | None], unit: str = "s") -> dict[str, Figure]:
    """Figures of one unit, without those that are not known."""
    return {name: Figure(value=v, unit=unit) for name, v in named.items() if v is not None}


def date_of(milliseconds: Any, where: str) -> str:
    """A date from milliseconds since 1970."""
    found = number(milliseconds)
    try:
        if found is None:
            raise ValueError(f"{milliseconds!r:.40} is no time")
        return datetime.fromtimestamp(found / 1000, UTC).replace(microsecond=0).isoformat()
    except (ValueError, OverflowError, OSError) as e:
        raise bad("not a date", where, str(e)) from e


def device(given: Given, tool: str, name: str = "", arch: str = "", cores: int | None = None,
           facts: Sequence[str] = (), gpus: tuple[Gpu, ...] = ()) -> Device:
    """The machine that the tool names; its fingerprint is of these names alone, and starts with the tool's."""
    if given.here:
        return this_device()
    known = [x for x in (name, arch, *facts) if x]
    identity = hashlib.sha256("\n".join((name, arch, *facts)).encode()).hexdigest()[:12]
    return Device(fingerprint=f"{tool}:{identity}" if known else UNKNOWN, name=name or UNKNOWN, arch=arch or UNKNOWN,
                  cores=cores, gpus=gpus)


def record(given: Given, where: str, source: Source, machine: Device, *, model: str = "", date: str = "",
           backend: str = "", precision: str = "", shapes: Mapping[str, tuple[int, ...]] | None = None,
           versions: Mapping[str, str] | None = None, samples: Sequence[float] | None = None, load: Load | None = None,
           stated: Mapping[str, Figure] | None = None, **more: Any) -> Measurement:
    """A record of what is given and what the tool says. InputError where it has no model or no date."""
    name = given.model or model
    if not name:
        raise InputError("a measurement of no named model", where=where, why=f"{source.tool} does not say which",
                         do="name it: --model resnet50")
    when = given.date or date
    if not when:
        raise InputError("a measurement without a date", where=where, why=f"{source.tool} does not say when",
                         do="say it: --date 2026-01-31T12:00, or --date file for the file's own")
    found: Latency | None = latency(samples) if samples else None
    return Measurement(
        date=when, model=Model(name=name[:300], sha256=given.sha256), backend=given.backend or backend or UNKNOWN,
        precision=given.precision or precision or UNKNOWN, threads=given.threads,
        shapes=dict(given.shapes or shapes or {}), device=machine, versions=dict(versions or {}),
        load=load or Load(pattern="unknown"), latency=found, source=source, figures=dict(stated or {}), **more)
