"""The size of a fleet: the least number of devices that keep the 99th percentile of latency below an objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from whet.decide.arrivals import Arrivals
from whet.decide.service import Service, services
from whet.decide.simulation import MOST_SERVERS, ROUNDING, Batching, Dispatch, Simulated, enough_requests, simulate
from whet.errors import InputError, UnreachableError

__all__ = ["Arrivals", "Batching", "Fleet", "Packing", "Service", "Simulated", "neighbours", "pack", "services",
           "simulate", "size_fleet"]

REQUESTS = 200_000  # of each simulated fleet, at least
LONGEST = 4_000_000  # at most
LEAST_TRUSTED = 0.2  # of `enough_requests`: with less, a fleet is not judged
HOPELESS = 1.5  # times the objective, under the interval of a first short run: no longer one follows
CLOSER = 4  # times the requests where an interval lies on both sides of the objective

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Fleet:
    """A sized fleet. Devices are what is bought; each holds `contexts` servers, which share it.

    servers:   on the least number of devices whose P99 has its upper confidence limit at or under `objective` seconds.
    spares:    devices beyond these, for failures and maintenance.
    chosen:    the simulation of `servers`; `tried`: all that were simulated, by number of servers.
    stable:    the least number of servers that keep up at all (load under 1), whatever the latency.
    unjudged:  fleets of fewer servers that keep up, but so narrowly that no run of 4 million requests can tell their
               P99: taken not to meet the objective.
    requests:  of every run, where the caller fixed it; None: as many as each needs.
    """

    service: Service
    arrivals: Arrivals
    batching: Batching
    objective: float
    servers: int
    spares: int
    chosen: Simulated
    tried: tuple[Simulated, ...]
    stable: int
    unjudged: tuple[int, ...] = ()
    dispatch: Dispatch = "shared"
    requests: int | None = None
    seed: int = 0

    @property
    def contexts(self) -> int:
        """Servers on a device."""
        return self.service.contexts

    @property
    def devices(self) -> int:
        """Devices, with spares."""
        return self.servers // self.contexts + self.spares

    @property
    def total(self) -> int:
        """Servers, with those of the spare devices."""
        return self.devices * self.contexts


def size_fleet(service: Service, arrivals: Arrivals, batching: Batching = Batching(), p99: float = 0.1,  # noqa: B008
               spares: int = 0, *, requests: int | None = None, seed: int = 0, dispatch: Dispatch = "shared",
               progress: Progress | None = None) -> Fleet:
    """The least fleet whose P99 meets `p99` seconds with 95 % confidence (the interval's upper end), by simulation.

    The search doubles its distance from the least stable fleet until one meets the objective, then halves; all fleets
    see the same requests. It takes for granted that more servers are never worse.
    requests: of each run; by default as many as each needs (`enough_requests`), 200,000 to 4 million, and four times as
              many where the interval lies on both sides of the objective.
    progress: called with (what, runs done, 0).
    UnreachableError if no number of servers meets it; InputError for figures that make no sense.
    """
    _check(service, arrivals, batching, p99, spares)
    contexts, capacity = service.contexts, service.capacity(batching.max_size)
    stable = math.floor(arrivals.rate / capacity * (1 + ROUNDING)) + 1
    found: dict[int, Simulated] = {}
    unjudged: list[int] = []

    def meets(devices: int) -> bool:
        servers = devices * contexts
        if progress is not None:
            progress(f"P99 of {servers:,} servers", len(found), 0)
        length = requests or _length(service, arrivals, arrivals.rate / (servers * capacity), servers, dispatch)
        if length is None:
            unjudged.append(servers)
            return False
        run = simulate(service, arrivals, batching, servers, min(length, REQUESTS), seed, dispatch)
        if length > REQUESTS and run.p99.low <= HOPELESS * p99:
            run = simulate(service, arrivals, batching, servers, length, seed, dispatch)
        if requests is None and arrivals.pattern != "trace" and run.p99.low <= p99 < run.p99.high:
            run = simulate(service, arrivals, batching, servers, min(length * CLOSER, LONGEST), seed, dispatch)
        found[servers] = run
        return run.p99.high <= p99

    most = MOST_SERVERS // contexts
    least = math.ceil(stable / contexts)
    low, high, step = least - 1, least, 1
    while not meets(high):
        run = found.get(high * contexts)
        if high >= most or (run is not None and run.waited == 0):
            raise _unreachable(service, p99, run)
        low, high, step = high, min(high + step, most), step * 2
    while high - low > 1:
        middle = (low + high) // 2
        if meets(middle):
            high = middle
        else:
            low = middle
    return Fleet(service, arrivals, batching, p99, high * contexts, spares, found[high * contexts],
                 tuple(found[c] for c in sorted(found)), stable, tuple(sorted(unjudged)), dispatch, requests, seed)


def neighbours(fleet: Fleet, points: int = 10, progress: Progress | None = None) -> tuple[Simulated, ...]:
    """Fleets from the least stable one to some beyond the chosen, for a chart: about `points` of them."""
    contexts = fleet.contexts
    first, chosen = math.ceil(fleet.stable / contexts), fleet.servers // contexts
    last = chosen + max(2, points // 3)
    step = max(1, round((last - first) / points))
    wanted = sorted({*range(first, chosen, step), chosen, *range(chosen + step, last + step, step)})
    known = {run.servers: run for run in fleet.tried}
    for i, devices in enumerate(wanted):
        servers = devices * contexts
        if servers in known or servers in fleet.unjudged:
            continue
        if progress is not None:
            progress(f"P99 of {servers:,} servers", i, len(wanted))
        load = fleet.arrivals.rate / (servers * fleet.service.capacity(fleet.batching.max_size))
        length = fleet.requests or _length(fleet.service, fleet.arrivals, load, servers, fleet.dispatch)
        if length is not None:
            known[servers] = simulate(fleet.service, fleet.arrivals, fleet.batching, servers, length, fleet.seed,
                                      fleet.dispatch)
    return tuple(known[c] for c in sorted(known) if c // contexts in wanted)


@dataclass(frozen=True)
class Packing:
    """The ways to fill a device with contexts, and the one that needs the fewest devices.

    best:     of `fleets`, by contexts on a device (the fewer contexts where devices are equal).
    refused:  contexts that were measured, but cannot be used, and why: `memory`, or `objective`.
    fits:     contexts that a device's memory holds; None: not known. Where more fit than were measured, more might do:
              nobody knows how fast they are.
    """

    best: Fleet
    fleets: tuple[Fleet, ...]
    refused: dict[int, str]
    fits: int | None
    measured: int


def pack(measured: Mapping[int, Service], arrivals: Arrivals, batching: Batching = Batching(),  # noqa: B008
         p99: float = 0.1, spares: int = 0, *, device_memory: int | None = None, requests: int | None = None,
         seed: int = 0, dispatch: Dispatch = "shared", progress: Progress | None = None) -> Packing:
    """Fleets for each number of contexts on a device that was measured (see `services`), and the best of them.

    device_memory: bytes of a device; contexts are taken to need `memory_bytes` each, which is too much where they share
                   weights. Without it, what was measured together is taken to fit, because it did.
    UnreachableError or InputError of the fewest contexts, if no number will do.
    """
    if not measured:
        raise InputError("there are no service times to size a fleet from")
    if device_memory is not None and device_memory <= 0:
        raise InputError("the memory of a device must be positive", why=f"{device_memory} bytes")
    each = max((s.memory_bytes for s in measured.values() if s.memory_bytes), default=None)
    fits = device_memory // each if device_memory is not None and each else None
    fleets, refused, failure = [], {}, None
    for contexts, service in sorted(measured.items()):
        if fits is not None and contexts > fits:
            refused[contexts] = "memory"
            continue
        try:
            fleets.append(size_fleet(service, arrivals, batching, p99, spares, requests=requests, seed=seed,
                                     dispatch=dispatch, progress=progress))
        except UnreachableError as e:
            refused[contexts] = "objective"
            failure = failure or e
    if not fleets:
        raise failure or InputError(
            "no context fits into a device", why=f"one needs {each:,} bytes, a device has {device_memory:,}",
            do="take a larger device or a smaller plan")
    best = min(fleets, key=lambda f: (f.devices, f.contexts))
    return Packing(best, tuple(fleets), refused, fits, max(measured))


def _check(service: Service, arrivals: Arrivals, batching: Batching, p99: float, spares: int) -> None:
    if not (math.isfinite(p99) and p99 > 0):
        raise InputError("the P99 objective must be a positive number of seconds", why=f"{p99}")
    if spares < 0:
        raise InputError("a fleet cannot have fewer than 0 spares", why=f"{spares}")
    alone = service.quantile(0.99)
    if alone > p99:
        raise UnreachableError(
            f"no fleet keeps P99 under {p99 * 1e3:.4g} ms", where=service.origin,
            why=f"{'a request' if service.spread == 'deterministic' else 'one request in a hundred'} alone takes "
                f"{alone * 1e3:.4g} ms on an idle server", do="make the plan faster, or relax the objective")
    capacity = service.capacity(batching.max_size)
    if arrivals.rate / capacity >= MOST_SERVERS:
        raise InputError(f"this load needs over {MOST_SERVERS:,} servers", why=f"{arrivals.rate:g} requests a second "
                         f"against {capacity:.4g} of one server", do="check the units of the figures")


def _length(service: Service, arrivals: Arrivals, load: float, servers: int, dispatch: Dispatch) -> int | None:
    """Requests of a run; None if 4 million are far too few. A trace has its own."""
    if arrivals.pattern == "trace":
        return REQUESTS
    needed = enough_requests(service, arrivals, load, 1 if dispatch == "shared" else servers)
    return None if needed * LEAST_TRUSTED > LONGEST else min(max(needed, REQUESTS), LONGEST)


def _unreachable(service: Service, p99: float, run: Simulated | None) -> UnreachableError:
    if run is None or run.waited > 0:
        return UnreachableError(f"no fleet of up to {MOST_SERVERS:,} servers keeps P99 under {p99 * 1e3:.4g} ms",
                                where=service.origin, do="check the units of the figures")
    return UnreachableError(
        f"no fleet keeps P99 under {p99 * 1e3:.4g} ms", where=service.origin,
        why=f"with {run.servers:,} or more servers no request waits for one, and P99 is still "
            f"{run.p99.value * 1e3:.4g} ms (at most {run.p99.high * 1e3:.4g})",
        do="allow smaller batches or less delay, make the plan faster, or relax the objective")
