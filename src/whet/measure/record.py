"""The measurement record: one schema for every number that whet reports.

`measurement-4.schema.json` beside this file is the contract (JSON Schema 2020-12); a test holds it equal to
the types here. Times are in seconds, memory in bytes, throughput in samples per second. Version 2 added the interval
and the judgement of an accuracy, version 3 figures that other tools state (`source`, `figures`), open-loop load, and
threads and cores that are not known, version 4 the versions of all tools and the lock (`tools`, `lock`); records of
older versions are read as they are.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from whet.errors import InputError
from whet.measure import contract

SCHEMA = 4
SCHEMA_FILE = f"measurement-{SCHEMA}.schema.json"

Share = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Sha256 = Annotated[str, Meta(pattern="^([0-9a-f]{64})?$", description="hexadecimal; empty if not known")]


class _Record(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    pass


class Model(_Record, frozen=True, kw_only=True):
    """The model: SHA-256 of the ONNX bytes and external data in order of appearance."""

    name: str
    sha256: Sha256 = ""


class PlanId(_Record, frozen=True, kw_only=True):
    """The plan: the root of its hash tree, its size, and that of its section of weights."""

    hash: str
    bytes: Annotated[int, Meta(ge=0)]
    weights: Annotated[int, Meta(ge=0)] | None = None


class Cache(_Record, frozen=True, kw_only=True):
    """A CPU cache of one core (or shared)."""

    level: Annotated[int, Meta(ge=1, le=9)]
    kind: Literal["data", "instruction", "unified"]
    bytes: Annotated[int, Meta(ge=0)]


class Gpu(_Record, frozen=True, kw_only=True):
    """A GPU that the work ran on; clocks are the highest that it may take, in MHz (0: not known)."""

    name: str
    arch: str = ""
    memory_bytes: Annotated[int, Meta(ge=0)] = 0
    driver: str = ""
    sm_clock: Annotated[int, Meta(ge=0)] = 0
    memory_clock: Annotated[int, Meta(ge=0)] = 0


class Device(_Record, frozen=True, kw_only=True):
    """The machine. `fingerprint` hashes the processor's name, architecture and features: equal on equal machines."""

    fingerprint: str
    name: str
    arch: str
    cores: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="that the process may use; null: not known")]
    features: tuple[str, ...] = ()
    caches: tuple[Cache, ...] = ()
    memory_bytes: Annotated[int, Meta(ge=0)] = 0
    kernel: str = ""
    gpus: tuple[Gpu, ...] = ()


class Load(_Record, frozen=True, kw_only=True):
    """How requests came. `closed-loop`: the next when the last is done; `open-loop`: at `rate`, whatever is done."""

    pattern: Literal["closed-loop", "open-loop", "unknown"] = "closed-loop"
    concurrency: Annotated[int, Meta(ge=1)] = 1
    rate: Annotated[Positive | None, Meta(description="requests a second that were asked for")] = None
    alternating: Annotated[tuple[str, ...], Meta(description="backends that took turns in one process")] = ()


class Quantile(_Record, frozen=True, kw_only=True):
    """A quantile with its 95 % confidence interval; an open end (null) means too few samples to bound it."""

    value: Share
    low: Share | None = None
    high: Share | None = None


class Latency(_Record, frozen=True, kw_only=True):
    """Seconds per call, all calls in order in `samples` (up to 4096; `count` is how many there were)."""

    count: Annotated[int, Meta(ge=1)]
    mean: Share
    minimum: Share
    p50: Quantile
    p90: Quantile
    p99: Quantile
    samples: tuple[Share, ...] = ()


class Memory(_Record, frozen=True, kw_only=True):
    """Resident memory of a process that loads and runs, `peak_bytes`, and of that process before, `idle_bytes`."""

    peak_bytes: Annotated[int, Meta(ge=0)]
    idle_bytes: Annotated[int, Meta(ge=0)]


class Judged(_Record, frozen=True, kw_only=True):
    """The verdict on an accuracy against a reference's on the same samples.

    The loss, its one-sided upper 95 % bound (null: unbounded) and the budget are in `unit`: points (hundredths),
    percent of the reference's, or the metric's own. `needed` samples would decide what is undecided.
    """

    reference: str
    max_drop: Positive
    unit: Literal["points", "percent", ""]
    loss: float | None
    upper: float | None
    state: Literal["held", "not held", "undecided"]
    needed: Annotated[int, Meta(ge=1)] | None = None


class Accuracy(_Record, frozen=True, kw_only=True):
    """A task metric, such as `top1`, over `samples` samples, with its 95 % interval; 1e300 stands for infinity."""

    metric: str
    value: float
    samples: Annotated[int, Meta(ge=1)]
    low: float | None = None
    high: float | None = None
    judged: Judged | None = None


