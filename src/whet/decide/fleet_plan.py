"""What `whet plan-fleet` found: the fleet, those around it, what it rests on and what is not known, as a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from whet.decide.fleet import Fleet, Packing, Progress, neighbours
from whet.decide.simulation import Simulated
from whet.measure import contract
from whet.measure.record import now

SCHEMA = 1
SCHEMA_FILE = f"fleet-{SCHEMA}.schema.json"
SHORT_TRACE = 10_000  # requests: fewer than a hundred lie above their P99
FEW_SAMPLES = 300  # of a batch size: with fewer, less than three lie above their 99th percentile


class _Row(Struct, frozen=True, kw_only=True):
    pass


class Note(_Row, frozen=True, kw_only=True):
    """Something that the figures rest on, or that is not known: a stable code and its figures."""

    code: str
    values: dict[str, str | float | int] = {}


class Run(_Row, frozen=True, kw_only=True):
    """A simulated fleet; times in seconds. `meets`: the upper end of P99's 95 % interval is within the objective."""

    servers: int
    devices: int
    load: float
    utilization: float
    mean: float
    p50: float
    p90: float
    p99: float
    p99_low: float
    p99_high: float
    mean_batch: float
    waited: float
    requests: int
    meets: bool


class Way(_Row, frozen=True, kw_only=True):
    """A fleet with so many contexts on each device."""

    contexts: int
    servers: int
    devices: int
    stable: int
    p99: float
    p99_high: float


class FleetPlan(_Row, frozen=True, kw_only=True):
    """The fleet that was chosen and why. Times in seconds, rates per second, memory in bytes.

    rate:     requests that the fleet is sized for: `rate_now` * (1 + growth).
    servers:  without spares; `devices`: with them; `stable`: servers that keep up at all, whatever the latency.
    unjudged: fleets so close to their limit that no simulation tells their P99; taken not to meet the objective.
    runs:     fleets around the chosen one; ways: by contexts on a device; refused: contexts that were measured and do
              not fit the memory or the objective; fits: contexts that a device's memory holds.
    """

    schema: int = SCHEMA
    date: str
    rate: float
    rate_now: float
    growth: float
    pattern: str
    cv: float
    trace: str
    objective: float
    max_batch: int
    max_delay: float
    dispatch: str
    service: str
    spread: str
    batches: dict[str, float]
    servers: int
    devices: int
    spares: int
    contexts: int
    stable: int
    unjudged: list[int]
    runs: list[Run]
    ways: list[Way]
    refused: dict[str, str]
    fits: int | None
    notes: list[Note]
    seed: int

    @property
    def chosen(self) -> Run:
        """The run of the fleet that was chosen."""
        return next(r for r in self.runs if r.servers == self.servers)


def fleet_plan(packing: Packing, rate_now: float, growth: float = 0.0, progress: Progress | None = None) -> FleetPlan:
    """The record of a sized fleet, with the fleets around it simulated for the chart."""
    f = packing.best
    runs = neighbours(f, progress=progress)
    return FleetPlan(
        date=now(), rate=f.arrivals.rate, rate_now=rate_now, growth=growth, pattern=f.arrivals.pattern,
        cv=f.arrivals.cv, trace=f.arrivals.origin, objective=f.objective, max_batch=f.batching.max_size,
        max_delay=f.batching.max_delay, dispatch=f.dispatch, service=f.service.origin, spread=f.service.spread,
        batches={str(b): s for b, s in zip(f.service.batches, f.service.seconds)}, servers=f.servers,
        devices=f.devices, spares=f.spares, contexts=f.contexts, stable=f.stable, unjudged=list(f.unjudged),
        runs=[_run(r, f) for r in runs],
        ways=[Way(contexts=w.contexts, servers=w.servers, devices=w.devices, stable=w.stable,
                  p99=w.chosen.p99.value, p99_high=w.chosen.p99.high) for w in packing.fleets],
        refused={str(k): v for k, v in packing.refused.items()}, fits=packing.fits, notes=_notes(packing, growth),
        seed=f.seed)


def _run(r: Simulated, f: Fleet) -> Run:
    return Run(servers=r.servers, devices=r.servers // f.contexts + f.spares, load=r.load, utilization=r.utilization,
               mean=r.mean, p50=r.p50, p90=r.p90, p99=r.p99.value, p99_low=r.p99.low, p99_high=r.p99.high,
               mean_batch=r.mean_batch, waited=r.waited, requests=r.requests, meets=r.p99.high <= f.objective)


def _notes(packing: Packing, growth: float) -> list[Note]:
    """What the fleet rests on, then what nobody knows."""
    f = packing.best
    found: list[tuple[str, Mapping[str, str | float | int]]] = [(f"arrivals-{f.arrivals.pattern}", {
        "cv": f.arrivals.cv, "count": len(f.arrivals.times),
        "seconds": f.arrivals.times[-1] if f.arrivals.times else 0.0})]
    if f.arrivals.times and len(f.arrivals.times) < SHORT_TRACE:
        found.append(("short-trace", {"count": len(f.arrivals.times) // 100}))
    found.append((f"dispatch-{f.dispatch}", {}))
    typed = not f.service.origin.startswith("measured")
    if f.service.spread == "exponential":
        found.append(("spread-exponential", {}))
    elif f.service.spread == "deterministic":
        found.append(("spread-none" if typed else "spread-no-samples", {}))
    elif min(len(s) for s in f.service.samples) < FEW_SAMPLES:
        found.append(("few-samples", {"count": min(len(s) for s in f.service.samples)}))
    between = [b for b in range(1, f.batching.max_size + 1) if b not in f.service.batches]
    if between:
        found.append(("interpolated", {"sizes": ", ".join(map(str, f.service.batches)), "largest": between[-1]}))
    if f.contexts > 1:
        found.append(("contexts-busy", {"contexts": f.contexts}))
    if packing.fits is None:
        found.append(("memory-unknown" if f.service.memory_bytes is None else "device-memory-unknown", {}))
    elif packing.fits > packing.measured:
        found.append(("more-fit", {"fits": packing.fits, "measured": packing.measured}))
    if f.unjudged:
        found.append(("unjudged", {"first": f.unjudged[0], "last": f.unjudged[-1]}))
    if f.spares == 0:
        found.append(("no-spares", {}))
    if growth == 0:
        found.append(("no-growth", {}))
    found.append(("not-in-it", {}))
    return [Note(code=code, values=dict(values)) for code, values in found]


def encode(plan: FleetPlan) -> bytes:
    """The plan as JSON, indented."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of a plan, as packaged."""
    return contract.packaged("whet.decide", SCHEMA_FILE)


def generate_schema() -> dict[str, Any]:
    """The JSON Schema that the types say; what is packaged must equal it."""
    return contract.generated(f"whet fleet {SCHEMA}", FleetPlan)


if __name__ == "__main__":  # python -m whet.decide.fleet_plan > src/whet/decide/fleet-1.schema.json
    print(json.dumps(generate_schema(), indent=1))
