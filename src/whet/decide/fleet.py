"""The size of a fleet: the least number of servers that keep the 99th percentile of latency below an objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from whet.decide.arrivals import Arrivals
from whet.decide.service import Service, services
from whet.decide.simulation import MOST_SERVERS, Batching, Dispatch, Simulated, simulate
from whet.errors import InputError, UnreachableError

__all__ = ["Arrivals", "Batching", "Fleet", "Service", "Simulated", "services", "simulate", "size_fleet"]

REQUESTS = 200_000  # of each simulated fleet
LONGEST = 4  # times as many where an interval lies on both sides of the objective


@dataclass(frozen=True)
class Fleet:
    """A sized fleet.

    servers:   the least number whose P99 has its upper confidence limit at or under `objective` seconds.
    spares:    servers beyond these, for failures and maintenance.
    contexts:  servers that share a device; `devices` are what `servers + spares` need.
    chosen:    the simulation of `servers`; `tried`: all that were simulated, by number of servers.
    stable:    the least number of servers that keep up at all (load under 1), whatever the latency.
    notes:     what the figures rest on, and what is not known.
    """

    service: Service
    arrivals: Arrivals
    batching: Batching
    objective: float
    servers: int
    spares: int
    contexts: int
    chosen: Simulated
    tried: tuple[Simulated, ...]
    stable: int
    dispatch: Dispatch = "shared"
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Servers with spares."""
        return self.servers + self.spares

    @property
    def devices(self) -> int:
        """Devices that hold all servers and spares."""
        return math.ceil(self.total / self.contexts)


def size_fleet(service: Service, arrivals: Arrivals, batching: Batching = Batching(), p99: float = 0.1,  # noqa: B008
               spares: int = 0, *, requests: int = REQUESTS, seed: int = 0, dispatch: Dispatch = "shared",
               progress: Callable[[str, int, int], None] | None = None) -> Fleet:
    """The least fleet whose P99 meets `p99` seconds with 95 % confidence, found by simulation.

    The search doubles the distance from the least stable fleet until one meets the objective, then halves; all fleets
    see the same requests. It takes for granted that more servers are never worse.
    UnreachableError if no number of servers meets it; InputError for figures that make no sense.
    """
    if not (math.isfinite(p99) and p99 > 0):
        raise InputError("the P99 objective must be a positive number of seconds", why=f"{p99}")
    if spares < 0:
        raise InputError("a fleet cannot have fewer than 0 spares", why=f"{spares}")
    alone = service.quantile(0.99)
    if alone > p99:
        raise UnreachableError(
            f"no fleet keeps P99 under {p99 * 1e3:.4g} ms", where=service.origin,
            why=f"{'a' if service.spread == 'deterministic' else 'one in a hundred'} request alone takes "
                f"{alone * 1e3:.4g} ms on an idle server", do="make the plan faster, or relax the objective")
    capacity = service.capacity(batching.max_size)
    stable = math.floor(arrivals.rate / capacity) + 1
    if stable > MOST_SERVERS:
        raise InputError(f"this load needs over {MOST_SERVERS:,} servers", why=f"{arrivals.rate:g} requests a second "
                         f"against {capacity:.4g} of one server", do="check the units of the figures")
    found: dict[int, Simulated] = {}

    def meets(servers: int) -> bool:
        if progress is not None:
            progress(f"P99 of {servers:,} servers", len(found), 0)
        run = simulate(service, arrivals, batching, servers, requests, seed, dispatch)
        if arrivals.pattern != "trace" and run.p99.low <= p99 < run.p99.high:
            run = simulate(service, arrivals, batching, servers, requests * LONGEST, seed, dispatch)
        found[servers] = run
        return run.p99.high <= p99

    low, high, step = stable - 1, stable, 1
    while not meets(high):
        if found[high].waited == 0 or high >= MOST_SERVERS:
            raise UnreachableError(
                f"no fleet keeps P99 under {p99 * 1e3:.4g} ms", where=service.origin,
                why=f"with {high:,} servers no request waits for one, and P99 is still "
                    f"{found[high].p99.value * 1e3:.4g} ms (at most {found[high].p99.high * 1e3:.4g})",
                do="allow smaller batches or less delay, make the plan faster, or relax the objective")
        low, high, step = high, min(high + step, MOST_SERVERS), step * 2
    while high - low > 1:
        middle = (low + high) // 2
        if meets(middle):
            high = middle
        else:
            low = middle
    return Fleet(service, arrivals, batching, p99, high, spares, service.contexts, found[high],
                 tuple(found[c] for c in sorted(found)), stable, dispatch)