class OutputError(_Record, frozen=True, kw_only=True):
    """How far outputs are from a reference's, and what was allowed."""

    reference: str
    measure: Literal["centred-relative-l2", "relative-l2"]
    value: Annotated[float, Meta(ge=0)]
    limit: Annotated[float, Meta(gt=0)] | None = None


class Limit(_Record, frozen=True, kw_only=True):
    """What the hardware can do, measured in the same run by bare loops, and the share of it that was reached.

    `seconds` is the least time that the model's arithmetic and memory traffic need at that rate;
    `fraction` is `seconds` divided by the median latency.
    """

    flops: Annotated[float, Meta(ge=0, description="floating-point operations of one call")]
    flops_per_second: Positive
    bytes_per_second: Positive | None = None
    seconds: Share
    fraction: Share


class Comparison(_Record, frozen=True, kw_only=True):
    """Ratio of medians, `backend`'s latency / ours, in the same run: over 1 means ours is faster."""

    backend: str
    precision: str
    ratio: Positive
    low: Positive
    high: Positive
    rounds: Annotated[int, Meta(ge=1)]


class Source(_Record, frozen=True, kw_only=True):
    """The other tool that measured; nothing of it is whet's own.

    `benchmark` is what the tool calls the thing it measured, `parameters` what it was called with, `measured` when that
    was, where the record's date is another: asv's is that of the commit.
    """

    tool: str
    version: str = ""
    benchmark: str = ""
    parameters: dict[str, str] = {}
    measured: Annotated[str, Meta(description="ISO 8601, UTC")] = ""


class Figure(_Record, frozen=True, kw_only=True):
    """A figure as a tool states it, with the interval that it gives, at `confidence`. Units: `s`, `bytes`, `1/s`..."""

    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    confidence: Annotated[float, Meta(gt=0, lt=1)] | None = None


class Measurement(_Record, frozen=True, kw_only=True):
    """One backend, one model, one set of shapes, one precision."""

    schema: Annotated[int, Meta(ge=1)] = SCHEMA
    date: Annotated[str, Meta(description="ISO 8601, UTC")]
    model: Model
    backend: str
    precision: str
    threads: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="null: not known")]
    shapes: dict[str, tuple[int, ...]]
    device: Device
    versions: dict[str, str]
    load: Load = Load()
    plan: PlanId | None = None
    latency: Latency | None = None
    throughput: Share | None = None
    memory: Memory | None = None
    accuracy: Accuracy | None = None
    error: OutputError | None = None
    limit: Limit | None = None
    comparisons: tuple[Comparison, ...] = ()
    build_seconds: Annotated[Share | None, Meta(description="from nothing")] = None
    cached_build_seconds: Annotated[Share | None, Meta(description="with a complete timing cache")] = None
    load_seconds: Share | None = None
    source: Annotated[Source | None, Meta(description="null: whet measured")] = None
    figures: Annotated[dict[str, Figure], Meta(description="what the fields above have no place for, by name")] = {}
    tools: Annotated[dict[str, str], Meta(description="name -> version of what measured: measure/tools.py")] = {}
    lock: Annotated[Sha256, Meta(description="SHA-256 of whet.lock; empty: none")] = ""


def now() -> str:
    """The time as records state it: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def encode(records: list[Measurement]) -> bytes:
    """Records as a JSON array, indented, with fields in a fixed order. `schema` is written always."""
    rows = [{"schema": r.schema, **msgspec.to_builtins(r)} for r in records]
    return msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n"


def decode(data: bytes, where: str = "") -> list[Measurement]:
    """Records from JSON: one or an array. InputError if they break the schema or are of a newer one."""
    try:
        rows = msgspec.json.decode(data)
        rows = rows if isinstance(rows, list) else [rows]
        newest = max((r.get("schema", 1) for r in rows if isinstance(r, dict)), default=1)
        if isinstance(newest, int) and newest > SCHEMA:
            raise InputError("the measurements are of a newer whet", where=where,
                             why=f"schema {newest}, this whet reads up to {SCHEMA}", do="update whet")
        return msgspec.convert(rows, list[Measurement])
    except (msgspec.DecodeError, TypeError, RecursionError) as e:
        raise InputError("not measurements", where=where, why=str(e), do=f"see {SCHEMA_FILE}") from e


def read(path: Path) -> list[Measurement]:
    """Records of a file. InputError if it is not there or is not one."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError("the measurements cannot be read", where=str(path), why=e.strerror or str(e),
                         do="check the path") from e
    return decode(data, str(path))


def schema() -> dict[str, Any]:
    """The JSON Schema of one record, as packaged."""
    return contract.packaged("whet.measure", SCHEMA_FILE)


def generate_schema() -> dict[str, Any]:
    """The JSON Schema that the types say; what is packaged must equal it."""
    return contract.generated(f"whet measurement {SCHEMA}", Measurement)


if __name__ == "__main__":  # python -m whet.measure.record > src/whet/measure/measurement-4.schema.json
    print(json.dumps(generate_schema(), indent=1))
