"""Simulation of a fleet: requests wait, are put into batches, and are served by c servers.

Batches are served first come, first served, so the times of batch k follow from those of the batch before it alone; no
calendar of events is needed. Without batching this is the recursion of Kiefer and Wolfowitz ("On the theory of queues
with many servers", Transactions of the AMS 78, 1955).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapreplace
from typing import Literal

import numpy as np

from whet.decide.arrivals import Arrivals
from whet.decide.service import Service
from whet.decide.student import student
from whet.errors import InputError
from whet.measure.stats import Interval

STRETCHES = 10  # of a run, whose quantiles tell how sure the run's is
WARM_UP = 0.1  # share of a run that is not counted: it starts with an idle fleet
LEAST_REQUESTS = 2000
MOST_REQUESTS = 20_000_000
LEAST_TRACE = 100
MOST_BATCH = 65_536
MOST_SERVERS = 1_000_000
ROUNDING = 1e-12  # of a load: 8 x 45 are 360, however that is written

Dispatch = Literal["shared", "random", "round-robin"]


@dataclass(frozen=True)
class Batching:
    """A server takes up to `max_size` waiting requests at once, when so many wait or the first of them has waited
    `max_delay` seconds."""

    max_size: int = 1
    max_delay: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_size <= MOST_BATCH or not (math.isfinite(self.max_delay) and self.max_delay >= 0):
            raise InputError(f"batches need a size from 1 to {MOST_BATCH:,} and a delay from 0", why=f"{self}")


@dataclass(frozen=True)
class Simulated:
    """What a run of `requests` requests through `servers` servers gave. Times are in seconds, from arrival to answer.

    load:        arrivals per second / what the servers do with full batches.
    utilization: share of the time that servers worked.
    p99:         with its 95 % confidence interval (see `quantile_interval`).
    waited:      share of the requests that waited for a server (not for others to share a batch with).
    latencies:   of every request that was counted, in order of arrival.
    """

    servers: int
    requests: int
    load: float
    utilization: float
    mean: float
    p50: float
    p90: float
    p99: Interval
    mean_batch: float
    waited: float
    latencies: np.ndarray = field(repr=False, compare=False)


def simulate(service: Service, arrivals: Arrivals, batching: Batching = Batching(), servers: int = 1,
             requests: int = 200_000, seed: int = 0, dispatch: Dispatch = "shared") -> Simulated:
    """Run `requests` requests (of a trace: all of it) through a fleet, and state its latencies.

    dispatch: `shared`: one queue, from which the server takes that is free first; `random` and `round-robin`: every
              server has its own queue, as behind a load balancer that does not look at them.
    InputError if the fleet cannot keep up (load at or over 1): its queue would grow for as long as one simulates.
    """
    _check(servers, requests)
    load = arrivals.rate / (servers * service.capacity(batching.max_size))
    if load >= 1 - ROUNDING:
        raise InputError(f"{servers} servers cannot keep up: the load is {load:.3g}",
                         why=f"{arrivals.rate:g} requests a second against {servers} x "
                             f"{service.capacity(batching.max_size):.4g}: the queue grows without bound",
                         do="use more servers, larger batches, or a faster plan")
    arriving, serving, routing = (np.random.default_rng((seed, i)) for i in range(3))
    times = arrivals.drawn(arriving, requests)
    count = len(times)
    if count < LEAST_TRACE:
        raise InputError("the trace is too short", where=arrivals.origin, why=f"{count} requests tell no 99th "
                         f"percentile; {LEAST_TRACE} are the least", do="record more")
    if dispatch == "shared" or servers == 1:
        parts, each = [np.arange(count)], servers
    else:
        owner = routing.integers(0, servers, count) if dispatch == "random" else np.arange(count) % servers
        parts = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner, minlength=servers))[:-1])
        each = 1
    if batching.max_size == 1:
        took = service.each(serving, count)
        starts = np.empty(count)
        for part in parts:
            starts[part] = _one_by_one(times[part], took[part], each, service.spread == "deterministic")
        done, busy, batches, waited = starts + took, float(took.sum()), count, int((starts > times).sum())
    else:
        seconds = service.drawn(serving, count, batching.max_size)
        done, busy, batches, waited = np.empty(count), 0.0, 0, 0
        for part in parts:
            run = _in_batches(times[part].tolist(), part.tolist(), seconds, batching, each)
            done[part] = run.done
            busy, batches, waited = busy + run.busy, batches + run.batches, waited + run.waited
    latencies = done - times
    if arrivals.pattern != "trace":
        latencies = latencies[int(count * WARM_UP):]
    p50, p90 = np.quantile(latencies, [0.5, 0.9])
    span = max(float(done.max()), float(times[-1])) - float(times[0])
    return Simulated(servers, count, load, min(1.0, busy / (servers * span)), float(latencies.mean()), float(p50),
                     float(p90), quantile_interval(latencies, 0.99), count / max(1, batches), waited / count, latencies)


def _one_by_one(times: np.ndarray, took: np.ndarray, servers: int, constant: bool) -> np.ndarray:
    """When each request starts, of one queue: the n-th takes the server that is free first.

    One server, or services that are all alike (then the n-th request has the server of the request `servers` before
    it), need no loop: S(n) = max(A(n), S(n-1) + T(n-1)) is P(n) + max over j <= n of A(j) - P(j), with P the seconds of
    those before (Lindley, "The theory of queues with a single server", 1952).
    """
    if servers == 1 or constant:
        rounds = -(-len(times) // servers)
        a, t = np.full((rounds, servers), math.inf), np.zeros((rounds, servers))
        a.reshape(-1)[:len(times)], t.reshape(-1)[:len(times)] = times, took
        before = np.cumsum(t, axis=0) - t
        starts = before + np.maximum.accumulate(a - before, axis=0)
        return np.maximum(starts.reshape(-1)[:len(times)], times)  # rounding must not start anything early
    free = [-math.inf] * servers  # a heap: when each server is free
    out = []
    for arrived, lasts in zip(times.tolist(), took.tolist()):
        start = free[0]
        if start < arrived:
            start = arrived
        heapreplace(free, start + lasts)
        out.append(start)
    return np.array(out)


@dataclass(frozen=True)
class _Batches:
    done: np.ndarray
    busy: float
    batches: int
    waited: int


def _in_batches(times: list[float], numbers: list[int], seconds: Callable[[int, int], float], batching: Batching,
                servers: int) -> _Batches:
    """One queue, whose requests are served in batches: when each is done."""
    size, delay, count = batching.max_size, batching.max_delay, len(times)
    free = [-math.inf] * servers  # a heap: when each server is free
    ends, sizes = [], []
    i = waited = 0
    busy = 0.0
    while i < count:
        ready = times[i] + delay
        last = i + size - 1
        if last < count and times[last] < ready:
            ready = times[last]  # the batch is full before its first request has waited long enough
        start = free[0]
        if start <= ready:
            start = ready
            following = bisect_right(times, start, i + 1, min(i + size, count))
        else:
            following = bisect_right(times, start, i + 1, min(i + size, count))
            waited += following - i
        lasts = seconds(following - i, numbers[i])
        busy += lasts
        heapreplace(free, start + lasts)
        ends.append(start + lasts)
        sizes.append(following - i)
        i = following
    return _Batches(np.repeat(np.array(ends), sizes), busy, len(sizes), waited)


def quantile_interval(series: np.ndarray, q: float, confidence: float = 0.95) -> Interval:
    """The q-quantile of a stationary, dependent series and its confidence interval, by batch means.

    The series is cut into 10 stretches, whose quantiles vary as the whole's would; Student's t with 9 degrees of
    freedom (Law, "Simulation Modeling and Analysis", 5th ed., 9.5.3; few and long stretches, since short ones are still
    alike). If stretches depend on their neighbours, with correlation r, the variance is multiplied by
    (1 + r) / (1 - r), as of a first-order autoregression (Tafazzoli and Wilson, "Skart: a skewness- and
    autoregression-adjusted batch-means procedure", IIE Transactions 43, 2011).
    """
    parts = np.quantile(series[len(series) % STRETCHES:].reshape(STRETCHES, -1), q, axis=1)
    value = float(np.quantile(series, q))
    deviation = parts - parts.mean()
    total = float((deviation ** 2).sum())
    r = float((deviation[1:] * deviation[:-1]).sum()) / total if total > 0 else 0.0
    r = min(max(r, 0.0), 0.9)
    error = math.sqrt(total / (STRETCHES - 1) / STRETCHES * (1 + r) / (1 - r))
    half = student((1 + confidence) / 2, STRETCHES - 1) * error
    return Interval(value, max(0.0, value - half), value + half)


def enough_requests(service: Service, arrivals: Arrivals, load: float, queues: int = 1) -> int:
    """Requests that a run needs before its P99 and interval can be believed.

    Queues forget their past after about 2 (ca^2 + cs^2) / (1 - load)^2 arrivals, where ca and cs are the coefficients
    of variation of gaps and services (Whitt, "Planning queueing simulations", Management Science 35, 1989); the
    hundredth part of a run must hold some 25 such times. Each of `queues` queues also has to forget that it was empty.
    """
    memory = (arrivals.cv ** 2 + service.variation) / (1 - load) ** 2
    return math.ceil(max(5000 * memory, 200 * memory * queues))


def _check(servers: int, requests: int) -> None:
    if not 1 <= servers <= MOST_SERVERS:
        raise InputError(f"{servers} servers cannot be simulated", why=f"1 to {MOST_SERVERS:,} can")
    if not LEAST_REQUESTS <= requests <= MOST_REQUESTS:
        raise InputError(f"{requests:,} requests do not make a simulation",
                         why=f"{LEAST_REQUESTS:,} to {MOST_REQUESTS:,} do: a 99th percentile needs its hundredth part")
